"""The types of what lab writes into a run's folder, for whoever reads it back. Other keys may stand beside these."""

from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, NonNegativeInt, ValidationError, model_validator
from pydantic_core import PydanticCustomError

Moment = Annotated[float, Field(ge=0, lt=2**37, allow_inf_nan=False)]  # seconds since 1970 that a calendar has


class _Record(BaseModel):
    model_config = ConfigDict(strict=True, extra="allow")


class Change(_Record):
    """A resume."""

    time: str = ""
    changes: dict[str, Any] = {}


class Git(_Record):
    commit: str
    dirty: bool = False
    untracked: list[str] = []


class Stamp(_Record):
    command: str = ""
    began: Moment | None = None
    overrides: list[str]
    host: str = ""
    git: Git | None = None
    packages: dict[str, str] = {}
    resumed: list[Change] = []
    data: str = ""
    judges: dict[str, str] = {}


class Seconds(_Record):
    total: Annotated[float, Field(ge=0, allow_inf_nan=False)]


class Best(_Record):
    metric: str
    mode: Literal["min", "max"]
    value: float
    metrics: dict[str, float] = {}


class Results(_Record):
    status: Literal["running", "interrupted", "failed", "pruned", "finished"]
    seconds: Seconds = Seconds(total=0.0)
    parameters: NonNegativeInt | None = None
    error: str = ""
    last: dict[str, float] = {}
    best: Best | None = None
    test: dict[str, float] = {}

    @model_validator(mode="after")
    def whole(self) -> Self:
        if self.status == "finished" and self.best is None:
            raise PydanticCustomError("missing", "A finished run has best")
        return self


class Sweep(_Record):
    words: list[str]
    varied: list[str] = []


class Data(_Record):
    """`lab.data.facts.Facts` reads the rest."""

    fingerprint: str


RECORDS: dict[str, type[_Record]] = {
    "stamp.json": Stamp, "results.json": Results, "sweep.json": Sweep, "data.json": Data,
}  # fmt: skip


def validated(name: str, content: dict[str, Any]) -> dict[str, Any]:
    """Return what a file of this name holds, with every key that lab writes.

    Raises:
        ValueError: the first thing in it that is not as lab writes it.
    """
    if name not in RECORDS:
        return content
    try:
        return RECORDS[name].model_validate(content).model_dump()
    except ValidationError as error:
        raise ValueError(validation_error(error)) from error


def validation_error(error: ValidationError) -> str:
    """Return the first problem of several as one line."""
    first = error.errors(include_url=False, include_input=False)[0]
    where = ".".join(map(str, first["loc"]))
    message = first["msg"].removeprefix("Value error, ")
    return f"{where}: {message[0].lower()}{message[1:]}".removeprefix(": ")
