"""The one writer of results: which files appear, what the sidecar says, and that nothing partial is left."""

from __future__ import annotations

import json
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from srcyc.errors import OutputError
from srcyc.inference.options import InferenceOptions
from srcyc.inference.report import (
    ConsistencyReport,
    ModelReport,
    Report,
    ResultReport,
    describe_input,
)
from srcyc.inference.results import Place, fit_type, maps_of, volume_stem, write_result
from srcyc.inference.super_resolver import SuperResolution
from srcyc.physics.thickness import SliceThickness
from srcyc.volumes.formats.raw import Scaling
from srcyc.volumes.intensity import IntensityScaling
from srcyc.volumes.volume import Volume, read_volume

FINE, SLICES = np.eye(4), np.diag([1.0, 1.0, 4.0, 1.0])


@pytest.fixture
def scan() -> Volume:
    data = np.random.default_rng(0).integers(0, 200, (1, 6, 5, 4)).astype(np.float32)
    return Volume(data, SLICES, np.dtype(np.uint8))


@pytest.fixture
def result(scan: Volume) -> SuperResolution:
    """As the network would give it, above what eight bits hold in one voxel."""
    data = np.repeat(scan.data, 4, axis=3) + 0.25
    data[0, 0, 0, 0] = 300
    volume = Volume(data, FINE)
    report = Report(
        software="srcyc test",
        model=ModelReport(name="m", sha256="0", licence="CC0"),
        input=describe_input(scan),
        result=ResultReport(shape=volume.shape, spacing=volume.spacing),
        options=InferenceOptions(),
        thick_axis=2,
        factor=4.0,
        thickness=SliceThickness(millimetres=3.2, ratio=0.8, source="assumed"),
        scaling=IntensityScaling(offset=0.0, scale=1.0),
        sigma=0.01,
        consistency=ConsistencyReport(applied=True, slices_corrected=True, correction=0.014, residual=1e-6),
        preprocessing=(),
        device="cpu",
        precision="fp32",
        seconds=1.0,
        peak_memory=None,
        warnings=("the scan is noisy.",),
    )
    return SuperResolution(
        volume, report, Volume(np.full_like(data, 2), FINE), Volume(np.full_like(scan.data, -1), SLICES)
    )


@pytest.mark.parametrize(
    ("name", "stem"),
    [("a.nii.gz", "a"), ("a.b.NII", "a.b"), ("x.mha", "x"), ("series", "series"), ("v1.2", "v1.2")],
)
def test_the_stem_of_a_volume(name: str, stem: str) -> None:
    assert volume_stem(Path(name)) == stem


def test_names_of_what_belongs_together() -> None:
    place = Place(Path("/out/a.b.nii.gz"))
    assert place.sidecar == Path("/out/a.b.json")
    assert place.preview == Path("/out/a.b.png")
    assert place.map("correction") == Path("/out/a.b_correction.nii.gz")


@pytest.mark.parametrize("suffix", [".nii.gz", ".mhd"])
def test_volume_maps_and_sidecar_appear_together(
    tmp_path: Path, scan: Volume, result: SuperResolution, suffix: str
) -> None:
    out = tmp_path / f"thin{suffix}"
    written = write_result(result, scan, out)
    stems = ("thin", "thin_uncertainty", "thin_correction")
    raws = {f"{stem}.raw" for stem in stems if suffix == ".mhd"}
    assert {path.name for path in tmp_path.iterdir()} == {
        "thin.json",
        *raws,
        *(f"{stem}{suffix}" for stem in stems),
    }
    assert written.volume == out
    np.testing.assert_array_equal(read_volume(out).data, result.volume.data)
    for name, path in written.maps.items():
        kept, made = read_volume(path), getattr(result, name)
        np.testing.assert_array_equal(kept.data, made.data)
        np.testing.assert_allclose(kept.affine, made.affine)
    sidecar = json.loads((tmp_path / "thin.json").read_text(encoding="utf-8"))
    assert sidecar == written.sidecar
    assert (sidecar["output"], sidecar["output_type"]) == (out.name, "float32")
    assert (sidecar["uncertainty"], sidecar["correction"]) == (
        f"thin_uncertainty{suffix}",
        f"thin_correction{suffix}",
    )
    report = result.report.model_dump(mode="json")
    assert {key: sidecar[key] for key in report} == report


def test_without_maps_the_sidecar_names_none(tmp_path: Path, scan: Volume, result: SuperResolution) -> None:
    plain = SuperResolution(result.volume, result.report)
    assert maps_of(plain) == {}
    written = write_result(plain, scan, tmp_path / "thin.nii", sidecar=False)
    assert [path.name for path in tmp_path.iterdir()] == ["thin.nii"]
    assert not {"uncertainty", "correction"} & written.sidecar.keys()


