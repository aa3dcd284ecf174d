"""Several stacks of one person: laid over one another, and one volume towards all of them."""

from __future__ import annotations

import functools
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from factories import rotation
from srcyc.errors import ConfigError, InputError, NothingToDoError, SRCycError
from srcyc.evaluation.metrics import Truth
from srcyc.inference.combine import Combination, combine
from srcyc.inference.options import InferenceOptions
from srcyc.inference.registration import Motion, register, warp
from srcyc.inference.super_resolver import SuperResolver
from srcyc.physics.resampling import resample
from srcyc.physics.simulation import Spoiling, simulate_thick
from srcyc.volumes.geometry import Grid
from srcyc.volumes.volume import Volume, read_volume

#: Where a point of the head lies in each of the three scans.
_TURNS = ((0.0, 0.0, 0.0), (3.0, -2.0, 4.0), (-2.0, 3.5, -3.0))
_MOVES = ((0.0, 0.0, 0.0), (2.5, -3.0, 1.5), (-2.0, 1.5, 4.0))


@functools.cache
def _head(size: tuple[int, int, int] = (48, 56, 48)) -> Volume:
    """A real head, made small; its voxels count as 1 mm, and the world's origin is its middle.

    A phantom of ellipsoids will not do: it may turn almost freely.
    """
    scan = read_volume(Path(__file__).parents[3] / "sample-data" / "ch2bet.nii.gz")
    data = resample(torch.from_numpy(scan.data), size, "area").numpy()
    affine = np.eye(4)
    affine[:3, 3] = -(np.array(size) - 1) / 2
    return Volume(data, affine, np.dtype("f4"))


def _motion(number: int) -> Motion:
    matrix = np.eye(4)
    matrix[:3, :3] = rotation(*np.radians(_TURNS[number]))
    matrix[:3, 3] = _MOVES[number]
    return Motion(matrix)


def _stack(head: Volume, axis: int, number: int) -> Volume:
    """A thick scan along an axis of a head that has moved, with some noise and a gain of its own."""
    moved = warp(head.data[0], head.grid, head.grid, _motion(number).inverse)
    scan = replace(head, data=(1 + 0.1 * number) * moved[None])
    return simulate_thick(scan, 4.0, axis=axis, spoiling=Spoiling(noise=0.01, seed=number))[0]


@pytest.fixture(scope="module")
def resolver() -> SuperResolver:
    return SuperResolver.from_pretrained(device="cpu", precision="fp32")


@pytest.fixture(scope="module")
def stacks() -> list[Volume]:
    return [_stack(_head(), axis, number) for number, axis in enumerate((2, 1, 0))]


@pytest.fixture(scope="module")
def combined(stacks: list[Volume], resolver: SuperResolver) -> Combination:
    return combine(stacks, resolver)


def test_the_volume_is_nearer_to_the_truth_than_each_stack_and_than_their_mean(combined, stacks, resolver):
    head = _head()
    truth = Truth(head.data[0])
    alone = []
    for number, stack in enumerate(stacks):
        single = resolver(stack).volume
        back = warp(single.data[0], single.grid, head.grid, _motion(number))
        alone.append(back / np.float32(1 + 0.1 * number))
    best = max(truth.quality(image).psnr for image in alone)
    of_mean = truth.quality(np.mean(alone, axis=0)).psnr
    assert combined.volume.shape == head.shape
    assert truth.quality(combined.volume.data[0]).psnr > max(best, of_mean) + 1


def test_every_motion_is_found_and_told(combined):
    for number, stack in enumerate(combined.report.stacks):
        found, wanted = Motion(np.array(stack.matrix)), _motion(number)
        corners = _head().grid.field_of_view
        apart = (found.matrix - wanted.matrix)[:3, :3] @ corners.T + (found.matrix - wanted.matrix)[:3, 3:]
        assert np.linalg.norm(apart, axis=0).max() < 0.25
        assert stack.translation == pytest.approx(_MOVES[number], abs=0.1)
        assert stack.gain == pytest.approx(1 / (1 + 0.1 * number), rel=0.03)
        assert stack.similarity > 0.9
        assert stack.residual < 0.7 * stack.residual_of_mean
    assert combined.report.warnings == ()


def test_a_registration_is_the_same_each_time():
    """ITK compares at places that it draws, from the clock unless it is told otherwise."""
    head = _head((24, 28, 24))
    moved = warp(head.data[0], head.grid, head.grid, _motion(1).inverse)
    first, again = (register(head.data[0], head.grid, moved, head.grid).matrix for _ in range(2))
    assert np.array_equal(first, again)


