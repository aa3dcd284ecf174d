"""NRRD and MetaImage: units, thicknesses, headers of their own, and sizes that are checked first."""

from __future__ import annotations

import os
import sys
import tempfile
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

from srcyc.errors import VolumeError
from srcyc.volumes.finding import survey
from srcyc.volumes.formats.itk import quiet_itk
from srcyc.volumes.image_files import detached_data
from srcyc.volumes.volume import read_grid, read_volume

SHAPE = (4, 5, 3)
DATA = np.arange(60, dtype="<i2").reshape(SHAPE)
RAW = DATA.tobytes(order="F")


def nrrd(path: Path, *lines: str, data: bytes = RAW, encoding: str = "raw") -> Path:
    header = [
        "NRRD0005",
        "type: short",
        "dimension: 3",
        "sizes: 4 5 3",
        f"encoding: {encoding}",
        "endian: little",
    ]
    path.write_bytes("\n".join([*header, *lines, "", ""]).encode() + data)
    return path


def in_space(scale: float, unit: str | None) -> tuple[str, ...]:
    step, thick = f"{scale:g}", f"{5 * scale:g}"
    lines = (
        "space: left-posterior-superior",
        f"space directions: ({step},0,0) (0,{step},0) (0,0,{thick})",
        f"space origin: ({10 * scale:g},0,0)",
    )
    return lines if unit is None else (*lines, f'space units: "{unit}" "{unit}" "{unit}"')


@pytest.mark.parametrize(
    ("unit", "scale"),
    [
        (None, 1),
        ("mm", 1),
        ("cm", 0.1),
        ("m", 1e-3),
        ("um", 1000),
        ("micron", 1000),
        ("Meter", 1e-3),
        ("in", 1 / 25.4),
    ],
)
def test_units_of_nrrd(tmp_path: Path, unit: str | None, scale: float) -> None:
    path = nrrd(tmp_path / "scan.nrrd", *in_space(scale, unit))
    volume = read_volume(path)
    np.testing.assert_allclose(
        volume.affine, [[-1, 0, 0, -10], [0, -1, 0, 0], [0, 0, 5, 0], [0, 0, 0, 1]], rtol=1e-4
    )
    np.testing.assert_allclose(read_grid(path).affine, volume.affine)
    np.testing.assert_array_equal(volume.data[0], DATA)
    assert volume.warnings == ()


def test_units_beside_plain_spacings(tmp_path: Path) -> None:
    path = nrrd(tmp_path / "scan.nrrd", "spacings: 0.1 0.1 0.5", 'units: "cm" "cm" "cm"')
    np.testing.assert_allclose(read_volume(path).spacing, (1, 1, 5))


def test_a_unit_that_nobody_knows_is_told(tmp_path: Path) -> None:
    (warning,) = read_volume(nrrd(tmp_path / "scan.nrrd", *in_space(1, "furlong"))).warnings
    assert "furlong" in warning


@pytest.mark.parametrize(("unit", "scale"), [("mm", 1.0), ("cm", 0.1), ("um", 1000.0)])
def test_units_of_metaimage(tmp_path: Path, unit: str, scale: float) -> None:
    image = sitk.GetImageFromArray(np.ascontiguousarray(DATA.T))
    image.SetSpacing((scale, scale, 5 * scale))
    sitk.WriteImage(image, str(tmp_path / "scan.mha"))
    raw = (tmp_path / "scan.mha").read_bytes()
    (tmp_path / "scan.mha").write_bytes(raw.replace(b"NDims", f"DistanceUnits = {unit}\nNDims".encode(), 1))
    np.testing.assert_allclose(read_volume(tmp_path / "scan.mha").spacing, (1, 1, 5))


@pytest.mark.parametrize(
    ("lines", "thickness"),
    [
        (("thicknesses: nan nan 3",), 3.0),
        (("thicknesses: 1 1 4.5",), 4.5),
        (("thicknesses: nan nan nan",), None),
        (("thicknesses: 1 1 3x",), None),
        ((), None),
    ],
)
def test_thicknesses(tmp_path: Path, lines: tuple[str, ...], thickness: float | None) -> None:
    assert read_volume(nrrd(tmp_path / "a.nrrd", *in_space(1, None), *lines)).slice_thickness == thickness


def test_thicknesses_are_in_the_unit_of_the_file(tmp_path: Path) -> None:
    path = nrrd(tmp_path / "a.nrrd", *in_space(0.1, "cm"), "thicknesses: nan nan 0.3")
    assert read_volume(path).slice_thickness == pytest.approx(3.0)


