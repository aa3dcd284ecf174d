"""What was not measured is found, replaced so that it disturbs nothing, and put back."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from factories import make_head
from srcyc.errors import VolumeError
from srcyc.volumes.intensity import robust_scaling
from srcyc.volumes.missing import Missing
from srcyc.volumes.volume import Volume
from srcyc.volumes.working import prepare


def head(slices: int = 8) -> Volume:
    """A head whose slices all hold something."""
    thick = make_head((24, 26, 2 * slices))
    return replace(thick, data=thick.data[..., slices // 2 : slices // 2 + slices].copy())


def spoiled(volume: Volume, where: object, value: object) -> Volume:
    data = volume.data.copy()
    data[0][where] = value
    return replace(volume, data=data)


def scattered(volume: Volume, count: int, seed: int = 0) -> tuple[np.ndarray, ...]:
    places = np.random.default_rng(seed).permutation(np.argwhere(volume.data[0] > -1))[:count]
    return tuple(places.T)


def test_a_whole_scan_is_left_as_it_is() -> None:
    volume = head()
    missing = Missing.of(volume)
    assert not missing.any
    assert missing.measured.all()
    assert missing.filled(volume) is volume
    assert missing.warnings(volume.data[0]) == ()


@pytest.mark.parametrize("value", [np.nan, -32768.0, -1024.0, -1.0, 4095.0, 65535.0, -3.4028235e38])
def test_what_surrounds_a_scan_is_left_out_and_put_back(value: float) -> None:
    clean = head()
    volume = spoiled(clean, np.s_[:6], value)
    missing = Missing.of(volume)
    assert missing.kept[:6].all() and not missing.kept[6:].any()
    assert np.array_equal(missing.measured, ~missing.kept)
    filled = missing.filled(volume).data
    assert np.isfinite(filled).all()
    assert np.array_equal(filled[:, 6:], clean.data[:, 6:])
    assert filled.min() >= clean.data.min() and filled.max() <= clean.data.max()
    fine = np.repeat(filled[0], 3, axis=2)
    missing.put_back(fine, volume.data[0])
    assert np.array_equal(fine, np.repeat(volume.data[0], 3, axis=2), equal_nan=True)
    (sentence,) = missing.warnings(volume.data[0])
    assert str(6 * 26 * 8) in sentence and ("NaN" if np.isnan(value) else f"{value:g}") in sentence


@pytest.mark.parametrize("value", [-32768, -1000, 65535])
def test_padding_does_not_move_the_scaling(value: int) -> None:
    clean = head()
    scaling = prepare(spoiled(clean, np.s_[:5], value)).scaling
    assert scaling == robust_scaling(np.ascontiguousarray(clean.data[0, 5:]))


def test_a_file_may_say_itself_what_is_padding() -> None:
    volume = head()
    padding = np.zeros(volume.shape, bool)
    padding[:, :4] = True
    missing = Missing.of(replace(volume, padding=padding))
    assert np.array_equal(missing.padding, padding)
    assert missing.filled(replace(volume, padding=padding)).padding is None


@pytest.mark.parametrize("value", [0.0, 3.0])
def test_an_empty_background_is_no_padding(value: float) -> None:
    """0 is what masked surroundings look like, and air is near the rest."""
    volume = head()
    data = volume.data.copy()
    data[data < 300] = value
    assert not Missing.of(replace(volume, data=data)).any


@pytest.mark.parametrize(("gain", "offset"), [(3.0, -2.0), (1.0, -350.0), (0.01, 7.0)])
def test_a_shifted_background_is_no_padding(gain: float, offset: float) -> None:
    volume = head()
    data = np.where(volume.data < 60, 0, volume.data)
    assert not Missing.of(replace(volume, data=data * np.float32(gain) + np.float32(offset))).any


def test_two_paddings_in_one_scan() -> None:
    volume = spoiled(spoiled(head(), np.s_[:4], -32768), np.s_[:, :5], -32767)
    missing = Missing.of(volume)
    assert missing.padding[:4].all() and missing.padding[:, :5].all()
    assert not missing.padding[4:, 5:].any()


@pytest.mark.parametrize("value", [1e6, -1e6, 1e30, 8000.0])
def test_absurd_voxels_are_found_and_only_they(value: float) -> None:
    clean = head()
    where = scattered(clean, 9)
    volume = spoiled(clean, where, value)
    missing = Missing.of(volume)
    expected = np.zeros(clean.shape, bool)
    expected[where] = True
    assert np.array_equal(missing.absurd, expected)
    filled = missing.filled(volume).data[0]
    assert np.array_equal(filled[~expected], clean.data[0][~expected])
    assert np.abs(filled).max() <= np.abs(clean.data).max()
    assert prepare(volume).scaling.scale == pytest.approx(robust_scaling(clean.data).scale, rel=0.02)


def test_an_absurd_voxel_is_itself_in_its_middle_and_nothing_beyond_its_place() -> None:
    clean = head()
    volume = spoiled(clean, (10, 11, 4), 1e6)
    missing = Missing.of(volume)
    result = np.repeat(clean.data[0], 5, axis=2)
    before = result.copy()
    missing.put_back(result, volume.data[0])
    assert result.argmax() == np.ravel_multi_index((10, 11, 22), result.shape)
    assert result.max() == np.float32(1e6)
    changed = np.argwhere(result != before)
    assert changed.tolist() == [[10, 11, k] for k in range(20, 25)]


def test_a_bright_vessel_is_no_accident() -> None:
    """A small bright thing is blurred by the scanner, so its surroundings are bright too."""
    volume = head()
    index = np.stack(np.meshgrid(*map(np.arange, volume.shape), indexing="ij"), axis=-1)
    for peak in (3e3, 1e4, 1e5):
        vessel = peak * np.exp(-0.5 * (((index - (12, 12, 4)) / (1.2, 1.2, 1.0)) ** 2).sum(axis=-1))
        assert not Missing.of(replace(volume, data=volume.data + vessel[None].astype(np.float32))).any


@pytest.mark.parametrize("axis", [0, 1, 2])
@pytest.mark.parametrize("value", [0.0, 300.0])
def test_a_blank_slice_is_replaced_by_what_lies_around_it(axis: int, value: float) -> None:
    clean = head()
    order = {0: (2, 0, 1), 1: (0, 2, 1), 2: (0, 1, 2)}[axis]
    turned = replace(
        clean, data=clean.data[0].transpose(order)[None], affine=clean.grid.permuted(order).affine
    )
    where: list[object] = [slice(None)] * 3
    where[axis] = 4
    volume = spoiled(turned, tuple(where), value)
    missing = Missing.of(volume)
    assert (missing.axis, missing.lost, missing.blank) == (axis, (4,), ())
    filled = np.moveaxis(missing.filled(volume).data[0], axis, 0)
    truth = np.moveaxis(turned.data[0], axis, 0)
    assert np.array_equal(np.delete(filled, 4, 0), np.delete(truth, 4, 0))
    error = np.abs(filled[4] - truth[4]).mean()
    assert error < 0.5 * np.abs(truth[3] - truth[4]).mean() + 0.5 * np.abs(truth[5] - truth[4]).mean()
    (sentence,) = missing.warnings(volume.data[0])
    assert "slice 5 of 8" in sentence
    # A lost slice is told, and what replaces it stays.
    result = filled.copy()
    missing.put_back(np.moveaxis(result, 0, axis), volume.data[0])
    assert np.array_equal(result, filled)
    with pytest.raises(VolumeError, match="slice 5 of 8 is blank"):
        missing.require_whole("scan.nii")


@pytest.mark.parametrize("part", [np.s_[12:, :, 4], np.s_[:15, :, 4], np.s_[:, 10:, 4], np.s_[:, :20, 3]])
@pytest.mark.parametrize("value", [0.0, 50.0])
def test_a_slice_that_was_cut_off_is_replaced_from_there_on(part: tuple, value: float) -> None:
    clean = head()
    volume = spoiled(clean, part, value)
    missing = Missing.of(volume)
    expected = np.zeros(clean.shape, bool)
    expected[part] = True
    # Lines of air before the cut hold as little.
    assert np.array_equal(missing.cut | expected, missing.cut) and not missing.cut[~expected].any()
    assert (missing.lost, missing.blank) == ((), ())
    filled = missing.filled(volume).data[0]
    assert np.array_equal(filled[~expected], clean.data[0][~expected])
    assert np.abs(filled - clean.data[0])[part].mean() < 0.5 * np.abs(clean.data[0] - value)[part].mean()
    assert any("in part" in sentence for sentence in missing.warnings(volume.data[0]))
    with pytest.raises(VolumeError, match="in part"):
        missing.require_whole("scan.nii")


def test_a_masked_head_that_narrows_and_widens_is_not_cut() -> None:
    data = head().data.copy()
    data[data < 300] = 0
    data[:, :3, :, 4] = 0
    assert not Missing.of(replace(head(), data=data)).any


@pytest.mark.parametrize(
    ("slices", "lost", "blank"),
    [
        ([2, 5], (2, 5), ()),
        ([3, 4], (3, 4), ()),
        ([0], (), (0,)),
        ([7], (), (7,)),
        ([0, 1, 4], (4,), (0, 1)),
        ([2, 3, 4, 5], (), (2, 3, 4, 5)),
    ],
)
def test_which_slices_are_lost(slices: list[int], lost: tuple[int, ...], blank: tuple[int, ...]) -> None:
    missing = Missing.of(spoiled(head(), np.s_[..., slices], 0))
    assert (missing.lost, missing.blank) == (lost, blank)


def test_many_blank_slices_are_told_and_what_lies_beside_them_is_not_cut() -> None:
    data = head().data.copy()
    data[..., 1:5] = np.random.default_rng(0).uniform(0, 1, data[..., 1:5].shape)  # next to nothing
    data[:, :12, :, 5] = 0  # behind blank slices nobody can tell
    missing = Missing.of(replace(head(), data=data))
    assert missing.blank == (1, 2, 3, 4) and not missing.cut.any()
    (told,) = missing.warnings(data[0])
    assert "slices 2 to 5 of" in told and "left out" in told


def test_slices_of_air_above_a_head_are_not_lost() -> None:
    data = head().data.copy()
    data[..., 5] *= 0.2
    data[..., 6:] = 0
    data[0, 3, 3, 7] = 2
    missing = Missing.of(Volume(data, head().affine))
    assert not missing.any


@settings(deadline=None, max_examples=50)
@given(st.data())
def test_what_was_measured_is_never_changed(data: st.DataObject) -> None:
    """Whatever is wrong with a scan, and however much of it: no measured voxel is touched, and nothing is left open."""
    clean = head()
    volume = clean
    for _ in range(data.draw(st.integers(1, 3))):
        value = data.draw(st.sampled_from([np.nan, -32768.0, 1e7, 0.0, -1.0]))
        axis, low = data.draw(st.integers(0, 2)), data.draw(st.integers(0, 6))
        where: list[object] = [slice(None)] * 3
        where[axis] = slice(low, low + data.draw(st.integers(1, 5)))
        volume = spoiled(volume, tuple(where), value)
    missing = Missing.of(volume)
    if not missing.measured.any():
        return
    filled = missing.filled(volume)
    assert np.isfinite(filled.data).all()
    measured = missing.measured
    assert np.array_equal(filled.data[0][measured], volume.data[0][measured])
    result = filled.data[0].copy()
    missing.put_back(result, volume.data[0])
    kept = missing.kept
    assert np.array_equal(result[kept], volume.data[0][kept], equal_nan=True)
    assert np.array_equal(result[~kept], filled.data[0][~kept])