def test_a_rotation_is_told_as_angles_about_the_axes_of_the_world():
    for axis, angle in ((0, 12.0), (1, -7.0), (2, 3.0)):
        turns = [0.0, 0.0, 0.0]
        turns[axis] = angle
        matrix = np.eye(4)
        about = rotation(*np.radians(turns))
        matrix[:3, :3] = about
        told = Motion(matrix).rotation
        assert abs(told[axis]) == pytest.approx(abs(angle))
        # Right-handed: R towards A, A towards S, S towards R are positive.
        first, second = (axis + 1) % 3, (axis + 2) % 3
        assert np.sign(told[axis]) == np.sign(about[second, first])


def test_what_lies_where_survives_an_oblique_grid():
    head = _head()
    turned = Motion(
        np.block([[rotation(0.2, 0.1, -0.3), np.array([[2.0], [1], [3]])], [np.zeros((1, 3)), 1]])
    )
    oblique = replace(head, affine=turned.matrix @ head.affine)
    # The same voxels elsewhere in the world: brought back along the same motion they are themselves.
    back = warp(oblique.data[0], oblique.grid, head.grid, turned)
    np.testing.assert_allclose(back, head.data[0], atol=0.5)
    found = register(
        head.data[0], head.grid, head.data[0], replace(head, affine=_motion(1).matrix @ head.affine).grid
    )
    assert np.abs(found.matrix - _motion(1).matrix)[:3, :3].max() < 5e-3


@pytest.mark.exhaustive
def test_a_lost_slice_of_one_stack_is_told_by_the_others(stacks, combined, resolver):
    axial = stacks[0]
    data = axial.data.copy()
    data[..., 6] = 0.0
    torn = combine([replace(axial, data=data), *stacks[1:]], resolver)
    truth = Truth(_head().data[0])
    assert any("slice" in warning for warning in torn.report.warnings)
    assert truth.quality(torn.volume.data[0]).psnr > truth.quality(combined.volume.data[0]).psnr - 2.5


def test_another_contrast_is_refused_and_can_be_forced(stacks, resolver):
    inverted = replace(stacks[1], data=stacks[1].data.max() - stacks[1].data)
    with pytest.raises(InputError, match="contrast") as caught:
        combine([stacks[0], inverted], resolver)
    assert caught.value.options == ("force",)
    forced = combine([stacks[0], inverted], resolver, InferenceOptions(force=True))
    assert any("correlates" in warning for warning in forced.report.warnings)


def test_stacks_that_can_be_seen_to_be_wrong_are_refused_before_anything_is_computed(stacks):
    class Untouched:
        """Fails whoever computes with it."""

        class model:
            class card:
                spacing_range = (0.8, 1.2)

    far = replace(stacks[1], affine=stacks[1].affine + np.array([[0, 0, 0, 500.0], *np.zeros((3, 4))]))
    for given, told in (
        (stacks[:1], "1 stack"),
        ([stacks[0], stacks[1], stacks[0]], "same stack"),
        ([stacks[0], far], "0 %"),
    ):
        with pytest.raises(InputError, match=told):
            combine(given, Untouched())  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="target_spacing"):
        combine(stacks, Untouched(), InferenceOptions(target_spacing=(1.0, 1.0, 2.0)))  # type: ignore[arg-type]


def test_a_thin_scan_and_parallel_slices_are_told(stacks, resolver):
    with pytest.raises(NothingToDoError):
        combine([stacks[0], _head((40, 40, 40))], resolver)
    again = _stack(_head(), 2, 1)
    assert any("same way" in warning for warning in combine([stacks[0], again], resolver).report.warnings)


def test_memory_is_bounded(stacks, published, monkeypatch):
    monkeypatch.setattr("srcyc.inference.super_resolver._HEAP_NUMBERS", 0)
    small = SuperResolver(published(depth=1), device="cpu", precision="fp32", max_memory=0.004)
    with pytest.raises(ConfigError, match=r"max_memory .* combining needs"):
        combine(stacks, small)


def test_a_scan_of_too_few_slices_cannot_be_laid_over_another():
    head, two = _head(), Grid((48, 56, 2), np.eye(4))
    with pytest.raises(SRCycError, match="registration failed"):
        register(head.data[0], head.grid, head.data[0, :, :, :2], two)
