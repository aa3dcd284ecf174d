from __future__ import annotations

import dataclasses
import hashlib
import json

import numpy as np
import pytest
import torch

from srcyc.acquisition import Acquisition
from srcyc.errors import ConfigError, ModelError, NothingToDoError, VolumeError
from srcyc.inference import SuperResolver
from srcyc.intensity import robust_scaling
from srcyc.simulation import simulate_thick
from srcyc.volume import Volume, write_volume


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
    return Volume(900 * phantom((22, 25, 7)) + 40, affine(), np.dtype(np.int16), 5.0)


@pytest.fixture
def resolver(published) -> SuperResolver:
    return SuperResolver(published(), device="cpu", precision="fp32")


def test_it_is_upscale_then_refine_in_one_piece(resolver, scan):
    """The same numbers as the plain network on the whole volume."""
    scaling = robust_scaling(scan.data)
    y = torch.from_numpy(scaling.normalise(scan.data))[None]
    result = resolver(scan, consistency=False)
    sigma = torch.tensor([result.report.sigma])
    with torch.no_grad():
        plain = resolver.model.network(y, size=(22, 25, 35), thickness_ratio=1.0, sigma=sigma)
        upscaled = resolver.model.network.upscale(y, (22, 25, 35))

    expected = scaling.invert(plain[0].numpy())
    assert np.abs(plain - upscaled).max() > 0.05
    np.testing.assert_allclose(result.volume.data, expected, atol=1e-4 * scaling.scale)


@pytest.mark.parametrize("tile", [1, 6, 500])
def test_the_tile_does_not_change_the_result(published, scan, tile):
    model = published(features=16, depth=5)
    whole = SuperResolver(model, device="cpu", precision="fp32")(scan)
    tiled = SuperResolver(model, device="cpu", precision="fp32", tile=tile)(scan)
    scale = whole.report.scaling.scale
    np.testing.assert_allclose(tiled.volume.data, whole.volume.data, atol=1e-4 * scale)


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

    result = SuperResolver(published(), precision="fp32")(volume).volume

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


def test_thick_slices_are_kept_within_the_noise_if_asked(resolver, scan):
    with_it, without = resolver(scan), resolver(scan, consistency=False)
    operator = Acquisition((22, 25, 35), (22, 25, 7), 1.0)
    scaling = robust_scaling(scan.data)
    y = torch.from_numpy(scaling.normalise(scan.data))

    def normalised(result):
        return torch.from_numpy(scaling.normalise(result.volume.data))

    told = with_it.report.consistency
    assert told.applied
    assert told.before == pytest.approx(operator.residual(normalised(without), y), rel=1e-3)
    assert told.after == pytest.approx(operator.residual(normalised(with_it), y), rel=1e-3)
    assert told.after < 0.5 * told.before
    left = (operator.apply(normalised(with_it)) - y).abs().max()
    assert left == pytest.approx(told.tolerance, rel=0.05)
    assert told.tolerance >= with_it.report.sigma > 0
    assert not without.report.consistency.applied
    assert without.report.consistency.before == without.report.consistency.after == pytest.approx(told.before)


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
    result = resolver(volume, n4=True, denoise=True, uncertainty=True)
    assert result.volume.shape == (8, 9, 20)
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


def test_uncertainty_is_the_spread_over_flips(resolver, scan):
    plain, result = resolver(scan), resolver(scan, uncertainty=True)
    np.testing.assert_array_equal(result.volume.data, plain.volume.data)
    assert plain.uncertainty is None

    def unflipped(axes):
        data = np.flip(scan.data, axes) if axes else scan.data
        found = resolver(dataclasses.replace(scan, data=data.copy()), consistency=False).volume.data
        return np.flip(found, axes) if axes else found

    expected = np.std([unflipped(axes) for axes in ((), (1,), (2,), (1, 2))], axis=0)
    assert expected.max() > 1
    np.testing.assert_allclose(result.uncertainty.data, expected, atol=0.2)
    np.testing.assert_array_equal(result.uncertainty.affine, result.volume.affine)
    assert result.uncertainty.stored_dtype == np.float32


def test_the_network_is_told_factor_and_thickness(published, phantom, monkeypatch):
    told = []
    model = published()
    folded = model.network.folded
    monkeypatch.setattr(model.network, "folded", lambda *sampling: told.append(sampling) or folded(*sampling))
    data = phantom((20, 20, 6))
    resolver = SuperResolver(model, precision="fp32")
    for thickness in (None, 3.0, 5.0, 6.0):
        resolver(Volume(data, affine(), slice_thickness=thickness))
    assert told == [(5.0, 1.0), (5.0, 0.6), (5.0, 1.0), (5.0, 1.0)]


def test_unusual_slices_are_warned_of(resolver, phantom):
    data = phantom((20, 20, 6))

    def report(thickness):
        return resolver(Volume(data, affine(), slice_thickness=thickness)).report

    assert report(5.0).warnings == report(3.0).warnings == ()
    overlap, gap, wide = report(6.0), report(1.0), report(40.0)
    assert "overlap" in overlap.warnings[0]
    assert overlap.thickness_ratio == pytest.approx(1.2)
    assert "gaps" in gap.warnings[0]
    assert gap.thickness_ratio == pytest.approx(0.2)
    assert wide.thickness_ratio == 2.0


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
    assert 0 < dumped["projection_gain"] <= 1
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

    nan = scan.data.copy()
    nan[0, 1, 2, 3] = np.nan
    cases = [
        (changed(data=nan), VolumeError, "NaN or infinite"),
        (changed(data=np.concatenate([scan.data, scan.data])), VolumeError, "2 channels"),
        (changed(data=scan.data[..., :1]), VolumeError, "22 x 25 x 1 voxels"),
        (changed(data=scan.data[:, :2]), VolumeError, "at least 3"),
        (changed(affine=affine((1, 1, 1))), NothingToDoError, "nothing to do"),
    ]
    for volume, kind, message in cases:
        with pytest.raises(kind, match=message):
            resolver(volume)
    with pytest.raises(ConfigError, match="target spacing"):
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
    with pytest.raises(ConfigError, match="max memory"):
        SuperResolver(model, max_memory=1e-4)(scan)


def test_models_load_by_path_and_unknown_names_are_refused(published, scan):
    path = published().path
    assert SuperResolver.load(path, precision="fp32")(scan).volume.shape == (22, 25, 35)
    with pytest.raises(ModelError, match="no-such-model"):
        SuperResolver.from_pretrained("no-such-model")


def test_a_2d_model_is_refused(published):
    model = published()
    flat = model.card.network.model_copy(update={"spatial_dims": 2})
    model = dataclasses.replace(model, card=model.card.model_copy(update={"network": flat}))
    with pytest.raises(ModelError, match="2D"):
        SuperResolver(model)
