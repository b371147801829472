"""The errors that are shown without a traceback."""

import difflib
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import NoReturn

from omegaconf.errors import OmegaConfBaseException

from lab.engine.display import printable


class UserError(Exception):
    """The user's input is wrong. The message says what is wrong, what was expected and what to do. Exit code 2.

    Args:
        *lines: of the message, one for each problem. A line break inside a line is shown as an escape.

    Raised in a `DataLoader` worker, the error arrives with the worker's traceback in front, which `str` drops.
    """

    def __init__(self, *lines: str) -> None:
        super().__init__(*lines)

    def __str__(self) -> str:
        name = f"{__name__}.{type(self).__name__}: "
        return "\n".join(printable(line.rpartition(name)[2].rstrip()) for line in self.args)


class RunError(UserError):
    """A run that started correctly could not continue: its numbers, its disk, its processes. Exit code 1."""


PRUNED = 75  # an exit code


class Pruned(SystemExit):
    """A sweep has ended this run early: it was not worth its end."""

    def __init__(self) -> None:
        super().__init__(PRUNED)


@contextmanager
def blaming(what: str) -> Iterator[None]:
    """Turns an OSError into a RunError that begins with `what`. A closed pipe is left to `cli`, which ends silently."""
    try:
        yield
    except BrokenPipeError:
        raise
    except OSError as error:
        raise RunError(f"error: {what}: {error.strerror or error}.") from error


def fail(problems: Sequence[str]) -> NoReturn:
    raise UserError(*(f"error: {problem}" for problem in problems))


def unknown(kind: str, name: str, names: Iterable[str]) -> str:
    """The sentence for a name that is not among those it should be."""
    options = sorted(map(str, names))
    near = difflib.get_close_matches(name, options, n=1, cutoff=0.5)
    hint = f"Did you mean {near[0]}?" if near else f"There are: {', '.join(options)}."
    return f"unknown {kind} {name}. {hint}"


def one_line(error: BaseException) -> str:
    """An error's message, without the lines about types that OmegaConf adds."""
    if isinstance(error, OmegaConfBaseException) and error.full_key and error.msg:
        return " ".join(f"{error.full_key}: {error.msg.splitlines()[0]}".split())
    return " ".join(str(error if str(error) else error.__cause__).split())
