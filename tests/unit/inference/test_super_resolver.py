from __future__ import annotations

import dataclasses
import hashlib
import json
import re
import subprocess
import sys

import numpy as np
import pytest
import torch

from srcyc.enhancement import enhance
from srcyc.errors import ConfigError, ModelError, NothingToDoError, SRCycError, VolumeError
from srcyc.inference.options import InferenceOptions
from srcyc.inference.super_resolver import Plan, SuperResolver
from srcyc.networks import Sampling
from srcyc.physics.acquisition import Acquisition, AxisAcquisition
from srcyc.physics.simulation import simulate_thick
from srcyc.physics.slice_gain import slice_gain
from srcyc.physics.slice_profile import ProfileEstimate
from srcyc.physics.thickness import slice_thickness
from srcyc.volumes.volume import Volume, read_volume, write_volume
from srcyc.volumes.working import prepare


def rotation(degrees: float) -> np.ndarray:
    c, s = np.cos(np.deg2rad(degrees)), np.sin(np.deg2rad(degrees))
    return np.array([[c, -s, 0], [s, c, 0], [0, 0, 1.0]]) @ np.array([[1, 0, 0], [0, c, -s], [0, s, c]])


def affine(spacing=(1.0, 1.0, 5.0), turn=None, origin=(-20.0, 13.0, 7.5)) -> np.ndarray:
    matrix = np.eye(4)
    matrix[:3, :3] = (np.eye(3) if turn is None else turn) * np.array(spacing)
    matrix[:3, 3] = origin
    return matrix


@pytest.fixture
def scan(phantom) -> Volume:
    """A head in 5 mm slices."""
    return Volume(900 * phantom((22, 25, 7)) + 40, affine(), np.dtype(np.int16), slice_thickness=5.0)


@pytest.fixture
def resolver(published) -> SuperResolver:
    return SuperResolver(published(depth=1), device="cpu", precision="fp32")


def test_it_is_the_enhancement_of_the_prepared_scan(resolver, scan):
    """The same numbers as the one formula on the whole array, in the scan's order and units."""
    scan = dataclasses.replace(scan, affine=affine(turn=np.diag([-1.0, 1.0, 1.0])))
    working = prepare(scan)
    y = torch.from_numpy(working.image)[None, None]
    axis = AxisAcquisition.of(35, 7, 1.0)
    with torch.no_grad():
        ((image, delta),) = enhance(resolver.model.network, y, [axis])
    result = resolver(scan, correction_map=True)
    scaling = working.scaling
    expected = working.order.undo(scaling.invert(image[0, 0]))
    np.testing.assert_allclose(result.volume.data[0], expected, atol=1e-4 * scaling.scale)
    change = working.order.undo(scaling.scale * delta[0, 0])
    np.testing.assert_allclose(result.correction.data[0], change, atol=1e-4 * scaling.scale)
    assert np.abs(change).max() > 0.01 * scaling.scale


@pytest.mark.parametrize("tile", [1, 6, 500])
def test_the_tile_does_not_change_the_result(published, scan, tile):
    model = published(features=16, depth=2)
    whole = SuperResolver(model, device="cpu", precision="fp32")(scan)
    tiled = SuperResolver(model, device="cpu", precision="fp32", tile=tile)(scan)
    scale = whole.report.scaling.scale
    np.testing.assert_allclose(tiled.volume.data, whole.volume.data, atol=1e-4 * scale)


# -- memory ------------------------------------------------------------------------------------------------------


