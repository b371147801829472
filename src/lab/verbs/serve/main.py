"""`lab serve`: serve the predictions of a finished run or an exported model over HTTP.

This module imports nothing heavy: serving an exported model does not load torch.
"""

import ipaddress
import signal
import socket
import sys
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated

from omegaconf import DictConfig
from pydantic import Field, PositiveInt

from lab.engine.config.settings import wrong_settings
from lab.engine.display import say
from lab.engine.errors import UserError, fail
from lab.verbs import predictor

PIL_LIMIT = 89  # megapixels; PIL refuses larger images as decompression bombs
EXIT_CODES = {signal.SIGTERM: 0, signal.SIGINT: 130}


@dataclass
class Settings:
    """The types of those keys of conf/serve.yaml whose defaults do not show them."""

    port: Annotated[int, Field(ge=0, le=65535)]
    top_k: PositiveInt
    max_batch: Annotated[int, Field(ge=1, le=4096)]
    max_wait_ms: Annotated[float, Field(ge=0, le=1000)]
    max_body_mb: Annotated[float, Field(ge=0.001, le=1000)]
    max_megapixels: Annotated[float, Field(ge=0.001, le=PIL_LIMIT)]
    timeout_s: Annotated[float, Field(ge=0.1, le=3600)]


def main(cfg: DictConfig) -> None:
    check(cfg)
    for number, code in EXIT_CODES.items():
        signal.signal(number, lambda *_, code=code: sys.exit(code))
    # bound before the model is loaded, so that a taken port is reported at once
    with bound_socket(str(cfg.host), cfg.port) as listener:
        run(cfg, predictor.from_config(cfg), listener)


def check(cfg: DictConfig) -> None:
    """Raises UserError if the config is invalid."""
    problems = [*wrong_settings("serve", cfg, Settings), *predictor.wrong_source(cfg)]
    if not all(map(find_spec, ("fastapi", "uvicorn", "python_multipart"))):
        problems.append("serve: this needs FastAPI and uvicorn: pip install 'lab-template[serve]'")
    if problems:
        fail(problems)


def bound_socket(host: str, port: int) -> socket.socket:
    """A socket that is bound but does not listen yet.

    Raises:
        UserError: the port is taken, or the host is not an address of this machine.
    """
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        # without the protocol, asyncio does not set TCP_NODELAY, and answers take 40 ms longer
        listener = socket.socket(family, kind, protocol)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
    except (OSError, UnicodeError) as error:
        reason = getattr(error, "strerror", None) or error
        raise UserError(f"error: host={host} port={port}: cannot listen there: {reason}. Choose another.") from error
    return listener


def run(cfg: DictConfig, model: predictor.Predictor, listener: socket.socket) -> None:
    """Serve until SIGTERM or Ctrl-C, then finish the open requests."""
    from lab.verbs.serve.limits import QUEUE, Server
    from lab.verbs.serve.server import build

    host, port = listener.getsockname()[:2]
    local = ipaddress.ip_address(host.partition("%")[0]).is_loopback
    name = Path(cfg.run or cfg.model)
    app = build(cfg, model, str(name), {"localhost", "127.0.0.1", "[::1]", str(cfg.host)} if local else None)
    listener.listen(QUEUE)
    shown = f"[{host}]" if ":" in host else host
    say(f"{name}: http://{shown}:{port}   stop with Ctrl-C")
    if not local:
        say(f"warning: host={cfg.host}: everyone who can reach the port can use it; there is no login and no TLS.")
    Server(app, cfg.timeout_s, app.state.stop).run(sockets=[listener])
