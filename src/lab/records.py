"""The types of what lab writes into a run's folder, for whoever reads it back. Other keys may stand beside these."""

from typing import Any

from pydantic import BaseModel, ConfigDict, FiniteFloat, NonNegativeFloat, NonNegativeInt, ValidationError


class _Record(BaseModel):
    model_config = ConfigDict(strict=True)


class Change(_Record):
    """A resume."""

    time: str
    changes: dict[str, Any]


class Git(_Record):
    commit: str
    dirty: bool = False
    untracked: list[str] = []


class Stamp(_Record):
    command: str = ""
    overrides: list[str] = []
    began: FiniteFloat = 0.0
    host: str = ""
    git: Git | None = None
    packages: dict[str, str] = {}
    resumed: list[Change] = []
    data: str = ""


class Seconds(_Record):
    total: NonNegativeFloat


class Best(_Record):
    metric: str
    value: float
    mode: str = "min"
    metrics: dict[str, float] = {}


class Results(_Record):
    status: str
    seconds: Seconds | None = None
    parameters: NonNegativeInt | None = None
    error: str = ""
    last: dict[str, float] = {}
    best: Best | None = None
    test: dict[str, float] = {}


class Sweep(_Record):
    words: list[str] = []
    varied: list[str] = []


RECORDS: dict[str, type[_Record]] = {"stamp.json": Stamp, "results.json": Results, "sweep.json": Sweep}


def wrong(name: str, content: dict[str, Any]) -> str | None:
    """The first thing in a file of this name that is not as lab writes it."""
    if name not in RECORDS:
        return None
    try:
        RECORDS[name].model_validate(content)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        return f"{'.'.join(map(str, first['loc']))}: {first['msg'][0].lower() + first['msg'][1:]}"
    return None