def test_a_budget_is_kept_and_changes_nothing_but_the_slabs(published, scan, monkeypatch):
    """What is refused says what it needs; with that much it goes on, in the smallest slabs."""
    # What no scan and no slab changes would hide what they do, of a scan as small as this.
    monkeypatch.setattr("srcyc.inference.super_resolver._HEAP_NUMBERS", 0)
    model = published()

    def made(**settings):
        return SuperResolver(model, device="cpu", precision="fp32", **settings)

    plan = Plan.of(scan, InferenceOptions(), model.card)
    with pytest.raises(ConfigError, match=r"needs [\d.e-]+ GB") as refused:
        made(max_memory=1e-5)(scan)
    needed = float(re.search(r"needs ([\d.e-]+) GB", str(refused.value)).group(1))
    slabs = [made(max_memory=factor * needed)._slab(plan) for factor in (1.1, 1.3, 2, 100)]
    assert slabs == sorted(slabs)
    assert slabs[0] < slabs[-1] == made()._slab(plan)
    assert slabs[0] >= model.network.row_step
    # Its own needs are counted: the output of twice the voxels needs twice as much.
    with pytest.raises(ConfigError, match="22 x 25 x 70") as larger:
        made(max_memory=1e-5)(scan, target_spacing=(1.0, 1.0, 0.5), force=True)
    assert float(re.search(r"needs ([\d.e-]+) GB", str(larger.value)).group(1)) > 1.4 * needed
    tight, free = made(max_memory=1.1 * needed)(scan), made()(scan)
    np.testing.assert_allclose(tight.volume.data, free.volume.data, atol=1e-4 * free.report.scaling.scale)


@pytest.mark.exhaustive
@pytest.mark.skipif(sys.platform != "linux", reason="needs /proc, to see what a process holds")
@pytest.mark.parametrize("shape", [(64, 96, 16), (96, 160, 24)])
def test_the_process_itself_needs_no_more_than_is_allowed(shape):
    """The least budget that is taken: what a process grows by, with all that PyTorch and the C library keep."""
    code = f"""
import re, resource
import numpy as np
from srcyc import SuperResolver, Volume
from srcyc.device import peak_memory
from srcyc.errors import ConfigError

voxels = np.random.default_rng(0).random((1, *{shape}), np.float32)
scan = Volume(voxels, np.diag([1.0, 1.0, 5.0, 1.0]), slice_thickness=4.5)
settings = dict(device="cpu", precision="fp32")
try:
    SuperResolver.from_pretrained(max_memory=1e-3, **settings)(scan)
except ConfigError as error:
    budget = float(re.search(r"needs ([\\d.]+) GB", str(error)).group(1))
resolver = SuperResolver.from_pretrained(max_memory=budget, **settings)
before = int(open("/proc/self/statm").read().split()[1]) * resource.getpagesize()
resolver(scan)
grown = peak_memory() - before
assert grown < 1e9 * budget, (grown, budget)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_a_tile_that_is_stated_is_taken_as_far_as_memory_allows(published, scan):
    model = published()
    plan = Plan.of(scan, InferenceOptions(), model.card)
    slab = SuperResolver(model, precision="fp32", tile=4)._slab(plan)
    assert slab == 4
    assert SuperResolver(model, precision="fp32", tile=10_000)._slab(plan) == 22


# -- geometry ----------------------------------------------------------------------------------------------------


GEOMETRIES = {
    "identity": affine(),
    "LPS": affine(turn=np.diag([-1.0, -1.0, 1.0])),
    "oblique": affine(turn=rotation(20)),
    "permuted": affine(turn=np.eye(3)[[2, 0, 1]]),
    "flipped": affine(turn=np.diag([1.0, 1.0, -1.0])),
    "fractional": affine((0.93, 0.9, 6.5)),
    "thick first": affine((5.0, 1.0, 1.0)),
    "thick second": affine((1.0, 4.4, 1.0)),
}


@pytest.mark.parametrize("name", GEOMETRIES)
def test_field_of_view_and_a_marker_keep_their_place(published, name):
    matrix = GEOMETRIES[name]
    shape = [20, 18, 22]
    thick = int(np.argmax(np.linalg.norm(matrix[:3, :3], axis=0)))
    shape[thick] = 7
    data = np.random.default_rng(0).normal(10, 0.1, (1, *shape)).astype(np.float32)
    marker = [9, 8, 12]
    marker[thick] = 3
    data[(0, *marker)] = 1000.0
    volume = Volume(data, matrix)

    result = SuperResolver(published(depth=1), precision="fp32")(volume).volume

    np.testing.assert_allclose(
        np.ptp(result.grid.field_of_view, axis=0), np.ptp(volume.grid.field_of_view, axis=0), atol=1e-3
    )
    np.testing.assert_allclose(
        np.sort(result.grid.field_of_view, axis=0), np.sort(volume.grid.field_of_view, axis=0), atol=1e-3
    )
    assert result.shape[thick] > 4 * shape[thick]
    brightest = np.unravel_index(result.data[0].argmax(), result.shape)
    distance = result.grid.index_to_world(brightest) - volume.grid.index_to_world(marker)
    assert np.linalg.norm(distance) <= 0.5 * np.linalg.norm(result.spacing) + 1e-6


# -- the scan and the result -------------------------------------------------------------------------------------


def acquired(result, ratio=1.0) -> np.ndarray:
    """The result as the scanner would have seen it, in the scan's units."""
    operator = Acquisition((22, 25, 35), (22, 25, 7), ratio)
    return operator.apply(torch.from_numpy(result.volume.data)).numpy()


