"""NIfTI as the standard says: where the voxels begin, which form counts, what results say of their place."""

from __future__ import annotations

import gzip
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk
from hypothesis import given, settings
from hypothesis import strategies as st

from factories import make_affine, rotation
from srcyc.errors import VolumeError
from srcyc.volumes.volume import Volume, read_grid, read_volume, write_volume

SHAPE = (6, 5, 4)
DATA = np.random.default_rng(0).integers(0, 900, SHAPE).astype(np.int16)
OBLIQUE = make_affine(rotation(0.3, -0.2, 0.4), (0.9, 1.0, 5.0), (-11.0, 7.0, -3.0))
OTHER = make_affine(rotation(-0.1, 0.2, 0.1), (0.9, 1.0, 5.0), (40.0, 10.0, 5.0))
LPS = np.diag([-1.0, -1.0, 1.0, 1.0])


def raw_nifti(
    affine: np.ndarray = OBLIQUE,
    data: np.ndarray = DATA,
    kind: Any = nib.Nifti1Image,
    *,
    qform: np.ndarray | None = None,
    codes: tuple[int, int] = (1, 1),
    **fields: Any,
) -> bytes:
    """The bytes of a file; header fields are overwritten as they are. Codes: qform, sform."""
    image = kind(data, affine)
    header = image.header
    header.set_qform(affine if qform is None else qform, 1)
    header.set_sform(affine, 1)
    header.set_xyzt_units("mm")
    raw = bytearray(image.to_bytes())
    names = header.template_dtype.fields
    for key, value in {"qform_code": codes[0], "sform_code": codes[1], **fields}.items():
        field = np.zeros((), names[key][0])
        field[...] = value
        raw[names[key][1] : names[key][1] + field.nbytes] = field.tobytes()
    return bytes(raw)


def saved(folder: Path, raw: bytes, name: str = "scan.nii") -> Path:
    path = folder / name
    path.write_bytes(gzip.compress(raw) if name.endswith(".gz") else raw)
    return path


def centre(shape: tuple[int, ...], affine: np.ndarray) -> np.ndarray:
    return nib.affines.apply_affine(affine, np.array(shape) / 2 - 0.5)


# -- where the voxels begin ----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["scan.nii", "scan.nii.gz"])
@pytest.mark.parametrize("offset", [0, 1, 300, 348, 351, 352])
def test_an_offset_into_the_header_means_the_byte_behind_it(tmp_path: Path, name: str, offset: int) -> None:
    path = saved(tmp_path, raw_nifti(vox_offset=offset), name)
    np.testing.assert_array_equal(read_volume(path).data[0], DATA)


@pytest.mark.parametrize("offset", [0, 540, 544])
def test_nifti_2_begins_later(tmp_path: Path, offset: int) -> None:
    path = saved(tmp_path, raw_nifti(kind=nib.Nifti2Image, vox_offset=offset))
    np.testing.assert_array_equal(read_volume(path).data[0], DATA)


@pytest.mark.parametrize("extra", [16, 1000])
def test_extensions_lie_between_header_and_voxels(
    tmp_path: Path, extra: int, caplog: pytest.LogCaptureFixture
) -> None:
    raw = raw_nifti(vox_offset=352 + extra)
    path = saved(tmp_path, raw[:352] + bytes(extra) + raw[352:])
    np.testing.assert_array_equal(read_volume(path).data[0], DATA)
    assert not caplog.records  # nibabel says of the longer ones that SPM does not read them


@pytest.mark.parametrize("offset", [np.nan, np.inf, -np.inf, -352.0, 1e30])
def test_an_offset_that_is_none_is_a_sentence(tmp_path: Path, offset: float) -> None:
    path = saved(tmp_path, raw_nifti(vox_offset=offset))
    for read in (read_volume, read_grid):
        with pytest.raises(VolumeError, match=r"vox_offset|truncated"):
            read(path)


# -- gzip ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "change",
    [
        lambda packed: packed + b"trailing",
        lambda packed: packed + bytes(70_000),
        lambda packed: packed + np.random.default_rng(0).bytes(200_000),
        lambda packed: packed + gzip.compress(b"another member"),
    ],
    ids=["text", "zeros", "noise", "another member"],
)
def test_bytes_after_the_gzip_data_are_passed_over(tmp_path: Path, change: Callable[[bytes], bytes]) -> None:
    path = tmp_path / "scan.nii.gz"
    path.write_bytes(change(gzip.compress(raw_nifti())))
    np.testing.assert_array_equal(read_volume(path).data[0], DATA)


def test_gzip_data_of_several_members(tmp_path: Path) -> None:
    raw = raw_nifti()
    path = tmp_path / "scan.nii.gz"
    path.write_bytes(b"".join(gzip.compress(part) for part in (raw[:100], raw[100:400], raw[400:])))
    np.testing.assert_array_equal(read_volume(path).data[0], DATA)


