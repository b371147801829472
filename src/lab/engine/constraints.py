"""Constraints on arguments, checked before a run starts; pydantic has the others, such as `PositiveInt`."""

from collections.abc import Sequence
from typing import Annotated

from pydantic import Field, PositiveInt

Count = Annotated[int, Field(gt=0, le=10**6)]  # of classes, tokens, pixels of a side
Fraction = Annotated[float, Field(ge=0, le=1)]
Share = Annotated[float, Field(gt=0, le=1)]  # of what is not to be empty
Widths = Annotated[Sequence[PositiveInt], Field(min_length=1)]
FourWidths = Annotated[Sequence[PositiveInt], Field(min_length=4, max_length=4)]