def test_acquired_again_the_result_is_the_corrected_scan(resolver, scan):
    result = resolver(scan, correction_map=True)
    told = result.report.consistency
    assert told.applied and told.slices_corrected
    seen, corrected = acquired(result), scan.data + result.correction.data
    assert np.linalg.norm(seen - corrected) < 5e-3 * np.linalg.norm(corrected)
    # Both are told relative to the scan in normalised intensity.
    offset, scale = result.report.scaling.offset, result.report.scaling.scale
    y, delta = (scan.data - offset) / scale, result.correction.data / scale
    assert told.correction == pytest.approx(np.linalg.norm(delta) / np.linalg.norm(y), rel=1e-3)
    assert told.correction > 0.005
    left = np.linalg.norm((seen - corrected) / scale) / np.linalg.norm(y + delta)
    assert told.residual == pytest.approx(left, rel=0.05)
    assert told.residual < 5e-3


def test_the_correction_lies_on_the_scan_s_grid_in_its_units(resolver, scan):
    result = resolver(scan, correction_map=True)
    assert result.correction.shape == scan.shape
    np.testing.assert_allclose(result.correction.affine, scan.affine, atol=1e-9)
    assert result.correction.stored_dtype == np.float32
    assert result.correction.slice_thickness == scan.slice_thickness
    assert resolver(scan).correction is None
    # Smaller voxels within slices: the map has them, its slices are the scan's.
    finer = resolver(scan, correction_map=True, target_spacing=(0.8, 1.0, 1.0))
    assert finer.correction.shape == (28, 25, 7)
    np.testing.assert_allclose(finer.correction.grid.field_of_view, scan.grid.field_of_view, atol=1e-3)


def test_with_the_correction_off_the_scan_is_reproduced(resolver, scan):
    held, corrected = resolver(scan, correct_slices=False, correction_map=True), resolver(scan)
    told = held.report.consistency
    assert (told.applied, told.slices_corrected, told.correction) == (True, False, 0.0)
    assert not held.correction.data.any()
    assert np.linalg.norm(acquired(held) - scan.data) < 5e-3 * np.linalg.norm(scan.data)
    assert np.linalg.norm(acquired(corrected) - scan.data) > np.linalg.norm(acquired(held) - scan.data)


def test_slices_that_agree_are_not_corrected_into_disagreement(resolver, scan):
    alike = dataclasses.replace(scan, data=np.repeat(scan.data[..., 3:4], 7, -1))
    held, left = resolver(alike, correct_slices=False), resolver(alike, correction_map=True)
    told = left.report.consistency
    assert (told.slices_corrected, told.correction_share, told.correction) == (True, 0.0, 0.0)
    assert not left.correction.data.any()
    np.testing.assert_allclose(left.volume.data, held.volume.data, atol=1e-3)


def test_without_consistency_the_network_may_say_what_it_likes(resolver, scan):
    held, free = (resolver(scan, correct_slices=False, consistency=on) for on in (True, False))
    assert not free.report.consistency.applied
    assert free.report.consistency.residual > 2 * held.report.consistency.residual
    assert np.abs(free.volume.data - held.volume.data).max() > 1


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_half_precision_keeps_the_scan_too(published, scan, precision):
    """The network alone computes in it."""
    try:
        resolver = SuperResolver(published(depth=1), device="cpu", precision=precision)
        result = resolver(scan, correct_slices=False)
    except ConfigError as error:
        pytest.skip(f"this machine does not compute in {precision} ({error})")
    assert result.report.precision == precision
    assert result.report.consistency.residual < 5e-3
    exact = SuperResolver(resolver.model, device="cpu", precision="fp32")(scan, correct_slices=False)
    scale = exact.report.scaling.scale
    assert np.abs(result.volume.data - exact.volume.data).max() < 0.05 * scale