def test_plain_data_under_a_packed_name_and_the_other_way_round(tmp_path: Path) -> None:
    (tmp_path / "scan.nii.gz").write_bytes(raw_nifti())
    (tmp_path / "scan.nii").write_bytes(gzip.compress(raw_nifti()))
    for name in ("scan.nii.gz", "scan.nii"):
        np.testing.assert_array_equal(read_volume(tmp_path / name).data[0], DATA)


def test_a_header_that_promises_too_much_is_refused_before_anything_is_allocated(tmp_path: Path) -> None:
    """32 TB of voxels in a file of 500 bytes, plain and packed."""
    for name in ("scan.nii", "scan.nii.gz"):
        path = saved(tmp_path, raw_nifti(dim=[3, 32000, 32000, 16000, 1, 1, 1, 1]), name)
        for read in (read_volume, read_grid):
            with pytest.raises(VolumeError, match="promises"):
                read(path)


def test_packed_zeros_larger_than_memory_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("srcyc.memory.available_memory", lambda: 500)
    path = saved(tmp_path, raw_nifti(data=np.zeros(SHAPE, np.int16)), "scan.nii.gz")
    with pytest.raises(VolumeError, match="memory"):
        read_volume(path)
    assert read_grid(path).shape == SHAPE


# -- pairs ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [nib.Nifti1Pair, nib.Nifti2Pair])
@pytest.mark.parametrize(("header", "image"), [(".hdr", ".img"), (".hdr.gz", ".img.gz")])
def test_pairs_are_read_by_either_name(tmp_path: Path, kind: Any, header: str, image: str) -> None:
    nib.save(kind(DATA, OBLIQUE), tmp_path / f"scan{image}")
    for name in (f"scan{header}", f"scan{image}"):
        volume = read_volume(tmp_path / name)
        np.testing.assert_array_equal(volume.data[0], DATA)
        np.testing.assert_allclose(volume.affine, OBLIQUE, atol=1e-5)
        assert volume.stored_dtype == np.int16


def test_half_a_pair_is_refused_by_name(tmp_path: Path) -> None:
    nib.save(nib.Nifti1Pair(DATA, OBLIQUE), tmp_path / "scan.img")
    (tmp_path / "scan.img").rename(tmp_path / "lonely.img")
    with pytest.raises(VolumeError, match=r"scan\.img, which is not there"):
        read_volume(tmp_path / "scan.hdr")
    with pytest.raises(VolumeError, match=r"header \(\.hdr\) does not lie beside it"):
        read_volume(tmp_path / "lonely.img")


def test_analyze_says_nothing_of_left_and_right(tmp_path: Path) -> None:
    nib.save(nib.AnalyzeImage(DATA, np.diag([1, 1, 5, 1.0])), tmp_path / "scan.img")
    with pytest.raises(VolumeError, match="Analyze"):
        read_volume(tmp_path / "scan.hdr")


# -- forms ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "rows",
    [np.zeros((3, 4)), np.full((3, 4), np.nan), np.array([[1, 1, 0, 0], [1, 1, 0, 0], [0, 0, 1, 0]])],
    ids=["zeros", "NaN", "singular"],
)
def test_a_bad_sform_makes_the_qform_count(tmp_path: Path, rows: np.ndarray) -> None:
    path = saved(tmp_path, raw_nifti(srow_x=rows[0], srow_y=rows[1], srow_z=rows[2]))
    volume = read_volume(path)
    np.testing.assert_allclose(volume.affine, OBLIQUE, atol=1e-5)
    (warning,) = volume.warnings
    assert "qform counts" in warning
    out = write_volume(volume, tmp_path / "out.nii")
    np.testing.assert_allclose(nib.load(out).affine, OBLIQUE, atol=1e-5)


def test_a_bad_sform_without_a_qform_is_refused(tmp_path: Path) -> None:
    path = saved(tmp_path, raw_nifti(codes=(0, 1), srow_x=[0] * 4, srow_y=[0] * 4, srow_z=[0] * 4))
    with pytest.raises(VolumeError, match="singular"):
        read_volume(path)


