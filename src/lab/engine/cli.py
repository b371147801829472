"""`lab VERB …`: each verb is a Hydra app. Nothing heavy is imported before a job starts."""

import gc
import os
import sys
import traceback
from collections.abc import Callable, Sequence
from importlib import import_module
from io import TextIOWrapper
from pathlib import Path
from types import ModuleType
from typing import Any

from lab.engine import secrets, timing
from lab.engine.display import say
from lab.engine.launch import environment

VERBS = {
    "train": "fit an experiment, test its best weights, keep both in a run folder",
    "data": "what was found in the data of an experiment, used and left out, before training",
    "tune": "a learning rate or a batch size to begin with, and a picture",
    "test": "the test metrics of a finished run, again",
    "predict": "the answers of a finished run, or an exported model, for your own files",
    "serve": "the same for programs and for people: HTTP, with a page to try it on",
    "explain": "show which pixels or words drove the predictions of a finished run",
    "export": "a finished run as a file that answers without lab: ONNX, torch.export, AOTInductor",
}
WITHOUT_HYDRA = {
    "runs": "the runs there are, as a table; compare, rerun, archive them",
    "report": "one HTML page about a run, or about several side by side",
}
VERB_FOLDER = Path(__file__).parents[1] / "verbs"
LIGHT = ("predict", "serve")  # they import what is heavy themselves, where it is needed


def main() -> None:
    environment.use_utf8()
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):  # a name ends no run where the locale has no letters for it
            stream.reconfigure(errors="backslashreplace")
    with secrets.redact_output():
        code = exit_code(_verb)
    if code:
        sys.exit(code)


def _verb() -> None:
    environment.drop_stale_ranks()
    verb, *arguments = sys.argv[1:] or ["help"]
    if verb in ("help", "--help", "-h"):
        say(*_usage().split("\n"))
    elif verb == "-sc":
        _complete(arguments)
    elif verb in WITHOUT_HYDRA:
        import_module(_module(verb)).main(arguments)
    elif verb == "rank":  # how Lightning starts ranks 1, 2, … of a run: see train.py
        import_heavy("lab.train").join(*arguments)
    else:
        _run(verb, arguments)


def exit_code(work: Callable[[], Any]) -> int:
    """Do something. An error that is the user's is said in a line, any other with its traceback."""
    try:
        work()
    except KeyboardInterrupt:
        return 130
    except SystemExit as error:
        return error.code if isinstance(error.code, int) else int(error.code is not None)
    except BrokenPipeError:  # who reads the output has enough of it
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        return 1
    except Exception as error:
        error = _of_a_worker(error)
        if _is_users(error):
            say(*_said(error).split("\n"), file=sys.stderr)
            return _code(error)
        say(*traceback.format_exc().rstrip().split("\n"), file=sys.stderr)
        return 1
    return 0


def _run(verb: str, arguments: Sequence[str]) -> None:
    from lab.engine.config.command_line import check_command_line, with_latest, with_the_runs_own
    from lab.engine.config.words import literals, value_of
    from lab.engine.errors import fail, unknown

    if verb not in VERBS:
        fail([unknown("verb", verb, [*VERBS, *WITHOUT_HYDRA])])
    flags_last = sorted(arguments, key=lambda word: word[:1] == "-" or not ("=" in word or word[:1] == "~"))
    arguments = with_latest(literals(flags_last, multirun=bool({"-m", "--multirun"} & set(arguments))))
    if verb == "train":
        arguments = with_the_runs_own(arguments)
    sys.argv[1:] = arguments
    secrets.learn(value_of(word) for word in arguments if "${" in word)
    if check_command_line(verb, arguments) and verb == "train":
        sys.exit(import_heavy("lab.sweep.main").main(arguments))
    _hydra_app(verb)


def _hydra_app(verb: str) -> None:
    import hydra

    from lab.engine.config import search_path
    from lab.engine.config.compose import CONF, freeze

    search_path.install()
    os.environ["HYDRA_FULL_ERROR"] = "1"  # Hydra raises what went wrong; `main` says it

    def job(cfg: Any) -> None:
        timing.lap("compose")
        freeze(cfg)
        module = (import_module if verb in LIGHT else import_heavy)(_module(verb))
        timing.lap("import")
        if code := exit_code(lambda: module.main(cfg)):  # said here, before Hydra puts its own lines around it
            sys.exit(code)
        timing.restart()

    hydra.main(config_path=str(CONF), config_name=verb, version_base="1.3")(job)()


def _module(verb: str) -> str:
    if verb == "train":
        return "lab.train"
    return f"lab.verbs.{verb}.main" if (VERB_FOLDER / verb).is_dir() else f"lab.verbs.{verb}"


def import_heavy(name: str) -> ModuleType:
    """Import what a job runs, a third faster: torchmetrics loads all of SciPy's signal processing to patch one name."""
    gc.disable()  # there is nothing to collect in modules that are being loaded
    signal = ModuleType("scipy.signal")
    vars(signal)["hamming"] = None
    if "torchmetrics" not in sys.modules and sys.modules.setdefault("scipy.signal", signal) is signal:
        import torchmetrics  # noqa: F401

        del sys.modules["scipy.signal"]
    try:
        return import_module(name)
    finally:
        gc.enable()


def _of_a_worker(error: Exception) -> Exception:
    """What torch says when a process that loads data was killed or is stuck, as an error that is said in a line."""
    from lab.engine.errors import RunError

    if not (isinstance(error, RuntimeError) and str(error).startswith("DataLoader ")):
        return error
    return RunError(
        f"error: data: {' '.join(str(error).split())} Was there too little memory, or is the disk gone?"
        " data.num_workers=0 shows what it does; data.worker_timeout is how long a batch may take."
    )


def _is_users(error: Exception) -> bool:
    from hydra.errors import HydraException, InstantiationException
    from omegaconf.errors import OmegaConfBaseException

    from lab.engine.errors import UserError

    if isinstance(error, InstantiationException):
        return False
    return isinstance(error, (UserError, HydraException, OmegaConfBaseException, PermissionError))


def _said(error: Exception) -> str:
    """Hydra's and OmegaConf's own errors take several lines."""
    from lab.engine.errors import UserError, one_line

    return str(error) if isinstance(error, UserError) else f"error: {one_line(error)}"


def _code(error: Exception) -> int:
    from lab.engine.errors import RunError

    return 1 if isinstance(error, RunError) else 2


def _complete(arguments: Sequence[str]) -> None:
    """Hydra's tab completion asks `lab -sc query=bash`, with the line in `COMP_LINE`: the verb picks the app."""
    line = os.environ.get("COMP_LINE", "")
    _, _, rest = line.strip().partition(" ")
    verb, space, rest = rest.lstrip().partition(" ")
    if arguments[0].startswith("query=") and (verb not in VERBS or (not space and not line.endswith(" "))):
        say(" ".join(v for v in [*VERBS, *WITHOUT_HYDRA] if v.startswith(verb)))
        return
    os.environ["COMP_LINE"] = f"lab {rest}"
    sys.argv[1:] = ["-sc", *arguments]
    _hydra_app(verb if verb in VERBS else "train")


def _usage() -> str:
    verbs = "\n".join(f"  lab {verb:<9} {does}" for verb, does in (VERBS | WITHOUT_HYDRA).items())
    return f"""{verbs}

  lab train                        the experiments
  lab train --help                 everything that can be set
  lab train experiment=digits      train one; then key=value, as many as you like
  eval "$(lab -sc install=bash)"   tab completion"""
