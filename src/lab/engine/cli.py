"""`lab VERB …`: each verb is a Hydra app. Heavy modules such as torch are imported when a job starts."""

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
from lab.engine.training.import_quirks import light_imports

VERBS = {
    "train": "train an experiment and test its best weights; the run folder keeps everything",
    "data": "report which data an experiment uses and leaves out; nothing is trained",
    "tune": "suggest a learning rate or a batch size for an experiment, with a plot",
    "test": "compute the test metrics of a finished run again",
    "predict": "predict your own files with a finished run or an exported model",
    "serve": "predict over HTTP with a finished run or an exported model; has a web page",
    "explain": "show which pixels or words drove the predictions of a finished run",
    "export": "write a finished run as one file that predicts without lab: ONNX, torch.export, AOTInductor",
}
WITHOUT_HYDRA = {
    "runs": "list the runs as a table; compare, rerun or archive them",
    "report": "write one HTML page about a run, or about several side by side",
    "new": "make a project that uses lab; in a project, add an experiment, net, data, task or feature",
}
VERB_FOLDER = Path(__file__).parents[1] / "verbs"
MULTIRUN = {"-m", "--multirun"}
LIGHT = ("predict", "serve")  # they import heavy modules themselves, when they need them


def main() -> None:
    environment.use_utf8()
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):  # the locale may lack a letter of a file name
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
    elif verb == "rank":  # Lightning starts the ranks 1, 2, … of a run with it
        import_heavy("lab.train").join(*arguments)
    else:
        _run(verb, arguments)


def exit_code(work: Callable[[], Any]) -> int:
    """Call `work` and return the exit code. A user's error is printed as one line, any other with its traceback."""
    try:
        work()
    except KeyboardInterrupt:
        return 130
    except SystemExit as error:
        return error.code if isinstance(error.code, int) else int(error.code is not None)
    except BrokenPipeError:  # the reader of the output has closed it, as `head` does
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        return 1
    except Exception as error:
        error = _worker_error(error)
        if _is_users(error):
            say(*_message(error).split("\n"), file=sys.stderr)
            return _code(error)
        say(*traceback.format_exc().rstrip().split("\n"), file=sys.stderr)
        return 1
    return 0


def _run(verb: str, arguments: Sequence[str]) -> None:
    from lab.engine.config.command_line import check_command_line
    from lab.engine.config.run_overrides import add_run_overrides, resolve_latest
    from lab.engine.config.words import literals, value_of
    from lab.engine.errors import fail, unknown

    if verb not in VERBS:
        fail([unknown("verb", verb, [*VERBS, *WITHOUT_HYDRA])])
    flags_last = sorted(arguments, key=lambda word: word[:1] == "-" or not ("=" in word or word[:1] == "~"))
    arguments = resolve_latest(literals(flags_last, multirun=bool(MULTIRUN & set(arguments))))
    if verb == "train":
        arguments = add_run_overrides(arguments)
    sys.argv[1:] = arguments
    secrets.learn(value_of(word) for word in arguments if "${" in word)
    if check_command_line(verb, arguments) and verb == "train":
        sys.exit(import_heavy("lab.sweep.main").main(arguments))
    _hydra_app(verb, "sweep" if verb == "train" and MULTIRUN & set(arguments) else verb)


def _hydra_app(verb: str, config: str) -> None:
    """Compose conf/CONFIG.yaml and run the verb, or show the config or its help."""
    import hydra

    from lab.engine.config import search_path
    from lab.engine.config.compose import CONF, freeze

    search_path.install()
    os.environ["HYDRA_FULL_ERROR"] = "1"  # Hydra raises errors, and `main` prints them

    def job(cfg: Any) -> None:
        timing.lap("compose")
        freeze(cfg)
        module = (import_module if verb in LIGHT else import_heavy)(_module(verb))
        timing.lap("import")
        if code := exit_code(lambda: module.main(cfg)):  # printed here, before Hydra adds lines
            sys.exit(code)
        timing.restart()

    hydra.main(config_path=str(CONF), config_name=config, version_base="1.3")(job)()


def _module(verb: str) -> str:
    if verb == "train":
        return "lab.train"
    return f"lab.verbs.{verb}.main" if (VERB_FOLDER / verb).is_dir() else f"lab.verbs.{verb}"


def import_heavy(name: str) -> ModuleType:
    """Import a module that imports torch and Lightning."""
    with light_imports():
        return import_module(name)


def _worker_error(error: Exception) -> Exception:
    """Turn torch's error about a killed or stuck `DataLoader` worker into a `RunError`."""
    from lab.engine.errors import RunError

    if not (isinstance(error, RuntimeError) and str(error).startswith("DataLoader ")):
        return error
    return RunError(
        f"error: data: {' '.join(str(error).split())} It may have run out of memory, or the disk is"
        " gone. data.num_workers=0 shows its error; data.worker_timeout limits the seconds of a batch."
    )


def _is_users(error: Exception) -> bool:
    from hydra.errors import HydraException
    from omegaconf.errors import OmegaConfBaseException

    from lab.engine.errors import UserError

    return isinstance(error, (UserError, HydraException, OmegaConfBaseException, PermissionError))


def _message(error: Exception) -> str:
    """The message of an error; those of Hydra and OmegaConf are put in one line."""
    from lab.engine.errors import UserError, one_line

    return str(error) if isinstance(error, UserError) else f"error: {one_line(error)}"


def _code(error: Exception) -> int:
    from lab.engine.errors import RunError

    return 1 if isinstance(error, RunError) else 2


def _complete(arguments: Sequence[str]) -> None:
    """Complete the line in `COMP_LINE` for Hydra's `lab -sc query=bash`; the verb selects the config."""
    line = os.environ.get("COMP_LINE", "")
    _, _, rest = line.strip().partition(" ")
    verb, space, rest = rest.lstrip().partition(" ")
    if arguments[0].startswith("query=") and (verb not in VERBS or (not space and not line.endswith(" "))):
        say(" ".join(v for v in [*VERBS, *WITHOUT_HYDRA] if v.startswith(verb)))
        return
    os.environ["COMP_LINE"] = f"lab {rest}"
    sys.argv[1:] = ["-sc", *arguments]
    config = verb if verb in VERBS else "train"
    _hydra_app(config, "sweep" if config == "train" and MULTIRUN & set(rest.split()) else config)


def _usage() -> str:
    verbs = "\n".join(f"  lab {verb:<9} {does}" for verb, does in (VERBS | WITHOUT_HYDRA).items())
    return f"""{verbs}

  lab train                        list the experiments
  lab train --help                 list all groups and keys
  lab train experiment=digits      train an experiment; key=value changes a setting
  eval "$(lab -sc install=bash)"   tab completion"""