def test_an_output_that_is_not_finite_is_one_sentence(published, scan):
    resolver = SuperResolver(published(depth=1), device="cpu", precision="fp32")
    with torch.no_grad():
        resolver._network.tail.bias.fill_(torch.inf)
    with pytest.raises(SRCycError, match="not finite; run it with precision fp32"):
        resolver(scan)


# -- how a file stores it ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("order", [(0, 1, 2), (1, 0, 2), (2, 0, 1)])
@pytest.mark.parametrize("turned", [(), (2,), (0, 1), (0, 1, 2)])
def test_how_a_file_stores_a_scan_does_not_change_the_result(resolver, scan, order, turned):
    """Slicer stores left-handed scans the other way round, DICOM converters turn rows round."""
    stored = _stored(scan, order, turned)
    assert stored.grid.index_to_world((0, 0, 0)) == pytest.approx(
        scan.grid.index_to_world([scan.shape[axis] - 1 if axis in turned else 0 for axis in range(3)])
    )
    expected = _stored(resolver(scan).volume, order, turned)
    found = resolver(stored).volume
    np.testing.assert_array_equal(found.data, expected.data)
    np.testing.assert_allclose(found.affine, expected.affine, atol=1e-9)


def _stored(volume, order, turned):
    """The same volume as a file may store it: some axes turned round, then all in another order."""
    affine = volume.affine.copy()
    for axis in turned:
        affine[:3, 3] += affine[:3, axis] * (volume.shape[axis] - 1)
        affine[:3, axis] *= -1
    data = np.flip(volume.data, [1 + axis for axis in turned]).transpose(0, *(1 + axis for axis in order))
    return Volume(np.ascontiguousarray(data), affine[:, [*order, 3]], slice_thickness=volume.slice_thickness)


def test_axis_order_does_not_matter(resolver, scan):
    turned = Volume(scan.data.transpose(0, 3, 1, 2), scan.affine[:, [2, 0, 1, 3]], slice_thickness=5.0)
    expected = resolver(scan).volume.data
    found = resolver(turned)
    np.testing.assert_allclose(found.volume.data.transpose(0, 2, 3, 1), expected, atol=1e-2)
    assert found.report.thick_axis == 0


def test_intensity_units_do_not_matter(resolver, scan):
    other = dataclasses.replace(scan, data=3.5 * scan.data - 2000)
    expected = 3.5 * resolver(scan).volume.data - 2000
    np.testing.assert_allclose(resolver(other).volume.data, expected, atol=1.0)


def test_bright_voxels_are_not_clipped(resolver, scan):
    scan.data[0, 11, 12, 3] = 20000.0
    result = resolver(scan)
    assert result.volume.data.max() > 15000


@pytest.mark.parametrize("value", [0.0, 0.1, -7.3, 3e4])
def test_a_constant_scan_comes_back_constant(resolver, value):
    volume = Volume(np.full((1, 8, 9, 4), value, np.float32), affine())
    result = resolver(volume, n4=True, denoise=True, uncertainty=True, correction_map=True)
    assert result.volume.shape == (8, 9, 20)
    assert result.correction.shape == (8, 9, 4)
    assert (result.correction.data == 0).all()
    assert result.report.consistency.correction == result.report.consistency.residual == 0
    assert (result.volume.data == np.float32(value)).all()
    assert (result.uncertainty.data == 0).all()
    assert result.report.scaling is None
    assert result.report.preprocessing == ()


def test_two_slices_are_enough(resolver, phantom):
    result = resolver(Volume(phantom((12, 11, 2)), affine()))
    assert result.volume.shape == (12, 11, 10)
    assert np.isfinite(result.volume.data).all()


