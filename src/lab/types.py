"""Constraints on arguments, checked before a run starts; pydantic has the others, such as `PositiveInt`."""

from typing import Annotated

from pydantic import Field

Fraction = Annotated[float, Field(ge=0, le=1)]
