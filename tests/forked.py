"""The `lab` command in a process forked from one that has imported what is heavy: each start costs no seconds."""

import atexit
import contextlib
import multiprocessing
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path

SERVER = multiprocessing.get_context("forkserver")
PRELOAD = (  # a command that needs one of these would import it for itself
    "lab.train", "lab.sweep.main", "lab.verbs.tune.main", "lab.verbs.test", "lab.verbs.predict",
    "lab.verbs.export.main", "lab.verbs.explain.main", "lab.engine.cli", "lab.data.images", "lab.data.text",
    "captum.attr", "onnx.reference", "onnxscript.optimizer",
    "tensorboard.backend.event_processing.event_accumulator", "torch.onnx._internal.exporter._core",
    "torch.utils.tensorboard", "torchvision.transforms.v2",
)  # fmt: skip
SERVER.set_forkserver_preload(list(PRELOAD))


def run(command: list[str], folder: Path, env: Mapping[str, str], timeout: float) -> subprocess.CompletedProcess[str]:
    """As subprocess.run."""
    with tempfile.TemporaryDirectory() as place:
        out, err = f"{place}/out", f"{place}/err"
        process = SERVER.Process(target=work, args=(command, folder, dict(env), out, err))
        process.start()
        process.join(timeout)
        if process.is_alive():
            process.kill()
            raise subprocess.TimeoutExpired(command, timeout, Path(out).read_bytes(), Path(err).read_bytes())
        assert process.exitcode is not None
        return subprocess.CompletedProcess(command, process.exitcode, Path(out).read_text(), Path(err).read_text())


def work(command: list[str], folder: Path, environ: dict[str, str], out: str, err: str) -> None:
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environ)
    for number, path in ((1, out), (2, err)):
        os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT), number)
    sys.argv = command
    sys.path[:0] = [path for path in environ.get("PYTHONPATH", "").split(os.pathsep) if path]
    sys.modules.pop("sitecustomize", None)
    with contextlib.suppress(ImportError):
        import sitecustomize  # noqa: F401  as Python does where it starts
    from lab.engine import cli, timing

    timing.restart()
    code = 1
    try:
        cli.main()
        code = 0
    except SystemExit as error:
        code = error.code if isinstance(error.code, int) else int(error.code is not None)
    finally:
        atexit._run_exitfuncs()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