def test_the_scan_is_left_alone_and_its_type_kept(resolver, scan):
    before = scan.data.copy()
    result = resolver(scan, n4=True, denoise=True)
    np.testing.assert_array_equal(scan.data, before)
    assert result.volume.stored_dtype == np.int16
    assert result.volume.data.dtype == np.float32
    assert result.volume.data.flags.c_contiguous
    assert result.report.preprocessing == ("N4 bias field correction", "curvature flow denoising")


def test_repeated_calls_agree(resolver, scan):
    np.testing.assert_array_equal(resolver(scan).volume.data, resolver(scan).volume.data)


def test_uncertainty_is_the_spread_over_flips(resolver, scan, monkeypatch):
    plain, gains = resolver(scan), []

    def measured(slices):
        gains.append(slice_gain(slices))
        return gains[-1]

    monkeypatch.setattr("srcyc.inference.super_resolver.slice_gain", measured)
    result = resolver(scan, uncertainty=True)
    assert len(gains) == 1  # of the scan, whichever way round
    np.testing.assert_array_equal(result.volume.data, plain.volume.data)
    assert plain.uncertainty is None

    def unflipped(axes):
        data = np.flip(scan.data, axes) if axes else scan.data
        found = resolver(dataclasses.replace(scan, data=data.copy())).volume.data
        return np.flip(found, axes) if axes else found

    expected = np.std([unflipped(axes) for axes in ((), (1,), (2,), (1, 2))], axis=0)
    assert expected.max() > 1
    np.testing.assert_allclose(result.uncertainty.data, expected, atol=0.2)
    np.testing.assert_array_equal(result.uncertainty.affine, result.volume.affine)
    assert result.uncertainty.stored_dtype == np.float32


# -- the slice thickness -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("stated", "read", "ratio", "source"),
    [
        (None, None, 0.8, "assumed"),
        (None, 3.0, 0.6, "read"),
        (None, 5.0, 1.0, "read"),
        (None, 6.0, 1.0, "assumed"),
        (4.5, None, 0.9, "stated"),
        (4.5, 3.0, 0.9, "stated"),
        (None, 12.0, 1.0, "assumed"),  # no file can mean that
        (None, 40.0, 1.0, "assumed"),
        (None, 0.5, 0.8, "assumed"),
        (None, 0.0, 0.8, "assumed"),
        (None, -1.0, 0.8, "assumed"),
    ],
)
def test_the_thickness_is_stated_or_read_or_assumed(
    published, scan, monkeypatch, stated, read, ratio, source
):
    resolver = SuperResolver(published(depth=1), device="cpu", precision="fp32")
    told: list[Sampling] = []
    stream = resolver._network.stream
    monkeypatch.setattr(
        resolver._network, "stream", lambda sampling: told.append(sampling) or stream(sampling)
    )
    result = resolver(dataclasses.replace(scan, slice_thickness=read), slice_thickness=stated)
    thickness = result.report.thickness
    assert (thickness.source, thickness.ratio) == (source, pytest.approx(ratio))
    assert thickness.millimetres == pytest.approx(5 * ratio)
    # The report, the network and the operator have the same one.
    assert told == [Sampling(5.0, pytest.approx(ratio))]
    image = resolver(
        dataclasses.replace(scan, slice_thickness=read), slice_thickness=stated, correct_slices=False
    )
    error = np.linalg.norm(acquired(image, ratio) - scan.data) / np.linalg.norm(scan.data)
    assert error < (0.02 if ratio > 1 else 5e-3)
    assert result.report.input.slice_thickness == read


@pytest.mark.parametrize(
    ("stated", "read", "told", "source", "ratio", "asked"),
    [
        (None, None, (0.7, 1.0), "estimated", 0.7, 1),
        (None, None, (0.7, 3.0), "assumed", 0.8, 1),  # unlike all that it was learnt from
        (None, None, None, "assumed", 0.8, 1),
        (None, 0.1, (0.7, 1.0), "estimated", 0.7, 1),  # a header that is not believed
        (None, 3.0, (0.7, 1.0), "read", 0.6, 0),
        (4.5, 3.0, (0.7, 1.0), "stated", 0.9, 0),
    ],
)
def test_the_scan_is_asked_only_where_nobody_says(stated, read, told, source, ratio, asked):
    calls = []

    def estimate():
        calls.append(1)
        return None if told is None else ProfileEstimate(told[0], novelty=told[1], limit=2.0)

    thickness, _ = slice_thickness(stated, read, 5.0, estimate)
    assert (thickness.source, thickness.ratio) == (source, pytest.approx(ratio))
    assert len(calls) == asked


