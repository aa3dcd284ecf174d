"""How thick a scan's slices are: one rule for inference and for training."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

from srcyc.errors import ConfigError
from srcyc.physics.acquisition import ASSUMED_THICKNESS, LARGEST_THICKNESS
from srcyc.physics.slice_profile import ProfileEstimate
from srcyc.schema import Schema

#: Who says how thick slices are.
Source = Literal["stated", "read", "estimated", "assumed"]

#: Tells a scan's slice profile, or None.
Estimate = Callable[[], ProfileEstimate | None]

#: Slice thickness over slice spacing that networks are trained for.
TRAINED_THICKNESS = (0.6, 1.1)
#: Slice thickness over slice spacing below which a header means something else.
_THINNEST = 0.2


class SliceThickness(Schema):
    """Thickness of the slices, and over their distance; who said so.

    Attributes:
        millimetres: full width at half maximum of the slice profile.
        ratio: the same over the distance of the slices.
        source: ``stated`` by the user, ``read`` from the file, ``estimated`` from the scan itself (see
            :mod:`srcyc.physics.slice_profile`), or ``assumed`` because nobody could tell.
    """

    millimetres: float
    ratio: float
    source: Source


def slice_thickness(
    stated: float | None, read: float | None, spacing: float, estimate: Estimate = lambda: None
) -> tuple[SliceThickness, list[str]]:
    """Settle how thick slices are: what the user states, else what the file says, else what the scan itself tells.

    What the file says is not believed if it can hardly be. A scan unlike those that the estimate was learnt from tells
    nothing: a share of the slices' distance is assumed.

    Args:
        stated: by the user, mm.
        read: from the file, mm.
        spacing: distance of the slice centres, mm.
        estimate: tells the slice profile from the scan, or None; asked only where it is needed.

    Returns:
        the thickness, and what is unusual about it.

    Raises:
        ConfigError: a stated thickness that cannot be one.
    """
    if stated is not None and stated > LARGEST_THICKNESS * spacing:
        raise ConfigError(
            f"slice_thickness {stated:g} mm: slices {spacing:.4g} mm apart are at most {LARGEST_THICKNESS:g} times as "
            "thick",
            remedy="give their thickness in mm",
            options=("slice_thickness",),
        )
    low, high = TRAINED_THICKNESS
    warnings = []
    source: Source
    # Headers round: 1 % more or less is none.
    overlap = (high + 0.01) * spacing
    if stated is not None:
        source, thickness = "stated", stated
        if stated > overlap:
            warnings.append(
                f"slices overlap: {stated:.4g} mm thick, {spacing:.4g} mm apart; the model was trained without overlap."
            )
    elif read is not None and read > overlap:
        # Often the header means something else: told too wide, a profile is deconvolved into ringing.
        source, thickness = "assumed", spacing
        warnings.append(
            f"the file says that slices {spacing:.4g} mm apart are {read:.4g} mm thick: such an overlap is not undone, "
            "they count as contiguous; state slice_thickness if it is true."
        )
    elif read is not None and read >= _THINNEST * spacing:
        source, thickness = "read", read
    else:
        told = estimate()
        if told is not None and told.reliable:
            source, thickness = "estimated", told.ratio * spacing
        else:
            source, thickness = "assumed", ASSUMED_THICKNESS * spacing
        if read is not None:
            warnings.append(
                f"the file says that slices {spacing:.4g} mm apart are {read:.4g} mm thick, which is not believed."
            )
    ratio = thickness / spacing
    if ratio < low - 0.01:
        warnings.append(
            f"slices have wide gaps: {thickness:.4g} mm thick, {spacing:.4g} mm apart; what lies between is a guess."
        )
    return SliceThickness(millimetres=round(thickness, 4), ratio=ratio, source=source), warnings
