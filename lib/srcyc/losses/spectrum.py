"""Spectrum loss: unrelated images, equally sharp and equally noisy."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from srcyc.losses._checks import full_precision

#: Added to a power, normalised intensity squared per sample: what an image of nothing has.
_FLOOR = 1e-7


class SpectrumLoss(nn.Module):
    """Squared difference of the logarithms of two power spectra, along each axis; a common factor does not count.

    The spectrum of an axis is ``|FFT(w x)|^2`` of Hann-windowed lines, averaged over all lines of all images. White
    noise is its floor and blur its slope, whoever is in the images: unrelated ones can be compared, unlike voxels.
    Along a thick axis it says how wide the slice profile is. (A loss on spectra, of pairs: Fuoli et al. 2021,
    arXiv:2106.00783.)

    Noise widens the range that a scan is scaled by, so its anatomy comes out a few per cent darker: hence the factor is
    left out, by the variance of the differences instead of their mean square.

    Its gradient is exact from the first step, where a discriminator first has to learn what blur and noise look like.
    """

    def forward(self, fake: Tensor, real: Tensor) -> Tensor:
        """Compare two batches.

        Args:
            fake: ``(B, C, *spatial)``, normalised intensity.
            real: of the same spatial shape.

        Returns:
            a scalar, over the frequencies of all axes.
        """
        fake, real = full_precision(fake), full_precision(real)
        differences = torch.cat(
            [_log_spectrum(fake, axis) - _log_spectrum(real, axis) for axis in range(2, fake.ndim)]
        )
        return differences.var(correction=0)


def _log_spectrum(x: Tensor, axis: int) -> Tensor:
    """Give the logarithm of the mean power of the lines along an axis, ``(frequencies,)``; the constant is left out."""
    n = x.shape[axis]
    window = torch.hann_window(n + 2, periodic=False, dtype=x.dtype, device=x.device)[1:-1]
    lines = x.movedim(axis, -1)
    # What the window makes of a line's mean would hide its slowest waves.
    lines = (lines - lines.mean(dim=-1, keepdim=True)) * window
    power = torch.fft.rfft(lines, dim=-1).abs().square() / window.square().sum()
    return torch.log(power.flatten(0, -2).mean(dim=0)[1:] + _FLOOR)
