"""The kinds of error that are said in a line, without a traceback."""


class UserError(Exception):
    """What the user gave is wrong: what it is, what was expected and what to do, a line a problem. Exit code 2.

    Raised in a `DataLoader` worker it arrives with that worker's traceback in front; `str` drops it.
    """

    def __str__(self) -> str:
        return super().__str__().rpartition(f"{__name__}.{type(self).__name__}: ")[2].strip()


class RunError(UserError):
    """A run that was right to start could not go on: its numbers, its disk, its processes. Exit code 1."""


PRUNED = 75  # an exit code


class Pruned(SystemExit):
    """A sweep has ended this run early: it was not worth its end."""

    def __init__(self) -> None:
        super().__init__(PRUNED)
