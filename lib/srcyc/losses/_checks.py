"""What every loss of this package does with its arguments before it reduces them."""

from __future__ import annotations

import torch

from srcyc.errors import ConfigError, InputError


def full_precision(x: torch.Tensor) -> torch.Tensor:
    """Return ``x`` in at least float32: a half-precision mean over a whole patch loses its small terms."""
    return x.float() if x.dtype in (torch.float16, torch.bfloat16) else x


def require_same_shape(input: torch.Tensor, target: torch.Tensor) -> None:
    """Refuse a pair that would only match by broadcasting.

    Raises:
        InputError: when the two shapes differ.
    """
    if input.shape != target.shape:
        raise InputError(
            f"the loss compares images of one shape, got {tuple(input.shape)} and {tuple(target.shape)}",
            remedy="bring both to the same grid first",
        )


def require_image(x: torch.Tensor, spatial_dims: int) -> None:
    """Refuse an array that is no batch ``(B, C, *spatial)`` of images with ``spatial_dims`` axes.

    Raises:
        InputError: when the number of axes does not fit or the batch is empty.
    """
    if x.ndim != spatial_dims + 2 or x.numel() == 0:
        axes = ", ".join("BCIJK"[: spatial_dims + 2])
        raise InputError(
            f"a loss with spatial_dims={spatial_dims} takes a non-empty batch ({axes}), "
            f"got shape {tuple(x.shape)}"
        )


def require_spatial_dims(spatial_dims: int) -> None:
    """Refuse anything but images with two or three axes.

    Raises:
        ConfigError: when ``spatial_dims`` is neither 2 nor 3.
    """
    if spatial_dims not in (2, 3):
        raise ConfigError(f"spatial_dims is {spatial_dims!r}", remedy="choose 2 or 3")
