"""Whether a scan is in a model's range, as the library will judge it: said before anything is computed.

Pure arithmetic: the library itself may not be installed yet, or be on a server.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from slicer.i18n import tr as _

#: As in the library (srcyc.inference.super_resolver, srcyc.volumes.geometry); a test compares the judgements.
_FACTOR_TOLERANCE, _FINER_TOLERANCE, _COARSER_TOLERANCE = 1.5, 0.6, 1.6
_ROUNDING = 0.03
_SAME_SPACING = 1e-3


class Judgement(NamedTuple):
    """What is to be expected.

    Attributes:
        kind: ``good``, ``warning`` (outside the model's range), ``error`` (refused unless forced, or nothing to do).
        text: one line.
    """

    kind: str
    text: str


def judge(
    shape: Sequence[int],
    spacing: Sequence[float],
    target: str,
    thickness: str,
    model: dict[str, Any],
    forced: bool = False,
    dicom: float | None = None,
) -> Judgement | None:
    """Say what a model will make of a scan.

    Args:
        shape: voxels of the scan.
        spacing: mm, in the same order.
        target: spacing wanted, as the user writes it.
        thickness: of the slices, mm, as the user writes it; "" if nobody has said.
        model: ``name`` and ``card`` of it.
        forced: go on far outside its range.
        dicom: thickness of the slices, mm, as DICOM says; None: it does not.

    Returns:
        None if the card or the spacing wanted cannot be understood: then the library will say why.
    """
    card = model.get("card") or {}
    factors, voxels = card.get("factor_range"), card.get("spacing_range")
    if not factors or not voxels:
        return None
    wanted = _wanted(target, spacing, voxels[0])
    if wanted is None:
        return None
    thick = max(range(3), key=lambda axis: (round(spacing[axis], 4), axis))
    fine = [
        max(n, round(n * own / want)) if want < own * (1 - _SAME_SPACING) else n
        for n, own, want in zip(shape, spacing, wanted)
    ]
    scan = _("{count} slices, {distance:.3g} mm apart, of voxels of {size:.3g} mm").format(
        count=shape[thick], distance=spacing[thick], size=min(spacing)
    )
    if fine == list(shape):
        return Judgement("error", _("{scan}: there is nothing to make thinner.").format(scan=scan))
    reached = [n * own / more for n, own, more in zip(shape, spacing, fine)]
    factor = fine[thick] / shape[thick]
    outside, far = [], False
    if not factors[0] * (1 - _ROUNDING) <= factor <= factors[1] * (1 + _ROUNDING):
        outside.append(
            _("made {factor:.3g} times thinner (range {low:g} to {high:g})").format(
                factor=factor, low=factors[0], high=factors[1]
            )
        )
        far = factor > _FACTOR_TOLERANCE * factors[1]
    # Either may be outside: the finest voxels, and the coarsest.
    if min(reached) < voxels[0] * (1 - _ROUNDING):
        outside.append(_voxels(min(reached), voxels))
        far = far or min(reached) < _FINER_TOLERANCE * voxels[0]
    if max(reached) > voxels[1] * (1 + _ROUNDING):
        outside.append(_voxels(max(reached), voxels))
        far = far or max(reached) > _COARSER_TOLERANCE * voxels[1]
    said = _thickness(thickness, dicom)
    if not outside:
        words = _("{scan}: in the range of {model}. {thickness}")
        return Judgement("good", words.format(scan=scan, model=model["name"], thickness=said))
    far = far and not forced
    words = (
        _(
            "{scan}: too far outside the range of {model}, unless Options tell it to go on: {what}. {thickness}"
        )
        if far
        else _("{scan}: outside the range of {model}, look at the result closely: {what}. {thickness}")
    )
    text = words.format(scan=scan, model=model["name"], what=", ".join(outside), thickness=said)
    return Judgement("error" if far else "warning", text)


def _voxels(size: float, voxels: Sequence[float]) -> str:
    return _("voxels of {size:.3g} mm (range {low:g} to {high:g})").format(
        size=size, low=voxels[0], high=voxels[1]
    )


def _thickness(text: str, dicom: float | None) -> str:
    if text.strip():
        return _("Slice thickness {mm} mm, as stated.").format(mm=text.strip())
    if dicom is not None:
        return _("Slice thickness {mm:.3g} mm, as DICOM says.").format(mm=dicom)
    return _("The slice thickness is not stated: it is estimated from the scan.")


def _wanted(target: str, spacing: Sequence[float], finest: float) -> list[float] | None:
    if target.strip() in ("", "isotropic"):
        return [max(min(spacing), finest)] * 3
    try:
        values = [float(value) for value in target.split(",")]
    except ValueError:
        return None
    values = 3 * values if len(values) == 1 else values
    return values if len(values) == 3 and all(0 < value < float("inf") for value in values) else None
