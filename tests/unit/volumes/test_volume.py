"""Volumes and their files: geometry and voxels survive, bad files are refused with a sentence."""

from __future__ import annotations

import gzip
import multiprocessing
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk

from factories import make_affine, rotation
from srcyc.errors import InputError, OutputError, VolumeError
from srcyc.volumes.formats.raw import Scaling
from srcyc.volumes.image_files import data_file
from srcyc.volumes.volume import Volume, find_volumes, is_volume_path, read_grid, read_volume, write_volume

SUFFIXES = [".nii", ".nii.gz", ".nrrd", ".mha", ".mhd", ".mgz"]
#: Those that ITK reads too.
ITK_SUFFIXES = SUFFIXES[:-1]
SHAPE = (6, 5, 4)
LPS = np.diag([-1.0, -1.0, 1.0, 1.0])


AFFINES = {
    "identity": np.eye(4),
    "lps": make_affine(np.diag([-1.0, -1, 1]), (1, 1, 1), (90, 126, -72)),
    "oblique": make_affine(
        rotation(0.31, -0.17, 0.46), (0.859375, 0.9, 7.0005243), (-110.5, 78.3063, -72.7575)
    ),
    "permuted": make_affine(np.eye(3)[:, [2, 0, 1]], (4.8, 1.015625, 1.1), (81.6, -130, 12.3)),
    "left-handed": make_affine(np.eye(3)[:, [1, 0, 2]], (1, 2, 3), (0, 0, 0)),
    "anisotropic": make_affine(np.eye(3), (0.47, 0.9375, 6.5), (-12.25, 3.5, 250.125)),
}


def voxels(dtype: Any = np.float32, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 200, SHAPE).astype(dtype)


def make_volume(affine: np.ndarray | None = None, data: np.ndarray | None = None) -> Volume:
    data = np.random.default_rng(1).normal(50, 20, SHAPE).astype(np.float32) if data is None else data
    return Volume(data[None], AFFINES["oblique"] if affine is None else affine)


def sitk_image(data: np.ndarray, affine: np.ndarray) -> sitk.Image:
    """The same voxels and place as ITK holds them."""
    lps = LPS @ affine
    spacing = np.linalg.norm(lps[:3, :3], axis=0)
    image = sitk.GetImageFromArray(np.ascontiguousarray(data.T))
    image.SetSpacing(spacing.tolist())
    image.SetOrigin(lps[:3, 3].tolist())
    image.SetDirection((lps[:3, :3] / spacing).ravel().tolist())
    return image


def sitk_affine(image: sitk.Image) -> np.ndarray:
    direction = np.array(image.GetDirection()).reshape(3, 3)
    return LPS @ make_affine(direction, image.GetSpacing(), image.GetOrigin())


def save_nifti(
    path: Path,
    data: np.ndarray,
    sform: np.ndarray | None = None,
    qform: np.ndarray | None = None,
    **fields: Any,
) -> Path:
    """A NIfTI file with exactly these header fields."""
    image = nib.Nifti1Image(data, None)
    image.header.set_xyzt_units("mm")
    if qform is not None:
        image.header.set_qform(qform, 1)
    if sform is not None:
        image.header.set_sform(sform, 1)
    for key, value in fields.items():
        image.header[key] = value
    nib.save(image, path)
    return path


