"""What real slices get wrong: gains, noise, and a profile told a little wrong, drawn as configured."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from pydantic import ValidationError

from srcyc.config import SpoilConfig
from srcyc.data.spoiling import SimulatedSlices, draw_slices
from srcyc.physics.acquisition import slice_profile_matrix

SLICES, FACTOR, BEFORE, VOXELS = 6, 4.5, 7, 41
OFF = {"chance": 0.0, "told_chance": 0.0, "profile_chance": 0.0}
CENTRES = BEFORE + (np.arange(SLICES) + 0.5) * FACTOR


def drawn(seed: int = 0, strength: float = 1.0, ratio: float = 0.8, **changes: Any) -> SimulatedSlices:
    return draw_slices(
        np.random.default_rng(seed),
        SpoilConfig(**changes),
        strength,
        slices=SLICES,
        factor=FACTOR,
        voxels=VOXELS,
        before=BEFORE,
        ratio=ratio,
    )


def width(made: SimulatedSlices) -> float:
    """Standard deviation of a middle slice's profile, in fine voxels."""
    profile, place = made.profiles[SLICES // 2], np.arange(VOXELS) + 0.5
    centre = float(profile @ place)
    return float(np.sqrt(profile @ (place - centre) ** 2))


def test_with_all_chances_off_it_is_the_plain_acquisition() -> None:
    made = drawn(**OFF)
    np.testing.assert_array_equal(made.gains, np.ones(SLICES))
    assert made.noise == 0
    expected = slice_profile_matrix(VOXELS, CENTRES, FACTOR * 0.8)
    np.testing.assert_allclose(made.profiles, expected, rtol=0, atol=1e-12)
    fine = np.random.default_rng(1).uniform(size=(1, 3, 4, VOXELS)).astype(np.float32)
    slices = made.acquire(fine, np.random.default_rng(2))
    assert slices.dtype == np.float32
    np.testing.assert_allclose(slices, fine @ expected.T, rtol=0, atol=1e-6)


def test_slices_lie_where_they_are_said_to_and_are_means() -> None:
    for seed in range(40):
        made = drawn(seed)
        np.testing.assert_allclose(made.profiles.sum(axis=1), 1, rtol=0, atol=1e-9)
        places = made.profiles @ (np.arange(VOXELS) + 0.5)
        np.testing.assert_allclose(places[1:-1], CENTRES[1:-1], rtol=0, atol=0.06)


def test_gains_multiply_slices_and_noise_is_added() -> None:
    made = SimulatedSlices(np.eye(3, 5), np.array([1.0, 1.1, 0.9]), 0.0)
    fine = np.ones((1, 2, 2, 5), np.float32)
    np.testing.assert_allclose(
        made.acquire(fine, np.random.default_rng(0)),
        np.broadcast_to([1.0, 1.1, 0.9], (1, 2, 2, 3)),
        rtol=1e-6,
    )
    noisy = SimulatedSlices(np.eye(3, 5), np.ones(3), 0.03)
    error = noisy.acquire(np.ones((1, 40, 40, 5), np.float32), np.random.default_rng(0)) - 1
    assert error.dtype == np.float32
    assert float(error.std()) == pytest.approx(0.03, rel=0.05)
    assert abs(float(error.mean())) < 0.002
    again = noisy.acquire(np.ones((1, 40, 40, 5), np.float32), np.random.default_rng(0)) - 1
    np.testing.assert_array_equal(error, again)


def test_gain_jitter_is_drawn_up_to_its_largest() -> None:
    settings = {**OFF, "chance": 1.0, "jitter_chance": 1.0, "odd_even_chance": 0.0, "noise_chance": 0.0}
    spread = [float(np.std(drawn(seed, **settings, jitter=0.05).gains, ddof=1)) for seed in range(400)]
    # Uniform up to 0.05: the root mean square of the deviations is 0.05 / sqrt(3).
    assert np.sqrt(np.mean(np.square(spread))) == pytest.approx(0.05 / np.sqrt(3), rel=0.1)
    assert {drawn(seed, **settings).noise for seed in range(20)} == {0.0}
    mean = np.mean([drawn(seed, **settings).gains for seed in range(400)])
    assert mean == pytest.approx(1.0, abs=0.005)


def test_odd_and_even_slices_are_told_apart() -> None:
    settings = {**OFF, "chance": 1.0, "jitter_chance": 0.0, "odd_even_chance": 1.0, "noise_chance": 0.0}
    differences = []
    for seed in range(200):
        gains = drawn(seed, **settings, odd_even=0.05).gains
        assert np.allclose(gains[::2], gains[0]) and np.allclose(gains[1::2], gains[1])
        assert gains[0] - 1 == pytest.approx(1 - gains[1])
        differences.append(gains[0] - 1)
    assert -0.05 <= min(differences) < -0.04
    assert 0.04 < max(differences) <= 0.05


def test_noise_is_drawn_up_to_its_largest() -> None:
    settings = {**OFF, "chance": 1.0, "jitter_chance": 0.0, "odd_even_chance": 0.0, "noise_chance": 1.0}
    noise = [drawn(seed, **settings, noise=0.03).noise for seed in range(200)]
    assert 0 < min(noise) < 0.003
    assert 0.027 < max(noise) <= 0.03


@pytest.mark.parametrize("strength", [0.0, 0.3, 1.0])
def test_the_strength_multiplies_the_chance_of_being_spoiled(strength: float) -> None:
    settings = {"told_chance": 0.0, "profile_chance": 0.0, "jitter_chance": 1.0}
    spoiled = [bool((drawn(seed, strength, **settings).gains != 1).any()) for seed in range(1500)]
    assert np.mean(spoiled) == pytest.approx(0.7 * strength, abs=0.05)


@pytest.mark.parametrize("strength", [0.0, 0.4, 1.0])
def test_the_strength_multiplies_the_chance_of_a_thickness_told_wrong(strength: float) -> None:
    settings = {"chance": 0.0, "told_chance": 0.5, "profile_chance": 0.0}
    right = width(drawn(**OFF))
    ratios = np.array([width(drawn(seed, strength, **settings)) / right for seed in range(1500)])
    wrong = np.abs(ratios - 1) > 1e-6
    assert wrong.mean() == pytest.approx(0.5 * strength, abs=0.05)
    if strength == 1.0:
        assert np.log(ratios[wrong]).std() == pytest.approx(0.12, rel=0.2)
        assert abs(np.log(ratios[wrong]).mean()) < 0.03


def test_however_wrong_the_thickness_is_told_the_true_one_stays_possible() -> None:
    settings = {"chance": 0.0, "told_chance": 1.0, "profile_chance": 0.0, "told_error": 3.0}
    limits = sorted(width(drawn(seed, **settings)) for seed in range(60))
    narrow, wide = (slice_profile_matrix(VOXELS, CENTRES, FACTOR * ratio) for ratio in (0.4, 1.4))
    nobody = SimulatedSlices(narrow, np.ones(SLICES), 0.0), SimulatedSlices(wide, np.ones(SLICES), 0.0)
    assert limits[0] == pytest.approx(width(nobody[0]), rel=1e-6)
    assert limits[-1] == pytest.approx(width(nobody[1]), rel=1e-6)


def test_profiles_lie_between_a_gaussian_and_a_box_in_their_share() -> None:
    """Not a fault, so drawn whatever the strength."""
    settings = {"chance": 0.0, "told_chance": 0.0, "profile_chance": 0.5}
    gaussian, box = width(drawn(**OFF)), FACTOR * 0.8 / np.sqrt(12)
    widths = np.array([width(drawn(seed, strength=0.0, **settings)) for seed in range(1500)])
    other = np.abs(widths - gaussian) > 1e-9
    assert other.mean() == pytest.approx(0.5, abs=0.05)
    # A box of the same full width at half maximum has less in its tails.
    assert widths.max() <= gaussian + 1e-6
    assert widths.min() < 0.5 * (gaussian + box)


@pytest.mark.parametrize(
    ("begin", "full", "expected"),
    [
        (0, 0, {0: 1.0, 5: 1.0}),
        (100, 200, {0: 0.0, 100: 0.0, 150: 0.5, 175: 0.75, 200: 1.0, 999: 1.0}),
        (100, 100, {99: 0.0, 100: 1.0}),
        (100, 50, {49: 0.0, 50: 1.0, 99: 1.0}),
    ],
)
def test_spoiling_sets_in_by_and_by(begin: int, full: int, expected: dict[int, float]) -> None:
    config = SpoilConfig(begin=begin, full=full)
    assert {step: config.strength(step) for step in expected} == pytest.approx(expected)


@pytest.mark.parametrize(
    "name", ["chance", "jitter_chance", "odd_even_chance", "noise_chance", "told_chance"]
)
def test_a_chance_is_one(name: str) -> None:
    for value in (-0.1, 1.1):
        with pytest.raises(ValidationError, match=name):
            SpoilConfig(**{name: value})
