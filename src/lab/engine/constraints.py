"""Constrained types for arguments, in addition to pydantic's, such as `PositiveInt`. They are checked before a run."""

from collections.abc import Sequence
from typing import Annotated

from pydantic import Field, PositiveInt

Count = Annotated[int, Field(gt=0, le=10**6)]  # of classes or tokens, or pixels of a side
Fraction = Annotated[float, Field(ge=0, le=1)]
Share = Annotated[float, Field(gt=0, le=1)]  # a fraction that must not be 0
Widths = Annotated[Sequence[PositiveInt], Field(min_length=1)]
FourWidths = Annotated[Sequence[PositiveInt], Field(min_length=4, max_length=4)]
FiveWidths = Annotated[Sequence[PositiveInt], Field(min_length=5, max_length=5)]