# -- round trips ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("name", AFFINES)
def test_round_trip_keeps_place_and_voxels(tmp_path: Path, suffix: str, name: str) -> None:
    volume = make_volume(AFFINES[name])
    path = write_volume(volume, tmp_path / f"scan{suffix}")
    back = read_volume(path)
    np.testing.assert_allclose(back.affine, volume.affine, rtol=0, atol=1e-5)
    np.testing.assert_array_equal(back.data, volume.data)
    assert back.affine.dtype == np.float64
    assert back.data.dtype == np.float32
    assert back.data.shape == (1, *SHAPE)
    assert back.stored_dtype == np.float32
    assert back.slice_thickness is None
    assert back.source == path
    grid = read_grid(path)
    assert grid.shape == back.shape
    np.testing.assert_array_equal(grid.affine, back.affine)


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
@pytest.mark.parametrize("name", AFFINES)
def test_nibabel_agrees_on_what_is_written(tmp_path: Path, suffix: str, name: str) -> None:
    volume = make_volume(AFFINES[name])
    image = nib.load(write_volume(volume, tmp_path / f"scan{suffix}"))
    np.testing.assert_allclose(image.affine, volume.affine, rtol=0, atol=1e-5)
    np.testing.assert_allclose(image.header.get_qform(), volume.affine, rtol=0, atol=2e-5)
    assert (int(image.header["qform_code"]), int(image.header["sform_code"])) == (1, 1)
    assert image.header.get_xyzt_units()[0] == "mm"
    np.testing.assert_array_equal(np.asarray(image.dataobj), volume.data[0])


@pytest.mark.parametrize("suffix", ITK_SUFFIXES)
@pytest.mark.parametrize("name", AFFINES)
def test_itk_agrees_on_what_is_written(tmp_path: Path, suffix: str, name: str) -> None:
    volume = make_volume(AFFINES[name])
    image = sitk.ReadImage(str(write_volume(volume, tmp_path / f"scan{suffix}")))
    np.testing.assert_allclose(sitk_affine(image), volume.affine, rtol=0, atol=2e-5)
    np.testing.assert_array_equal(sitk.GetArrayFromImage(image).T, volume.data[0])


@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.uint16, np.int32, np.float32, np.float64])
@pytest.mark.parametrize("suffix", ITK_SUFFIXES)
def test_reads_what_itk_writes(tmp_path: Path, suffix: str, dtype: Any) -> None:
    data = voxels(dtype)
    path = tmp_path / f"scan{suffix}"
    sitk.WriteImage(sitk_image(data, AFFINES["oblique"]), str(path), True)
    volume = read_volume(path)
    np.testing.assert_allclose(volume.affine, AFFINES["oblique"], rtol=0, atol=2e-5)
    np.testing.assert_array_equal(volume.data[0], data)
    assert volume.data.dtype == np.float32
    assert volume.stored_dtype == dtype


def test_double_precision_is_rounded_to_single(tmp_path: Path) -> None:
    data = voxels(np.float64) / 3
    volume = read_volume(save_nifti(tmp_path / "scan.nii", data, AFFINES["lps"]))
    np.testing.assert_array_equal(volume.data[0], data.astype(np.float32))
    assert volume.stored_dtype == np.float64


def test_first_array_index_runs_along_the_first_axis_on_disk(tmp_path: Path) -> None:
    data = np.zeros(SHAPE, np.int16)
    data[4, 2, 1] = 7
    for path in (tmp_path / "scan.nii", tmp_path / "scan.nrrd"):
        sitk.WriteImage(sitk_image(data, np.eye(4)), str(path))
        assert np.argwhere(read_volume(path).data[0]).tolist() == [[4, 2, 1]]


@pytest.mark.parametrize("suffix", [".NII", ".Nii.GZ", ".NRRD", ".MHA"])
def test_suffixes_in_any_case(tmp_path: Path, suffix: str) -> None:
    volume = make_volume()
    back = read_volume(write_volume(volume, tmp_path / f"scan{suffix}"))
    np.testing.assert_array_equal(back.data, volume.data)


def test_volume_gives_its_grid() -> None:
    volume = make_volume(AFFINES["permuted"])
    assert volume.shape == SHAPE
    np.testing.assert_allclose(volume.spacing, (4.8, 1.015625, 1.1))
    assert volume.grid.shape == SHAPE
    np.testing.assert_array_equal(volume.grid.affine, AFFINES["permuted"])


def test_volume_refuses_unusable_arrays() -> None:
    with pytest.raises(VolumeError, match="shape"):
        Volume(np.zeros(SHAPE, np.float32), np.eye(4))
    with pytest.raises(VolumeError, match="singular"):
        Volume(np.zeros((1, *SHAPE), np.float32), np.diag([1.0, 0, 1, 1]))


