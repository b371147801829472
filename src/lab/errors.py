"""The one kind of error that is the user's to mend."""


class UserError(Exception):
    """What is wrong, what was expected and what to do: a line a problem, shown without a traceback.

    Raised in a `DataLoader` worker it arrives with that worker's traceback in front; `str` drops it.
    """

    def __str__(self) -> str:
        return super().__str__().rpartition(f"{__name__}.{type(self).__name__}: ")[2].strip()