def test_the_profile_is_that_of_the_scan_as_it_was_acquired(published, sample_data):
    """Not of the denoised one; the same for the report, the network and the operator."""
    head = read_volume(sample_data / "ch2.nii.gz")
    centre = head.data[:, 40:140, 60:160, 20:140]
    thick, _ = simulate_thick(dataclasses.replace(head, data=centre), 5.0, thickness=3.5, axis=2)
    thick = dataclasses.replace(thick, slice_thickness=None)
    resolver = SuperResolver(published(depth=1), device="cpu", precision="fp32")
    plain, denoised = resolver(thick), resolver(thick, denoise=True)
    assert plain.report.thickness.source == "estimated"
    assert plain.report.thickness.ratio == pytest.approx(0.7, abs=0.15)
    assert denoised.report.thickness == plain.report.thickness
    told = resolver(thick, slice_thickness=plain.report.thickness.millimetres)
    assert told.report.thickness.source == "stated"
    np.testing.assert_allclose(told.volume.data, plain.volume.data, atol=1e-3)


def test_a_thickness_that_cannot_be_one_is_refused(resolver, scan):
    with pytest.raises(
        ConfigError, match=r"slice.thickness 10\.1 mm: slices 5 mm apart are at most 2 times as"
    ):
        resolver(scan, slice_thickness=10.1)
    with pytest.raises(ConfigError, match="slice_thickness"):
        resolver(scan, slice_thickness=0.0)
    assert slice_thickness(10.0, None, 5.0)[0].ratio == 2.0


@pytest.mark.parametrize(
    ("thickness", "warning"),
    [(3.0, None), (2.96, None), (2.9, "wide gaps"), (5.54, None), (5.6, "overlap"), (None, None)],
)
def test_unusual_slices_are_warned_of(thickness, warning):
    """The network was trained with 0.6 to 1.1 of the spacing; headers round."""
    _, warnings = slice_thickness(None, thickness, 5.0)
    assert len(warnings) == (warning is not None)
    assert all(str(warning) in sentence and sentence.endswith(".") for sentence in warnings)


def test_options_are_given_once(resolver, scan):
    options = InferenceOptions(correct_slices=False)
    given, worded = resolver(scan, options), resolver(scan, correct_slices=False)
    np.testing.assert_array_equal(given.volume.data, worded.volume.data)
    with pytest.raises(ConfigError, match="options are given, and uncertainty too"):
        resolver(scan, options, uncertainty=True)
    with pytest.raises(ConfigError, match="no_such"):
        resolver(scan, no_such=1)


# -- ranges and reports ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("spacing", "target", "warned", "refused"),
    [
        ((1.0, 1.0, 5.0), "isotropic", 0, False),
        ((1.0, 1.0, 7.1), "isotropic", 0, False),
        ((1.0, 1.0, 9.0), "isotropic", 1, False),
        ((1.0, 1.0, 12.0), "isotropic", 1, True),
        ((1.0, 1.0, 1.5), "isotropic", 1, False),
        ((0.6, 0.6, 4.0), "isotropic", 1, False),  # brought to the card's 0.8 mm along the slice axis only
        ((0.4, 0.4, 4.0), "isotropic", 1, True),
        ((1.5, 1.5, 6.0), "isotropic", 1, False),
        ((2.5, 2.5, 10.0), "isotropic", 1, True),
        ((2.0, 2.0, 5.0), 1.0, 1, False),  # in-plane too
    ],
)
def test_the_cards_ranges_are_kept(resolver, phantom, spacing, target, warned, refused):
    volume = Volume(phantom((16, 16, 6)), affine(spacing))
    if refused:
        with pytest.raises(ModelError, match=r"(range .*) is far outside what model 'test-model'"):
            resolver(volume, target_spacing=target)
    report = resolver(volume, target_spacing=target, force=refused).report
    assert len(report.warnings) == warned