# -- NIfTI headers -------------------------------------------------------------------------------------------


def test_bare_spacing_where_neither_is_set(tmp_path: Path) -> None:
    path = save_nifti(tmp_path / "scan.nii", voxels(), pixdim=[1, 1, 2, 3, 1, 1, 1, 1])
    volume = read_volume(path)
    np.testing.assert_allclose(volume.spacing, (1, 2, 3))
    np.testing.assert_allclose(volume.affine, nib.load(path).affine)


def test_spacing_of_the_sform_wins_over_pixdim(tmp_path: Path) -> None:
    """ITK takes the spacing from pixdim here and reads 1 mm slices."""
    path = save_nifti(tmp_path / "scan.nii", voxels(), np.diag([1, 1, 5.0, 1]))
    assert nib.load(path).header.get_zooms()[2] == 1
    np.testing.assert_allclose(read_volume(path).spacing, (1, 1, 5))


def test_units_other_than_millimetres(tmp_path: Path) -> None:
    metres = np.diag([1e-3, 1e-3, 5e-3, 1])
    metres[:3, 3] = (0.01, 0.02, 0.03)
    path = save_nifti(tmp_path / "scan.nii", voxels(), metres, xyzt_units=1)
    np.testing.assert_allclose(
        read_volume(path).affine, make_affine(np.eye(3), (1, 1, 5), (10, 20, 30)), rtol=1e-6
    )


def test_big_endian_and_nifti2(tmp_path: Path) -> None:
    data = voxels(np.int16)
    header = nib.Nifti1Header(endianness=">")
    header.set_data_dtype(">i2")
    big = nib.Nifti1Image(data, AFFINES["oblique"], header)
    two = nib.Nifti2Image(data, AFFINES["oblique"])
    for image, path in ((big, tmp_path / "big.nii"), (two, tmp_path / "two.nii.gz")):
        nib.save(image, path)
        volume = read_volume(path)
        np.testing.assert_array_equal(volume.data[0], data)
        np.testing.assert_allclose(volume.affine, AFFINES["oblique"], atol=2e-5)
        assert volume.stored_dtype == np.dtype("=i2")


def test_a_fourth_axis_of_one_is_accepted(tmp_path: Path) -> None:
    data = voxels(np.int16)
    nifti = save_nifti(tmp_path / "scan.nii", data[..., None], AFFINES["lps"])
    nrrd = tmp_path / "scan.nrrd"
    image = sitk.GetImageFromArray(data.T[None], isVector=False)
    sitk.WriteImage(image, str(nrrd))
    assert sitk.ReadImage(str(nrrd)).GetDimension() == 4
    for path in (nifti, nrrd):
        np.testing.assert_array_equal(read_volume(path).data[0], data)


# -- refusals ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_missing_and_empty_files(tmp_path: Path, refused: Callable[..., None], suffix: str) -> None:
    path = tmp_path / f"scan{suffix}"
    refused(path, "no such file")
    path.touch()
    refused(path, "empty")


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("keep", [0.5, 0.9, -5])
def test_truncated_files(tmp_path: Path, refused: Callable[..., None], suffix: str, keep: float) -> None:
    path = write_volume(make_volume(), tmp_path / f"scan{suffix}")
    victim = path.with_suffix(".raw") if suffix == ".mhd" else path
    whole = victim.read_bytes()
    victim.write_bytes(whole[: int(keep if keep < 0 else keep * len(whole))])
    # Data that is not packed tells its size; of the other small files, half is less than the header.
    refused(
        path, "copy", header_shows_it=(keep == 0.5 and suffix != ".mgz") or suffix in (".nii", ".mha", ".mhd")
    )


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_files_cut_within_the_header(tmp_path: Path, refused: Callable[..., None], suffix: str) -> None:
    path = write_volume(make_volume(), tmp_path / f"scan{suffix}")
    path.write_bytes(path.read_bytes()[:30])
    refused(path)


