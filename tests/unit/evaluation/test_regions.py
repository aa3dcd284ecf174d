from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from scipy import ndimage

from factories import make_affine
from srcyc.errors import DataError, VolumeError
from srcyc.evaluation.regions import LARGE, Regions
from srcyc.volumes.volume import Volume

SHAPE = (40, 36, 32)


@pytest.fixture
def labels() -> Volume:
    data = np.zeros(SHAPE, np.float32)
    data[8:12, 8:12, 8:12] = 1
    data[24:30, 20:26, 14:20] = 3
    data[20, 8, 24] = 1
    return Volume(data[None], make_affine(np.eye(3), (1, 1, 1), (0, 0, 0)))


@pytest.fixture
def image(labels: Volume) -> np.ndarray:
    rng = np.random.default_rng(0)
    data = 100 + 5 * rng.standard_normal(SHAPE)
    data[labels.data[0] == 1] = 150
    data[labels.data[0] == 3] = 60
    return data.astype(np.float32)


def regions_of(labels: Volume, image: np.ndarray) -> Regions:
    return Regions.of(labels, labels.grid, image > 20, 2)


def test_an_image_keeps_all_of_its_own(labels: Volume, image: np.ndarray) -> None:
    regions = regions_of(labels, image)
    assert (len(regions.large), len(regions.small)) == (2, 1)
    assert all(len(region.inside[0]) >= LARGE for region in regions.large)
    assert regions.kept(image, image) == pytest.approx((1.0, 1.0))


@pytest.mark.parametrize("share", [0.0, 0.5, 1.2])
def test_what_is_left_of_a_contrast(labels: Volume, image: np.ndarray, share: float) -> None:
    regions = regions_of(labels, image)
    flat = np.where(labels.data[0] > 0, 100, image).astype(np.float32)
    kept = regions.kept(flat + share * (image - flat), image)
    assert kept == pytest.approx((share, share), abs=0.03)
    # Brightness as a whole, and its unit, are no contrast.
    assert regions.kept(image + 7, image) == pytest.approx((1, 1))
    assert regions.kept(2 * image, 2 * image) == pytest.approx((1, 1))


def test_blur_wears_small_regions_away_first(labels: Volume, image: np.ndarray) -> None:
    kept = regions_of(labels, image).kept(ndimage.gaussian_filter(image, 1.5), image)
    assert kept.kept_small is not None and kept.kept is not None
    assert kept.kept_small < kept.kept < 1


def test_a_surround_is_of_the_head_and_of_no_other_region(labels: Volume, image: np.ndarray) -> None:
    labels.data[0, 13:17, 8:12, 8:12] = 2  # a neighbour, one voxel off
    image[13:17, 8:12, 8:12] = 1000
    image[:, :, 28:] = 0
    for region in regions_of(labels, image).large:
        around = image[region.around]
        assert around.min() > 50 and around.max() < 130


def test_slices_of_another_brightness_are_no_contrast(labels: Volume, image: np.ndarray) -> None:
    brighter = image + 20 * (np.arange(SHAPE[2]) % 2).astype(np.float32)
    assert regions_of(labels, image).kept(brighter, image) == pytest.approx((1, 1))


def test_regions_come_from_any_grid(labels: Volume, image: np.ndarray) -> None:
    turned = replace(labels, data=labels.data[..., ::-1].copy(), affine=labels.affine.copy())
    turned.affine[:, 3] += turned.affine[:, 2] * (SHAPE[2] - 1)
    turned.affine[:, 2] *= -1
    again = Regions.of(turned, labels.grid, image > 20, 2)
    assert again.kept(image, image) == pytest.approx((1, 1))
    assert [len(r.inside[0]) for r in again.large] == [
        len(r.inside[0]) for r in regions_of(labels, image).large
    ]


def test_no_region_and_none_of_this_scan_are_told(labels: Volume, image: np.ndarray) -> None:
    with pytest.raises(DataError, match="no region"):
        regions_of(replace(labels, data=np.zeros_like(labels.data)), image)
    with pytest.raises(DataError, match="no region"):
        Regions.of(labels, labels.grid, np.zeros(SHAPE, bool), 2)
    elsewhere = labels.affine.copy()
    elsewhere[:3, 3] += 500
    with pytest.raises(VolumeError, match="outside"):
        Regions.of(replace(labels, affine=elsewhere), labels.grid, image > 20, 2)
