"""What every loss of this package does with its arguments before it reduces them."""

from __future__ import annotations

import torch

from srcyc.errors import InputError


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


def require_image(x: torch.Tensor) -> None:
    """Refuse an array that is no batch ``(B, C, *spatial)``.

    Raises:
        InputError: when there is no spatial axis, or the batch is empty.
    """
    if x.ndim < 3 or x.numel() == 0:
        raise InputError(f"a loss takes a non-empty batch (B, C, *spatial), got shape {tuple(x.shape)}")
