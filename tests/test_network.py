"""No verb asks anything of a network: what is typed, trained and answered stays on the machine."""

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import forked
from conftest import LAB, TINY
from PIL import Image

from lab import cli

LOCAL = ("127.", "::1", "localhost", "0.0.0.0")
EVENTS = ("socket.getaddrinfo", "socket.gethostbyname", "socket.connect", "socket.sendto")
VERBS = {
    "train": f"experiment=digits {TINY} run=run",
    "tune": "experiment=digits data.tiny=true net=mlp net.widths=[8] trainer=cpu lr.steps=20 figures=false",
    "data": "experiment=digits data.tiny=true",
    "test": "run=run",
    "predict": "run=run input=x.png",
    "explain": "run=run input=x.png",
    "export": "run=run format=torch_export",
    "serve": "run=run port=0",
    "runs": "--log-dir .",
    "report": "run=run",
}


def watch(said):
    """Refuse every address that is not this machine's, and write it down."""

    def hook(event, arguments):
        if event not in EVENTS:
            return
        place = arguments[0] if event.startswith("socket.get") else arguments[1]
        host = place[0] if isinstance(place, tuple) else place
        host = host.decode() if isinstance(host, bytes) else host
        if host and not str(host).startswith((*LOCAL, "/")):
            said(f"{event} {host}")
            raise OSError("no network here")

    sys.addaudithook(hook)


def interrupt(out):
    """As Ctrl-C does, once the server has said where it listens."""
    while "http://127.0.0.1:" not in Path(out).read_text():
        time.sleep(0.05)
    os.kill(os.getpid(), signal.SIGINT)


def every_verb(folder, out):
    from hydra.core.global_hydra import GlobalHydra

    os.chdir(folder)
    file = os.open(out, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(file, 1), os.dup2(file, 2)
    os.environ.pop("CI", None)
    watch(lambda line: print("NETWORK", line, file=sys.stderr, flush=True))
    for verb, words in VERBS.items():
        sys.argv = [str(LAB), verb, *words.split()]
        if verb == "serve":
            threading.Thread(target=interrupt, args=(out,), daemon=True).start()
        code = cli.exit_code(cli.main)
        GlobalHydra.instance().clear()
        print("ENDED", verb, code, file=sys.stderr, flush=True)
    os._exit(0)


def test_no_verb_calls_home(tmp_path):
    Image.new("L", (8, 8)).save(tmp_path / "x.png")
    process = forked.SERVER.Process(target=every_verb, args=(tmp_path, str(tmp_path / "err")))
    process.start()
    process.join(200)
    lines = (tmp_path / "err").read_text().splitlines()
    ended = {line.split()[1]: line.split()[2] for line in lines if line.startswith("ENDED ")}
    assert ended.keys() == VERBS.keys(), lines
    assert [line for line in lines if line.startswith("NETWORK ")] == []
    assert set(ended.values()) <= {"0", "130"}, "\n".join(lines)


def test_onnxruntime_has_no_device_id(tmp_path):
    environ = {name: value for name, value in os.environ.items() if name not in ("CI", "ORT_DISABLE_TELEMETRY")}
    code = "import lab, onnxruntime"
    subprocess.run([sys.executable, "-c", code], env=environ | {"HOME": str(tmp_path)}, check=True)
    assert list(tmp_path.rglob("*")) == []