@settings(deadline=None, max_examples=50)
@given(st.floats(-1, 1), st.floats(-1, 1), st.floats(-1, 1), st.floats(0, 1e-4))
def test_quaternions_within_rounding_of_the_unit_sphere(b: float, c: float, d: float, off: float) -> None:
    """Half turns: writers leave the sphere by their rounding."""
    from srcyc.volumes.formats.nifti import _qform

    length = np.sqrt(b * b + c * c + d * d)
    if length < 0.1:
        return
    header = nib.Nifti1Header()
    header["pixdim"][:4] = (1, 1, 2, 3)
    for name, value in zip("bcd", (b, c, d), strict=True):
        header[f"quatern_{name}"] = value / length * (1 + off)
    affine, problem = _qform(header)
    assert affine is not None, problem
    turn = affine[:3, :3] / (1, 2, 3)
    np.testing.assert_allclose(turn @ turn.T, np.eye(3), atol=1e-5)
    assert np.linalg.det(turn) == pytest.approx(1, abs=1e-5)


def test_a_quaternion_that_is_none_is_refused_unless_an_sform_stands_beside_it(tmp_path: Path) -> None:
    raw = {"quatern_b": 3.0, "quatern_c": 0.0, "quatern_d": 0.0}
    with pytest.raises(VolumeError, match="quaternion"):
        read_volume(saved(tmp_path, raw_nifti(codes=(1, 0), **raw)))
    volume = read_volume(saved(tmp_path, raw_nifti(codes=(1, 1), **raw)))
    np.testing.assert_allclose(volume.affine, OBLIQUE, atol=1e-5)


@pytest.mark.parametrize("codes", [(1, 0), (0, 1), (0, 4), (2, 4), (1, 1), (3, 2)])
def test_codes_are_kept(tmp_path: Path, codes: tuple[int, int]) -> None:
    volume = read_volume(saved(tmp_path, raw_nifti(codes=codes)))
    assert volume.warnings == ()
    out = write_volume(thin(volume), tmp_path / "out.nii.gz")
    header = nib.load(out).header
    assert (int(header["qform_code"]), int(header["sform_code"])) == codes
    image, scan = sitk.ReadImage(str(out)), sitk.ReadImage(str(tmp_path / "scan.nii"))
    np.testing.assert_allclose(middle(image), middle(scan), atol=1e-3)
    np.testing.assert_allclose(image.GetDirection(), scan.GetDirection(), atol=1e-4)


def thin(volume: Volume) -> Volume:
    """The same on a grid of thinner slices."""
    i, j, k = volume.shape
    grid = volume.grid.resized((i, j, 5 * k))
    from dataclasses import replace

    return replace(volume, data=np.repeat(volume.data, 5, axis=3), affine=grid.affine)


def middle(image: sitk.Image) -> tuple[float, ...]:
    return image.TransformContinuousIndexToPhysicalPoint([n / 2 - 0.5 for n in image.GetSize()])


def test_two_forms_of_two_worlds_both_hold_for_the_result(tmp_path: Path) -> None:
    scan = saved(tmp_path, raw_nifti(qform=OTHER, codes=(1, 4)))
    volume = read_volume(scan)
    np.testing.assert_allclose(volume.affine, OBLIQUE, atol=1e-5)
    out = nib.load(write_volume(thin(volume), tmp_path / "out.nii"))
    before = nib.load(scan)
    for form in ("get_sform", "get_qform"):
        np.testing.assert_allclose(
            centre(out.shape, getattr(out, form)()), centre(before.shape, getattr(before, form)()), atol=1e-3
        )
    np.testing.assert_allclose(
        middle(sitk.ReadImage(str(tmp_path / "out.nii"))), middle(sitk.ReadImage(str(scan))), atol=1e-3
    )


@pytest.mark.parametrize("name", ["out.nii", "out.nii.gz"])
def test_no_orientation_stays_none(tmp_path: Path, name: str) -> None:
    scan = saved(tmp_path, raw_nifti(np.diag([1, 1, 5, 1.0]), codes=(0, 0)))
    volume = read_volume(scan)
    (warning,) = volume.warnings
    assert "orientation" in warning
    out = write_volume(thin(volume), tmp_path / name)
    after, before = nib.load(out), nib.load(scan)
    assert (int(after.header["qform_code"]), int(after.header["sform_code"])) == (0, 0)
    np.testing.assert_allclose(
        centre(after.shape, after.affine), centre(before.shape, before.affine), atol=1e-4
    )
    image, scanned = sitk.ReadImage(str(out)), sitk.ReadImage(str(scan))
    assert image.GetDirection() == scanned.GetDirection()
    # ITK puts the middle of the first voxel at 0, however large it is.
    np.testing.assert_allclose(middle(image)[:2], middle(scanned)[:2], atol=1e-4)
    assert abs(middle(image)[2] - middle(scanned)[2]) <= 2


@pytest.mark.parametrize("name", ["out.nrrd", "out.mha"])
def test_formats_that_always_tell_a_place_tell_the_one_that_itk_has(tmp_path: Path, name: str) -> None:
    scan = saved(tmp_path, raw_nifti(np.diag([1, 1, 5, 1.0]), codes=(0, 0)))
    out = write_volume(thin(read_volume(scan)), tmp_path / name)
    image, scanned = sitk.ReadImage(str(out)), sitk.ReadImage(str(scan))
    np.testing.assert_allclose(middle(image), middle(scanned), atol=1e-4)
    assert image.GetDirection() == scanned.GetDirection()