def test_the_report_tells_all(published, phantom, tmp_path):
    thick, _ = simulate_thick(Volume(900 * phantom((24, 24, 30)), affine((1, 1, 1))), 3.0, axis=2)
    path = write_volume(thick, tmp_path / "thick.nii.gz")
    model = published()
    scan = dataclasses.replace(thick, source=path)

    report = SuperResolver(model, device="cpu", precision="fp32")(scan).report
    dumped = json.loads(json.dumps(report.model_dump(mode="json"), allow_nan=False))

    assert dumped["model"]["sha256"] == model.sha256
    assert dumped["input"]["name"] == "thick.nii.gz"
    assert dumped["input"]["sha256"] == hashlib.sha256(path.read_bytes()).hexdigest()
    assert dumped["input"]["shape"] == [24, 24, 10]
    assert dumped["result"]["shape"] == [24, 24, 30]
    assert dumped["factor"] == 3.0
    assert (dumped["device"], dumped["precision"]) == ("cpu", "fp32")
    assert 0 < dumped["sigma"] < 0.1
    assert dumped["thickness"] == {"millimetres": 3.0, "ratio": 1.0, "source": "read"}
    told = {"applied", "slices_corrected", "correction", "residual", "correction_share"}
    assert dumped["consistency"].keys() == told
    assert dumped["thick_axis"] == 2
    assert dumped["peak_memory"] is None or dumped["peak_memory"] > 1e6
    assert dumped["seconds"] > 0
    assert "diagnostic" in dumped["note"]
    assert dumped["warnings"] == []


def test_a_folder_is_hashed_by_its_files(resolver, scan, tmp_path):
    (tmp_path / "series").mkdir()
    for name in ("2.dcm", "1.dcm"):
        (tmp_path / "series" / name).write_bytes(name.encode())
    report = resolver(dataclasses.replace(scan, source=tmp_path / "series")).report
    assert report.input.sha256 == hashlib.sha256(b"1.dcm2.dcm").hexdigest()


def test_memory_only_data_has_no_hash(resolver, scan):
    report = resolver(scan).report
    assert (report.input.name, report.input.sha256) == (None, None)


def test_progress_rises_from_zero_to_one(resolver, scan):
    shares: list[float] = []
    resolver(scan, progress=shares.append, uncertainty=True)
    assert shares[0] == 0.0
    assert shares[-1] == 1.0
    assert shares == sorted(shares)


def test_bad_input_is_refused(resolver, scan, phantom):
    def changed(**values):
        return dataclasses.replace(scan, **values)

    infinite = scan.data.copy()
    infinite[0, 1, 2, 3] = np.inf
    cases = [
        (changed(data=infinite), VolumeError, "infinite"),
        (changed(data=np.full_like(scan.data, np.nan)), VolumeError, "NaN"),
        (changed(data=np.concatenate([scan.data, scan.data])), VolumeError, "2 channels"),
        (changed(data=scan.data[..., :1]), VolumeError, "22 x 25 x 1 voxels"),
        (changed(data=scan.data[:, :1]), VolumeError, "at least 2 along each axis"),
        (changed(affine=affine((1, 1, 1))), NothingToDoError, "nothing to do"),
    ]
    for volume, kind, message in cases:
        with pytest.raises(kind, match=message):
            resolver(volume)
    with pytest.raises(ConfigError, match="target_spacing"):
        resolver(scan, target_spacing=-1.0)


def test_impossible_settings_are_refused(published, scan):
    model = published()
    for settings in (
        {"max_memory": 0},
        {"max_memory": float("nan")},
        {"tile": 0},
        {"device": "gpu"},
        {"precision": "x"},
    ):
        with pytest.raises(ConfigError):
            SuperResolver(model, **settings)
    with pytest.raises(ConfigError, match=r"max.memory"):
        SuperResolver(model, max_memory=1e-4)(scan)


def test_models_load_by_path_and_unknown_names_are_refused(published, scan):
    path = published().path
    assert SuperResolver.load(path, precision="fp32")(scan).volume.shape == (22, 25, 35)
    with pytest.raises(ModelError, match="no-such-model"):
        SuperResolver.from_pretrained("no-such-model")