@pytest.mark.parametrize(("dtype", "kind"), [("input", "uint8"), ("uint8", "uint8"), ("int16", "int16")])
def test_an_integer_type_is_rounded_to_and_limited(
    tmp_path: Path, scan: Volume, result: SuperResolution, dtype: str, kind: str
) -> None:
    written = write_result(result, scan, tmp_path / "thin.nii", dtype=dtype)
    kept = read_volume(tmp_path / "thin.nii")
    assert kept.stored_dtype == np.dtype(kind)
    assert written.sidecar["output_type"] == kind
    expected = np.rint(result.volume.data)
    np.testing.assert_array_equal(kept.data, np.minimum(expected, 255) if kind == "uint8" else expected)
    assert len(written.sidecar["warnings"]) == (2 if kind == "uint8" else 1)
    # A map of whole numbers would be none.
    assert read_volume(written.maps["uncertainty"]).stored_dtype == np.float32


def test_a_scan_of_floats_stays_one(tmp_path: Path, scan: Volume, result: SuperResolution) -> None:
    floats = Volume(scan.data, scan.affine, np.dtype(np.float64))
    written = write_result(result, floats, tmp_path / "thin.nii", dtype="input")
    assert written.sidecar["output_type"] == "float32"


def test_a_picture_appears_with_the_rest_or_not_at_all(
    tmp_path: Path, scan: Volume, result: SuperResolution, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = []

    def draw(path: Path, scan: Volume, volume: Volume, *, headline: str) -> None:
        seen.append((volume.data.max(), headline))
        path.write_bytes(b"picture")

    monkeypatch.setattr("srcyc.evaluation.figure.preview_figure", draw)
    write_result(result, scan, tmp_path / "thin.nii", dtype="uint8", preview=True)
    assert (tmp_path / "thin.png").read_bytes() == b"picture"
    ((brightest, headline),) = seen
    assert brightest == 255, "it is drawn as it is written"
    assert result.report.model.name in headline

    def fail(path: Path, *args: Volume, headline: str) -> None:
        draw(path, *args, headline=headline)
        raise ZeroDivisionError

    monkeypatch.setattr("srcyc.evaluation.figure.preview_figure", fail)
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}
    with pytest.raises(ZeroDivisionError):
        write_result(result, scan, tmp_path / "other.nii", preview=True)
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_private_files_are_nobody_else_s(tmp_path: Path, scan: Volume, result: SuperResolution) -> None:
    write_result(result, scan, tmp_path / "thin.nrrd", private=True)
    assert {path.stat().st_mode & 0o077 for path in tmp_path.iterdir()} == {0}


def test_a_place_that_is_none_is_named(tmp_path: Path, scan: Volume, result: SuperResolution) -> None:
    (tmp_path / "file").write_text("no folder")
    with pytest.raises(
        OutputError, match=r"thin\.nii: cannot be written .*; free some space or choose another"
    ):
        write_result(result, scan, tmp_path / "file" / "thin.nii")


@pytest.mark.parametrize("kind", [np.uint8, np.int16, np.int32])
def test_limits_of_a_type_are_values_of_it(kind: type) -> None:
    limits = np.iinfo(kind)
    data = np.array([-1e10, 0, 1e10], np.float32).reshape(1, 1, 1, 3)
    fitted, warnings = fit_type(Volume(data, FINE), np.dtype(kind))
    assert limits.min <= fitted.data.min() and fitted.data.max() <= limits.max
    assert warnings[0].startswith("2 of 3 voxels")
    assert fit_type(fitted, np.dtype(kind)) == (fitted, [])


def test_limits_of_scaled_integers_are_told_as_values() -> None:
    scaling = Scaling(np.dtype(np.int16), slope=-0.5, intercept=10.0)
    data = np.array([-1e6, 0, 1e6], np.float32).reshape(1, 1, 1, 3)
    fitted, (warning,) = fit_type(Volume(data, FINE), scaling.dtype, scaling)
    assert fitted.data.ravel().tolist() == [-16373.5, 0, 16394]
    assert "as its header scales it" in warning and "(-16373.5 to 16394)" in warning


def test_every_file_names_its_model_and_what_it_is_not_for(
    tmp_path: Path, result: SuperResolution, scan: Volume
) -> None:
    labels = Volume((scan.data > 100).astype(np.float32), SLICES, np.dtype(np.uint8))
    written = write_result(result, scan, tmp_path / "a.nii.gz", labels=labels)
    contents = {"volume": written.volume, **written.maps, "labels": tmp_path / "a_labels.nii.gz"}
    for content, path in contents.items():
        header = nib.load(path).header
        assert header["descrip"].item().decode().endswith("not for diagnostic use")
        (fields,) = (json.loads(one.get_content()) for one in header.extensions)
        assert (fields["content"], fields["model"]) == (content, "m")
        assert "Not for diagnostic use" in fields["note"]
    assert len(contents) == 4