@settings(deadline=None, max_examples=50)
@given(
    st.tuples(st.floats(-3, 3), st.floats(-1.5, 1.5), st.floats(-3, 3)),
    st.tuples(*[st.floats(0.3, 9)] * 3),
    st.booleans(),
    st.sampled_from([(1, 0), (0, 2), (1, 1), (2, 4)]),
)
def test_nibabel_and_itk_agree_with_us_on_any_place(
    tmp_path_factory: pytest.TempPathFactory,
    angles: tuple[float, float, float],
    spacing: tuple[float, float, float],
    mirrored: bool,
    codes: tuple[int, int],
) -> None:
    folder = tmp_path_factory.mktemp("any")
    turn = rotation(*angles) @ np.diag([-1 if mirrored else 1, 1, 1])
    affine = make_affine(turn, spacing, (3.0, -20.0, 11.0))
    volume = read_volume(saved(folder, raw_nifti(affine, codes=codes)))
    # A quaternion in float32 tells a half turn from one of 179.96 degrees, no better.
    rounding = 1e-3 * max(spacing) if codes[1] == 0 else 1e-4
    np.testing.assert_allclose(volume.affine, affine, atol=rounding)
    out = write_volume(volume, folder / "out.nii")
    np.testing.assert_allclose(nib.load(out).affine, affine, atol=2 * rounding)
    image = sitk.ReadImage(str(out))
    matrix = np.eye(4)
    matrix[:3, :3] = np.array(image.GetDirection()).reshape(3, 3) * image.GetSpacing()
    matrix[:3, 3] = image.GetOrigin()
    np.testing.assert_allclose(LPS @ matrix, affine, atol=1e-3 * max(1, *spacing))


# -- other fields --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("slope", "intercept"), [(2.0, 1.0), (0.037, -12.5), (-3.0, 0.0)])
@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.uint16])
def test_scaled_integers_are_kept_with_their_scaling(
    tmp_path: Path, slope: float, intercept: float, dtype: Any
) -> None:
    data = (DATA % 200).astype(dtype)
    volume = read_volume(saved(tmp_path, raw_nifti(data=data, scl_slope=slope, scl_inter=intercept)))
    np.testing.assert_allclose(volume.data[0], data * slope + intercept, rtol=1e-6)
    assert volume.scaling is not None and volume.scaling.dtype == dtype
    assert volume.stored_dtype == np.float32
    out = nib.load(write_volume(volume, tmp_path / "out.nii.gz", scaling=volume.scaling))
    assert out.header.get_data_dtype() == dtype
    np.testing.assert_array_equal(out.dataobj.get_unscaled(), data)
    np.testing.assert_allclose(np.asarray(out.dataobj), volume.data[0], rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize(("slope", "intercept"), [(0.0, 5.0), (1.0, 0.0), (np.nan, np.nan)])
def test_no_scaling_is_none(tmp_path: Path, slope: float, intercept: float) -> None:
    volume = read_volume(saved(tmp_path, raw_nifti(scl_slope=slope, scl_inter=intercept)))
    assert volume.scaling is None
    assert volume.stored_dtype == np.int16
    np.testing.assert_array_equal(volume.data[0], DATA)


def test_axes_counted_as_nothing_are_none(tmp_path: Path) -> None:
    path = saved(tmp_path, raw_nifti(dim=[4, *SHAPE, 0, 1, 1, 1]))
    assert read_volume(path).shape == SHAPE


@pytest.mark.parametrize(
    ("name", "fields", "why"),
    [
        ("scan.hdr", {}, "voxels are in this file"),
        ("scan.nii", {"magic": b"ni1"}, "voxels are in a second file"),
        ("scan.nii", {"datatype": 9999}, "damaged NIfTI header"),
        ("scan.nii", {"codes": (1, 0), "qoffset_x": np.nan}, "qform is not finite"),
    ],
)
def test_a_header_that_cannot_be_meant(tmp_path: Path, name: str, fields: dict[str, Any], why: str) -> None:
    path = saved(tmp_path, raw_nifti(**fields), name)
    for read in (read_volume, read_grid):
        with pytest.raises(VolumeError, match=why):
            read(path)


def test_packed_voxels_that_end_too_early(tmp_path: Path) -> None:
    path = saved(tmp_path, raw_nifti()[:-2], "scan.nii.gz")
    with pytest.raises(VolumeError, match="truncated, the header promises"):
        read_volume(path)
