"""Volumes as images of ITK and SimpleITK: each library says itself where a voxel lies."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import SimpleITK as sitk

import srcyc
from factories import OBLIQUE_AXES, make_affine, rotation
from srcyc import Volume
from srcyc.errors import SRCycError, VolumeError

itk = pytest.importorskip("itk", reason="the package itk is not installed (extra itk)")

LPS = np.array([-1.0, -1.0, 1.0])
INDICES = [(0, 0, 0), (3, 0, 0), (0, 4, 0), (0, 0, 5), (3, 4, 5)]


def place(image: Any, index: tuple[int, int, int]) -> np.ndarray:
    """Where the library puts a voxel, RAS mm."""
    return LPS * np.array(image.TransformIndexToPhysicalPoint(index))


KINDS = {"sitk": (srcyc.to_sitk, srcyc.from_sitk), "itk": (srcyc.to_itk, srcyc.from_itk)}
AXES = {
    "straight": np.eye(3),
    "flipped": np.diag([-1.0, -1.0, 1.0]),
    "oblique, left-handed": OBLIQUE_AXES,
    "permuted": rotation(0.2, 0.1, 1.4)[:, [2, 0, 1]],
}


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> tuple[Callable[[Volume], Any], Callable[..., Volume]]:
    return KINDS[request.param]


@pytest.fixture(params=AXES)
def volume(request: pytest.FixtureRequest) -> Volume:
    data = np.random.default_rng(0).normal(size=(1, 4, 5, 6)).astype(np.float32)
    return Volume(data, make_affine(AXES[request.param], (0.9, 1.1, 5.5)))


def test_library_puts_every_voxel_where_the_volume_has_it(kind: tuple, volume: Volume) -> None:
    image = kind[0](volume)
    for index in INDICES:
        np.testing.assert_allclose(place(image, index), volume.grid.index_to_world(index), atol=1e-10)
        assert image.GetPixel(index) == volume.data[0][index]


def test_there_and_back_is_the_same(kind: tuple, volume: Volume) -> None:
    to, back = kind
    again = back(to(volume), slice_thickness=4.5)
    np.testing.assert_array_equal(again.data, volume.data)
    np.testing.assert_allclose(again.affine, volume.affine, atol=1e-12)
    assert again.slice_thickness == 4.5
    assert again.data is not volume.data and not np.shares_memory(again.data, volume.data)


def test_a_library_s_own_image_is_read_as_it_places_it() -> None:
    """An image that the library made itself, not ours turned round."""
    ours = sitk.Image([4, 5, 6], sitk.sitkInt16)
    ours.SetSpacing((0.8, 0.7, 6.0))
    ours.SetOrigin((12.0, -30.0, 5.0))
    ours.SetDirection((0, -1, 0, 1, 0, 0, 0, 0, 1))
    ours[3, 4, 5] = 700
    theirs = itk.image_from_array(sitk.GetArrayFromImage(ours))
    theirs.SetSpacing(ours.GetSpacing())
    theirs.SetOrigin(ours.GetOrigin())
    theirs.SetDirection(itk.matrix_from_array(np.array(ours.GetDirection()).reshape(3, 3)))
    for image, take in ((ours, srcyc.from_sitk), (theirs, srcyc.from_itk)):
        volume = take(image)
        assert volume.shape == (4, 5, 6)
        assert volume.stored_dtype == np.int16
        assert volume.data[0, 3, 4, 5] == 700
        for index in INDICES:
            np.testing.assert_allclose(volume.grid.index_to_world(index), place(image, index), atol=1e-10)


def test_what_is_no_scan_is_refused_with_its_value(kind: tuple) -> None:
    to, back = kind
    sound = Volume(np.ones((1, 4, 5, 6), np.float32), np.eye(4))
    infinite = Volume(np.full((1, 4, 5, 6), np.inf, np.float32), np.eye(4))
    with pytest.raises(VolumeError, match="infinite"):
        back(to(infinite))
    with pytest.raises(VolumeError, match="2 channels"):
        to(Volume(np.ones((2, 4, 5, 6), np.float32), np.eye(4)))
    sheared = np.eye(4)
    sheared[0, 1] = 0.3
    with pytest.raises(VolumeError, match=r"sheared by 16\.7"):
        to(Volume(sound.data, sheared))


@pytest.mark.parametrize("what", ["flat", "colour", "complex"])
def test_images_of_other_kinds_are_refused(what: str) -> None:
    ours = {
        "flat": sitk.Image([4, 5], sitk.sitkFloat32),
        "colour": sitk.Image([4, 5, 6], sitk.sitkVectorUInt8, 3),
        "complex": sitk.Image([4, 5, 6], sitk.sitkComplexFloat32),
    }[what]
    theirs = {
        "flat": itk.Image[itk.F, 2],
        "colour": itk.Image[itk.RGBPixel[itk.UC], 3],
        "complex": itk.Image[itk.complex[itk.F], 3],
    }[what].New()
    theirs.SetRegions([4, 5] if what == "flat" else [4, 5, 6])
    theirs.Allocate()
    meant = {"flat": "2 dimensions", "colour": "3 values per voxel", "complex": "complex|2 values"}[what]
    for image, take in ((ours, srcyc.from_sitk), (theirs, srcyc.from_itk)):
        with pytest.raises(VolumeError, match=meant):
            take(image)


def test_itk_is_imported_by_nobody_who_does_not_ask() -> None:
    code = (
        "import sys, numpy as np, srcyc; "
        "image = srcyc.to_sitk(srcyc.Volume(np.ones((1, 3, 3, 3), np.float32), np.eye(4))); "
        "srcyc.from_sitk(image); assert 'itk' not in sys.modules and 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_without_the_package_the_remedy_is_said(volume: Volume, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "itk", None)
    with pytest.raises(SRCycError, match=r"srcyc\[itk\]"):
        srcyc.to_itk(volume)
