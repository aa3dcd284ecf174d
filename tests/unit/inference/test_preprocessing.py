from __future__ import annotations

import numpy as np
import pytest

from srcyc.errors import SRCycError
from srcyc.inference.preprocessing import correct_bias_field, denoise
from srcyc.volumes.volume import Volume

AFFINE = np.diag([2.0, 2.0, 6.0, 1.0])


def test_n4_takes_a_ramp_off_a_head(phantom):
    head = 1000 * phantom((36, 42, 12), noise=0.005)
    ramp = np.linspace(0.6, 1.4, 36, dtype=np.float32)[:, None, None]
    inside = phantom((36, 42, 12), noise=0) > 0.3

    # N4 takes some of the phantom's own shape for a field: what the ramp adds is what counts.
    left = (
        correct_bias_field(Volume(head * ramp, AFFINE)).data / correct_bias_field(Volume(head, AFFINE)).data
    )

    ramped = np.broadcast_to(ramp, head.shape)[inside]
    assert left[inside].std() / left[inside].mean() < 0.4 * ramped.std() / ramped.mean()


def test_denoising_lowers_noise_and_keeps_edges(phantom):
    clean = phantom((48, 56, 16), noise=0)
    noisy = clean + 0.05 * np.random.default_rng(0).standard_normal(clean.shape).astype(np.float32)
    volume = Volume(noisy, AFFINE)

    smooth = denoise(volume)

    assert np.abs(smooth.data - clean).mean() < 0.8 * np.abs(noisy - clean).mean()
    assert smooth.shape == volume.shape
    np.testing.assert_array_equal(smooth.affine, volume.affine)


@pytest.mark.parametrize("step", [correct_bias_field, denoise])
def test_the_scan_itself_is_left_alone(phantom, step):
    volume = Volume(phantom((24, 28, 12)), AFFINE)
    before = volume.data.copy()
    step(volume)
    np.testing.assert_array_equal(volume.data, before)


def test_array_axes_keep_their_order(phantom):
    spike = np.zeros((1, 12, 14, 16), np.float32)
    spike[0, 2, 9, 13] = 100.0
    assert np.unravel_index(denoise(Volume(spike, AFFINE)).data.argmax(), spike.shape) == (0, 2, 9, 13)


def test_where_n4_finds_nothing_to_fit_the_option_is_named():
    with pytest.raises(SRCycError, match="N4 found no bias field") as caught:
        correct_bias_field(Volume(np.full((1, 8, 8, 8), np.nan, np.float32), AFFINE))
    assert caught.value.options == ("n4",)