def test_a_header_of_its_own(tmp_path: Path) -> None:
    (tmp_path / "scan.raw").write_bytes(RAW)
    path = nrrd(tmp_path / "scan.nhdr", *in_space(1, "mm"), "data file: scan.raw", data=b"")
    np.testing.assert_array_equal(read_volume(path).data[0], DATA)
    assert detached_data(path) == "scan.raw"
    (tmp_path / "scan.raw").write_bytes(RAW[:-2])
    for read in (read_volume, read_grid):
        with pytest.raises(VolumeError, match=r"truncated.*scan\.raw"):
            read(path)
    (tmp_path / "scan.raw").unlink()
    with pytest.raises(VolumeError, match=r"data file 'scan\.raw' is not there"):
        read_grid(path)


@pytest.mark.parametrize("suffix", [".nrrd", ".mha", ".mhd"])
@pytest.mark.parametrize("damage", ["cut", "changed", "zeros"])
def test_packed_voxels_that_are_damaged_are_refused(tmp_path: Path, suffix: str, damage: str) -> None:
    """MetaIO reads what it could unpack, and says nothing."""
    path = tmp_path / f"scan{suffix}"
    sitk.WriteImage(sitk.GetImageFromArray(np.arange(6000, dtype="<i2").reshape(20, 20, 15)), str(path), True)
    assert read_volume(path).shape == (15, 20, 20)
    victim = path.with_suffix(".zraw") if suffix == ".mhd" else path
    raw = victim.read_bytes()
    changed = {"cut": b"", "changed": b"abcdef" + raw[-494:], "zeros": bytes(500)}
    victim.write_bytes(raw[:-500] + changed[damage])
    with pytest.raises(VolumeError, match=r"truncated|damaged"):
        read_volume(path)


@pytest.mark.parametrize("name", ["scan.raw", "./scan.raw", "deep/scan.raw"])
def test_voxels_beside_or_below_their_header_are_a_part_of_the_scan(tmp_path: Path, name: str) -> None:
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).write_bytes(RAW)
    path = nrrd(tmp_path / "scan.nhdr", *in_space(1, "mm"), f"data file: {name}", data=b"")
    assert read_volume(path).files == (path, tmp_path / name)
    found = survey(tmp_path)
    assert (found.volumes, found.left_out) == ([path], [])


def test_a_header_that_promises_too_much_is_refused_before_anything_is_allocated(tmp_path: Path) -> None:
    for encoding in ("raw", "gzip"):
        path = tmp_path / f"{encoding}.nrrd"
        text = nrrd(path, *in_space(1, "mm"), encoding=encoding).read_bytes()
        path.write_bytes(text.replace(b"sizes: 4 5 3", b"sizes: 30000 30000 9000"))
        for read in (read_volume, read_grid):
            with pytest.raises(VolumeError, match="promises"):
                read(path)


def test_what_does_not_fit_into_memory_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("srcyc.memory.available_memory", lambda: 100)
    with pytest.raises(VolumeError, match="memory"):
        read_volume(nrrd(tmp_path / "scan.nrrd", *in_space(1, "mm")))


def test_voxels_in_several_files(tmp_path: Path) -> None:
    for number, part in enumerate(np.moveaxis(DATA, 2, 0)):
        (tmp_path / f"{number}.raw").write_bytes(part.tobytes(order="F"))
    path = nrrd(tmp_path / "scan.nhdr", *in_space(1, "mm"), "data file: %d.raw 0 2 1", data=b"")
    np.testing.assert_array_equal(read_volume(path).data[0], DATA)
    (tmp_path / "2.raw").unlink()
    with pytest.raises(VolumeError, match="not a readable"):
        read_volume(path)


def test_what_is_said_beside_itk_is_not_lost(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    with quiet_itk():
        os.write(2, b"from another thread")
        assert capfd.readouterr().err == ""
    assert capfd.readouterr().err == "from another thread"
    with pytest.raises(RuntimeError), quiet_itk():
        os.write(2, b"what ITK says when it fails")
        raise RuntimeError
    assert capfd.readouterr().err == ""
    with monkeypatch.context() as patch:
        patch.setattr(sys, "stderr", None)  # a program without a console
        with quiet_itk():
            pass
        patch.setattr(tempfile, "tempdir", str(tmp_path / "none"))  # noise is better than no image
        with quiet_itk():
            os.write(2, b"noise")
    assert capfd.readouterr().err == "noise"