def test_damaged_gzip_data(tmp_path: Path, refused: Callable[..., None]) -> None:
    path = tmp_path / "scan.nii.gz"
    write_volume(make_volume(), path)
    raw = bytearray(path.read_bytes())
    raw[len(raw) // 2] ^= 0xFF
    path.write_bytes(raw)
    refused(path, "damaged", header_shows_it=False)


def test_mhd_without_its_data(tmp_path: Path, refused: Callable[..., None]) -> None:
    path = write_volume(make_volume(), tmp_path / "scan.mhd")
    path.with_suffix(".raw").unlink()
    refused(path, "data file", "scan.raw")


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_content_that_is_no_image(tmp_path: Path, refused: Callable[..., None], suffix: str) -> None:
    path = tmp_path / f"scan{suffix}"
    path.write_text("Dear reader, this is a letter.\n" * 40)
    refused(path)
    path.write_bytes(gzip.compress(b"a letter" * 100))
    refused(path)


def test_another_formats_content(tmp_path: Path, refused: Callable[..., None]) -> None:
    """A NIfTI under an ITK suffix would reach ITK's NIfTI reader, which is not trusted."""
    path = tmp_path / "scan.nrrd"
    path.write_bytes(write_volume(make_volume(), tmp_path / "scan.nii").read_bytes())
    refused(path, "not a readable .nrrd")


@pytest.mark.parametrize("name", ["scan.png", "scan", "scan.gz", ".nii", "scan.nii.txt"])
def test_unknown_suffix(tmp_path: Path, refused: Callable[..., None], name: str) -> None:
    path = tmp_path / name
    path.write_bytes(b"something")
    refused(path, "unknown kind of file", ".nii.gz")


def test_folder_without_series(tmp_path: Path, refused: Callable[..., None]) -> None:
    (tmp_path / "notes.txt").write_text("no scan here")
    refused(tmp_path, "no DICOM")


def test_several_volumes(tmp_path: Path, refused: Callable[..., None]) -> None:
    refused(save_nifti(tmp_path / "scan.nii", np.zeros((*SHAPE, 3), np.int16), np.eye(4)), "6 x 5 x 4 x 3")
    refused(
        save_nifti(tmp_path / "five.nii", np.zeros((*SHAPE, 1, 2), np.int16), np.eye(4)), "several volumes"
    )
    path = tmp_path / "scan.nrrd"
    sitk.WriteImage(sitk.GetImageFromArray(np.zeros((3, *SHAPE), np.int16), isVector=False), str(path))
    refused(path, "several volumes")


@pytest.mark.parametrize("suffix", [".nii.gz", ".nrrd", ".mha"])
def test_colour_and_vectors(tmp_path: Path, refused: Callable[..., None], suffix: str) -> None:
    path = tmp_path / f"scan{suffix}"
    sitk.WriteImage(sitk.GetImageFromArray(np.zeros((*SHAPE, 3), np.uint8), isVector=True), str(path))
    refused(path, "3 values per voxel" if suffix != ".nii.gz" else "")


def test_colour_nifti(tmp_path: Path, refused: Callable[..., None]) -> None:
    colour = np.zeros(SHAPE, dtype=[("R", "u1"), ("G", "u1"), ("B", "u1")])
    refused(save_nifti(tmp_path / "scan.nii", colour, np.eye(4)), "3 values per voxel")


def test_complex_voxels(tmp_path: Path, refused: Callable[..., None]) -> None:
    refused(
        save_nifti(tmp_path / "scan.nii", np.zeros(SHAPE, np.complex64), np.eye(4)), "complex", "magnitude"
    )


@pytest.mark.parametrize("suffix", [".nii", ".nrrd", ".mha"])
def test_two_dimensional_images(tmp_path: Path, refused: Callable[..., None], suffix: str) -> None:
    path = tmp_path / f"scan{suffix}"
    sitk.WriteImage(sitk.GetImageFromArray(np.zeros((5, 6), np.int16)), str(path))
    refused(path, "2D", "6 x 5")


@pytest.mark.parametrize("suffix", [".nii", ".nrrd", ".mha"])
@pytest.mark.parametrize("axis", [0, 1, 2])
def test_one_voxel_thin(tmp_path: Path, refused: Callable[..., None], suffix: str, axis: int) -> None:
    shape = list(SHAPE)
    shape[axis] = 1
    path = tmp_path / f"scan{suffix}"
    sitk.WriteImage(sitk_image(np.zeros(shape, np.int16), np.eye(4)), str(path))
    refused(path, " x ".join(map(str, shape)), "at least 2")


@pytest.mark.parametrize("suffix", [".nii.gz", ".nrrd", ".mha"])
@pytest.mark.parametrize("value", [np.inf, -np.inf])
def test_voxels_that_are_infinite(
    tmp_path: Path, refused: Callable[..., None], suffix: str, value: float
) -> None:
    data = voxels(np.float64)
    data[1, 2, 3] = data[0, 0, 0] = value
    path = tmp_path / f"scan{suffix}"
    sitk.WriteImage(sitk_image(data, np.eye(4)), str(path))
    refused(path, "2 of 120 voxels", header_shows_it=False)


@pytest.mark.parametrize("suffix", [".nii.gz", ".nrrd", ".mha"])
def test_nan_is_no_value_and_a_scan_needs_some(
    tmp_path: Path, refused: Callable[..., None], suffix: str
) -> None:
    data = voxels(np.float32)
    data[2:] = np.nan
    path = tmp_path / f"scan{suffix}"
    sitk.WriteImage(sitk_image(data, np.eye(4)), str(path))
    np.testing.assert_array_equal(read_volume(path).data[0], data)
    data[:] = np.nan
    sitk.WriteImage(sitk_image(data, np.eye(4)), str(path))
    refused(path, "all voxels are NaN", header_shows_it=False)


def test_doubles_beyond_single_precision(tmp_path: Path, refused: Callable[..., None]) -> None:
    data = voxels(np.float64)
    data[0, 0, 0] = 1e200
    path = save_nifti(tmp_path / "scan.nii", data, np.eye(4))
    refused(path, "1 of 120 voxels", "float32", header_shows_it=False)


@pytest.mark.parametrize("value", [0.0, np.nan])
def test_singular_nifti(tmp_path: Path, refused: Callable[..., None], value: float) -> None:
    affine = np.eye(4)
    affine[1, 1] = value
    refused(save_nifti(tmp_path / "scan.nii", voxels(), affine), "affine")


def test_zero_spacing_in_the_qform(tmp_path: Path, refused: Callable[..., None]) -> None:
    path = save_nifti(tmp_path / "q.nii", voxels(), None, np.eye(4), pixdim=[1, 1, 0, 1, 1, 1, 1, 1])
    refused(path, "spacing 1 x 0 x 1")


@pytest.mark.parametrize(
    "directions", ["(1,0,0) (0,0,0) (0,0,2)", "(1,0,0) (1,0,0) (0,0,2)", "(1,0,0) (nan,nan,nan) (0,0,2)"]
)
def test_singular_nrrd(tmp_path: Path, refused: Callable[..., None], directions: str) -> None:
    refused(write_nrrd(tmp_path / "scan.nrrd", directions))


def test_headers_without_spacing(tmp_path: Path, refused: Callable[..., None]) -> None:
    """ITK would read all of these with 1 mm."""
    refused(write_nrrd(tmp_path / "open.nrrd", "(1,0,0) none (0,0,2)"), "no spacing")
    path = tmp_path / "bare.nrrd"
    path.write_bytes(b"NRRD0004\ntype: uchar\ndimension: 3\nsizes: 4 4 4\nencoding: raw\n\n" + bytes(64))
    refused(path, "no spacing")
    path = write_volume(make_volume(), tmp_path / "scan.mhd")
    path.write_text("\n".join(s for s in path.read_text().split("\n") if not s.startswith("ElementSpacing")))
    refused(path, "no spacing")
    refused(save_nifti(tmp_path / "bare.nii", voxels(), pixdim=[1, 1, 1, 0, 1, 1, 1, 1]), "1 x 1 x 0")


def test_old_nrrd_with_plain_spacings(tmp_path: Path) -> None:
    path = tmp_path / "scan.nrrd"
    path.write_bytes(
        b"NRRD0001\ntype: uchar\ndimension: 3\nsizes: 4 4 4\nspacings: 1 1 5\nencoding: raw\n\n" + bytes(64)
    )
    assert read_volume(path).spacing == (1, 1, 5)


@pytest.mark.parametrize("old", ["ElementSpacing = ", "TransformMatrix = "])
def test_singular_metaimage(tmp_path: Path, refused: Callable[..., None], old: str) -> None:
    path = write_volume(make_volume(np.eye(4)), tmp_path / "scan.mhd")
    lines = [
        f"{old}0 0 0" + " 0" * 6 * (old[0] == "T") if s.startswith(old) else s
        for s in path.read_text().split("\n")
    ]
    path.write_text("\n".join(lines))
    refused(path, "singular")


def test_sheared_grids(tmp_path: Path, refused: Callable[..., None]) -> None:
    """ITK would take the good qform in the first, and keep the shear in the second."""
    sheared = np.eye(4)
    sheared[0, 2] = np.tan(np.radians(2))
    refused(save_nifti(tmp_path / "scan.nii", voxels(), sheared, np.eye(4)), "sheared by 2 degrees")
    refused(write_nrrd(tmp_path / "scan.nrrd", "(1,0,0) (0.2,1,0) (0,0,2)"), "sheared")


def test_rounded_header_cosines_are_no_shear(tmp_path: Path) -> None:
    affine = np.round(AFFINES["oblique"], 4)
    volume = read_volume(save_nifti(tmp_path / "scan.nii", voxels(), affine))
    back = read_volume(write_volume(volume, tmp_path / "copy.nii"))
    np.testing.assert_allclose(back.affine, affine, atol=1e-5)


def write_nrrd(path: Path, directions: str) -> Path:
    header = (
        "NRRD0004\ntype: short\ndimension: 3\nspace: left-posterior-superior\nsizes: 4 4 4\n"
        f"space directions: {directions}\nkinds: domain domain domain\nendian: little\nencoding: raw\n"
        "space origin: (0,0,0)\n\n"
    )
    path.write_bytes(header.encode() + np.arange(64, dtype="<i2").tobytes())
    return path


@pytest.mark.skipif(os.name == "nt" or os.geteuid() == 0, reason="permissions do not bind this user")
def test_unreadable_file(tmp_path: Path, refused: Callable[..., None]) -> None:
    path = write_volume(make_volume(), tmp_path / "scan.nrrd")
    path.chmod(0)
    refused(path, "ermission")


# -- writing -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("dtype", [np.uint8, np.int16, "uint16", np.int32, np.int64])
def test_integers_are_rounded_half_to_even(tmp_path: Path, suffix: str, dtype: Any) -> None:
    data = np.zeros(SHAPE, np.float32)
    data.flat[:6] = [0.5, 1.5, 2.5, 2.4999, 7.51, 120]
    if suffix == ".mgz" and np.dtype(dtype).name not in ("uint8", "int16", "int32"):
        with pytest.raises(OutputError, match="no voxels of type"):
            write_volume(make_volume(data=data), tmp_path / f"scan{suffix}", dtype=dtype)
        return
    back = read_volume(write_volume(make_volume(data=data), tmp_path / f"scan{suffix}", dtype=dtype))
    assert back.data.flat[:6].tolist() == [0, 2, 2, 2, 8, 120]
    assert back.stored_dtype == np.dtype(dtype)


@pytest.mark.parametrize(
    ("value", "dtype"),
    [(255.6, np.uint8), (-0.6, np.uint16), (40000, np.int16), (2.0**31, np.int32), (np.nan, np.int16)],
)
def test_values_outside_the_integer_type(tmp_path: Path, value: float, dtype: Any) -> None:
    data = voxels()
    data[1, 1, 1] = value
    with pytest.raises(OutputError, match=rf"{np.dtype(dtype)}.*float32"):
        write_volume(make_volume(data=data), tmp_path / "scan.nii", dtype=dtype)
    assert not list(tmp_path.iterdir())


def test_the_type_limits_themselves_fit(tmp_path: Path) -> None:
    data = voxels()
    data.flat[:2] = [-0.5, 255.4]
    back = read_volume(write_volume(make_volume(data=data), tmp_path / "scan.nii", dtype=np.uint8))
    assert back.data.flat[:2].tolist() == [0, 255]


@pytest.mark.parametrize("dtype", [np.complex64, np.float16, bool, "no such type"])
def test_types_that_are_not_written(tmp_path: Path, dtype: Any) -> None:
    with pytest.raises(OutputError, match="type"):
        write_volume(make_volume(), tmp_path / "scan.nii", dtype=dtype)


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_existing_files_are_kept_unless_asked(tmp_path: Path, suffix: str) -> None:
    path = write_volume(make_volume(), tmp_path / f"scan{suffix}")
    before = {p.name: p.read_bytes() for p in tmp_path.iterdir()}
    other = make_volume(data=voxels())
    with pytest.raises(OutputError, match="already exists"):
        write_volume(other, path)
    assert {p.name: p.read_bytes() for p in tmp_path.iterdir()} == before
    write_volume(other, path, overwrite=True)
    np.testing.assert_array_equal(read_volume(path).data, other.data)
    assert sorted(p.name for p in tmp_path.iterdir()) == sorted(before)


def test_mhd_does_not_overwrite_a_foreign_raw_file(tmp_path: Path) -> None:
    (tmp_path / "scan.raw").write_text("precious")
    with pytest.raises(OutputError, match=r"scan\.raw: already exists"):
        write_volume(make_volume(), tmp_path / "scan.mhd")
    assert [p.name for p in tmp_path.iterdir()] == ["scan.raw"]


def test_mhd_header_names_its_data(tmp_path: Path) -> None:
    write_volume(make_volume(), tmp_path / "my scan.v1.mhd")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["my scan.v1.mhd", "my scan.v1.raw"]
    assert "ElementDataFile = my scan.v1.raw" in (tmp_path / "my scan.v1.mhd").read_text()


def test_parent_folders_are_made(tmp_path: Path) -> None:
    path = write_volume(make_volume(), tmp_path / "a" / "b" / "scan.nrrd")
    assert path.is_file()


def test_places_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    (tmp_path / "folder.nii").mkdir()
    for path in (
        tmp_path / "file" / "scan.nii",
        tmp_path / "file" / "sub" / "scan.mha",
        tmp_path / "folder.nii",
    ):
        with pytest.raises(OutputError) as caught:
            write_volume(make_volume(), path, overwrite=True)
        assert str(path) in str(caught.value)
    with pytest.raises(OutputError, match="unknown kind of file"):
        write_volume(make_volume(), tmp_path / "scan.png")


def test_only_one_channel_and_no_shear_is_written(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="2 channels"):
        write_volume(Volume(np.zeros((2, *SHAPE), np.float32), np.eye(4)), tmp_path / "scan.nii")
    sheared = np.eye(4)
    sheared[0, 1] = 0.1
    with pytest.raises(OutputError, match="sheared"):
        write_volume(make_volume(sheared), tmp_path / "scan.nii")


def test_written_files_follow_the_umask(tmp_path: Path) -> None:
    plain = tmp_path / "plain"
    plain.touch()
    for suffix in (".nii.gz", ".nrrd"):
        path = write_volume(make_volume(), tmp_path / f"scan{suffix}")
        assert path.stat().st_mode == plain.stat().st_mode


def _write_with_little_room(folder: str, suffix: str, limit: int, answer: Any) -> None:
    import resource

    data = np.random.default_rng(0).normal(size=(1, 32, 32, 32)).astype(np.float32)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
    try:
        write_volume(Volume(data, np.eye(4)), Path(folder) / f"scan{suffix}", overwrite=True)
    except OutputError as error:
        answer.send(str(error))
    else:
        answer.send("written")


@pytest.mark.skipif(os.name == "nt", reason="no file size limits to stand in for a full disk")
@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("missing", [1, 300, 100_000])
def test_a_full_disk_leaves_what_was_there(
    tmp_path: Path, suffix: str, missing: int, capfd: pytest.CaptureFixture[str]
) -> None:
    """A file size limit makes the system's write fail as a full disk does, even for the last byte only."""
    data = np.random.default_rng(0).normal(size=(1, 32, 32, 32)).astype(np.float32)
    path = write_volume(Volume(data, np.eye(4)), tmp_path / f"scan{suffix}")
    size = max(p.stat().st_size for p in tmp_path.iterdir())
    write_volume(make_volume(), path, overwrite=True)
    before = {p.name: p.read_bytes() for p in tmp_path.iterdir()}
    capfd.readouterr()
    context = multiprocessing.get_context("fork")
    receiver, sender = context.Pipe()
    process = context.Process(
        target=_write_with_little_room, args=(str(tmp_path), suffix, size - missing, sender)
    )
    process.start()
    process.join(60)
    assert receiver.poll(1)
    answer = receiver.recv()
    assert answer.startswith(f"{path}: cannot be written (")
    assert {p.name: p.read_bytes() for p in tmp_path.iterdir()} == before
    assert capfd.readouterr().err == ""


# -- finding -------------------------------------------------------------------------------------------------


def test_what_is_not_there_says_why(tmp_path: Path, refused: Callable[..., None]) -> None:
    (tmp_path / "link.nii").symlink_to(tmp_path / "annex" / "key.nii")
    refused(tmp_path / "link.nii", "annex", "DataLad")
    refused(tmp_path / ("x" * 300 + ".nii"), "name too long")
    scan = write_volume(make_volume(), tmp_path / "scan.nii")
    with pytest.raises(VolumeError, match="no DICOM, it has no series"):
        read_volume(scan, series="5")
    with pytest.raises(OutputError, match="no scaled integers"):
        write_volume(make_volume(), tmp_path / "x.nrrd", scaling=Scaling(np.dtype(np.int16), 2.0, 0.0))
    assert data_file(tmp_path / "none.nhdr") is None


def test_volume_paths_by_suffix(tmp_path: Path) -> None:
    for name in ("a.nii", "a.NII.GZ", "a.nrrd", "a.Mha", "a.mhd"):
        assert is_volume_path(tmp_path / name)
        assert is_volume_path(str(tmp_path / name))
    for name in ("a.raw", "a.json", "a.gz", "a", "a.dcm", ".nii"):
        assert not is_volume_path(tmp_path / name)
    assert not is_volume_path(tmp_path)


def test_find_volumes(tmp_path: Path) -> None:
    for name in ("b.nii.gz", "a.NRRD", "c.mhd", "c.raw", "notes.txt", ".hidden.nii", ".srcyc-1.nii.gz"):
        (tmp_path / name).touch()
    dicom = bytes(128) + b"DICM"
    for folder in ("series", "empty", ".hidden", "index", "deep/series"):
        (tmp_path / folder).mkdir(parents=True)
    for name in ("series/IM0001", ".hidden/IM0001", "index/DICOMDIR", "deep/series/1.dcm"):
        (tmp_path / name).write_bytes(dicom)
    (tmp_path / "empty" / "scan.nii").touch()
    assert [p.name for p in find_volumes(tmp_path)] == [
        *("a.NRRD", "b.nii.gz", "c.mhd", "series", "scan.nii", "series")
    ]
    assert find_volumes(tmp_path / "series") == [tmp_path / "series"]
    assert find_volumes(tmp_path / "index") == []
    with pytest.raises(VolumeError, match="cannot be listed"):
        find_volumes(tmp_path / "absent")


def test_errors_count_as_bad_input() -> None:
    assert issubclass(VolumeError, InputError)
    assert issubclass(OutputError, InputError)
