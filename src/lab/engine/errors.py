"""The errors that are shown without a traceback."""

import difflib
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import NoReturn

from lab.engine.display import printable


class UserError(Exception):
    """The user's input is wrong. The message tells what is wrong, what was expected and what to do. Exit code 2.

    Args:
        *lines: the lines of the message, one for each problem. A line break inside a line is printed as an escape.

    An error in a `DataLoader` worker arrives with the worker's traceback in front; `str` drops the traceback.
    """

    def __init__(self, *lines: str) -> None:
        super().__init__(*lines)

    def __str__(self) -> str:
        name = f"{__name__}.{type(self).__name__}: "
        return "\n".join(printable(line.rpartition(name)[2].rstrip()) for line in self.args)


class RunError(UserError):
    """A run that started correctly could not continue: it diverged, the disk is full, a process died. Exit code 1."""


PRUNED = 75  # an exit code


class Pruned(SystemExit):
    """The sweep's pruner has stopped this run early, because other trials score better."""

    def __init__(self) -> None:
        super().__init__(PRUNED)


@contextmanager
def blaming(cause: str) -> Iterator[None]:
    """Turn an OSError into a RunError whose message starts with `cause`. A closed pipe is handled by `cli`."""
    try:
        yield
    except BrokenPipeError:
        raise
    except OSError as error:
        raise RunError(f"error: {cause}: {error.strerror or error}.") from error


def fail(problems: Sequence[str]) -> NoReturn:
    """Raise a UserError with a line for each problem."""
    raise UserError(*(f"error: {problem}" for problem in problems))


def unknown(kind: str, name: str, names: Iterable[str], inner: Iterable[str] = ()) -> str:
    """The message for an unknown name: the most similar name, or all names.

    Args:
        kind: the kind of the name, such as key.
        name: the unknown name.
        names: the known names.
        inner: dotted names, such as `optimizer.lr`; only the last part of each is compared.
    """
    options = sorted(map(str, names))
    last_parts = {each.rpartition(".")[2]: each for each in inner}
    if found := difflib.get_close_matches(name, [*last_parts, *options], n=1, cutoff=0.6):
        return f"unknown {kind} {name}. Did you mean {last_parts.get(found[0], found[0])}?"
    near = difflib.get_close_matches(name, options, n=1, cutoff=0.5)
    hint = f"Did you mean {near[0]}?" if near else f"There are: {', '.join(options)}."
    return f"unknown {kind} {name}. {hint}"


def one_line(error: BaseException) -> str:
    """The message of an error in one line, without the types that OmegaConf appends."""
    from omegaconf.errors import OmegaConfBaseException  # `lab runs` starts without it

    if isinstance(error, OmegaConfBaseException) and error.full_key and error.msg:
        return " ".join(f"{error.full_key}: {error.msg.splitlines()[0]}".split())
    return " ".join(str(error if str(error) else error.__cause__).split())
