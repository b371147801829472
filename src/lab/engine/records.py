"""The JSON files of a run's folder as pydantic models, which check them when they are read. Other keys are allowed."""

from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, NonNegativeInt, ValidationError, model_validator
from pydantic_core import PydanticCustomError

Moment = Annotated[float, Field(ge=0, lt=2**37, allow_inf_nan=False)]  # seconds since 1970 that `datetime` accepts


class _Record(BaseModel):
    model_config = ConfigDict(strict=True, extra="allow")


class Resume(_Record):
    """One resume of a run: its time, and the settings that changed, by key."""

    time: str = ""
    changes: dict[str, Any] = {}


class Git(_Record):
    commit: str
    dirty: bool = False
    untracked: list[str] = []


class Stamp(_Record):
    """`stamp.json`: where a run came from."""

    format: int = 0
    command: str = ""
    began: Moment | None = None
    overrides: list[str]
    host: str = ""
    git: Git | None = None
    packages: dict[str, str] = {}
    resumed: list[Resume] = []
    data: str = ""
    judges: dict[str, str] = {}
    choices: dict[str, Any] = {}


class Seconds(_Record):
    total: Annotated[float, Field(ge=0, allow_inf_nan=False)]


class Best(_Record):
    metric: str
    mode: Literal["min", "max"]
    value: float
    metrics: dict[str, float] = {}


class Results(_Record):
    """`results.json`."""

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
            raise PydanticCustomError("missing", "The results of a finished run must have best")
        return self


class Sweep(_Record):
    """`sweep.json`: the overrides of a sweep, and the keys in which its runs differ."""

    words: list[str]
    varied: list[str] = []


class DataFacts(_Record):
    """`data.json`: `lab.data.facts.Facts` reads the other keys."""

    fingerprint: str


RECORDS: dict[str, type[_Record]] = {
    "stamp.json": Stamp, "results.json": Results, "sweep.json": Sweep, "data.json": DataFacts,
}  # fmt: skip


def validated(name: str, content: dict[str, Any]) -> dict[str, Any]:
    """Check the content of a file of this name, and add the defaults of missing keys.

    Raises:
        ValueError: the first value of a wrong type.
    """
    if name not in RECORDS:
        return content
    try:
        return RECORDS[name].model_validate(content).model_dump()
    except ValidationError as error:
        raise ValueError(validation_error(error)) from error


def validation_error(error: ValidationError) -> str:
    """The first of pydantic's problems as one line: the key, and what was expected."""
    problem = error.errors(include_url=False, include_input=False)[0]
    key = ".".join(map(str, problem["loc"]))
    message = problem["msg"].removeprefix("Value error, ")
    return f"{key}: {message[0].lower()}{message[1:]}".removeprefix(": ")
