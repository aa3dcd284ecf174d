"""The base of everything that is checked when it is read: settings, cards, reports."""

from __future__ import annotations

from typing import Annotated

from pydantic import AfterValidator, BaseModel, ConfigDict, Field


class Schema(BaseModel):
    """Immutable, no key that is not declared, no number that is not finite."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


def _ordered(limits: tuple[float, float]) -> tuple[float, float]:
    if limits[0] > limits[1]:
        raise ValueError("give the lower limit first")
    return limits


#: Lower and upper limit, equal ones for a single value.
Limits = Annotated[tuple[float, float], AfterValidator(_ordered)]
#: The same for lengths and other positive values.
PositiveLimits = Annotated[
    tuple[Annotated[float, Field(gt=0)], Annotated[float, Field(gt=0)]], AfterValidator(_ordered)
]
#: The same for a factor of the slice spacing, which never is below 1.
FactorLimits = Annotated[tuple[Annotated[float, Field(ge=1)], float], AfterValidator(_ordered)]
#: The same for slice thickness over slice spacing, as :class:`srcyc.physics.acquisition.Acquisition` takes it; patches
#: have it in hundredths.
RatioLimits = Annotated[
    tuple[Annotated[float, Field(ge=0.01)], Annotated[float, Field(le=2)]], AfterValidator(_ordered)
]
