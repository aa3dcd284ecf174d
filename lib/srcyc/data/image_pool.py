"""A history of generated images, from which the discriminators are shown older ones too."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch


class ImagePool:
    """Buffer of earlier fakes, as in CycleGAN (Shrivastava et al. 2017, https://arxiv.org/abs/1612.07828).

    Until the pool is full, images are stored and returned as they are. From then on, each image is, with
    probability 0.5, returned as it is and forgotten, else exchanged: a stored image is returned and the new
    one takes its place.

    The scale factor, and with it the shape of a fake LR patch, changes from step to step. All shapes share
    the one buffer, so ``size`` bounds the memory whatever their number; an image is exchanged only for one of
    its own shape. If none of that shape is stored, the new image displaces a stored one drawn at random and
    is returned itself.

    Randomness comes from the pool's own generator, so a pool restored by :meth:`load_state_dict` continues
    exactly.

    Args:
        size: the number of images kept; 0 switches the pool off.
        seed: of the pool's generator.

    Example:
        >>> pool = ImagePool(size=50, seed=0)
        >>> pool.query(torch.zeros(2, 1, 8, 8, 8)).shape
        torch.Size([2, 1, 8, 8, 8])
    """

    def __init__(self, size: int = 50, seed: int = 0) -> None:
        self.size = size
        self._images: list[torch.Tensor] = []
        self._generator = torch.Generator().manual_seed(seed)

    def __len__(self) -> int:
        return len(self._images)

    def query(self, images: torch.Tensor) -> torch.Tensor:
        """Return a batch of new and earlier images, detached, with the shape, dtype and device of ``images``.

        Args:
            images: newly generated images, ``(B, C, *spatial)``.
        """
        images = images.detach()
        if self.size == 0:
            return images
        return torch.stack([self._exchange(image) for image in images])

    def state_dict(self) -> dict[str, Any]:
        """Return the pool's content: tensors, which ``torch.load(weights_only=True)`` reads."""
        return {"images": list(self._images), "generator": self._generator.get_state()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from what :meth:`state_dict` returned."""
        # a checkpoint loaded with map_location=cuda moves this tensor too, and the generator takes CPU only
        self._generator.set_state(state["generator"].cpu())
        self._images = list(state["images"])

    def _exchange(self, image: torch.Tensor) -> torch.Tensor:
        if len(self._images) < self.size:
            self._images.append(image.clone())  # a view would keep the whole batch alive
            return image
        if self._draw(2) == 0:
            return image
        same_shape = [index for index, stored in enumerate(self._images) if stored.shape == image.shape]
        if not same_shape:
            self._images[self._draw(self.size)] = image.clone()
            return image
        index = same_shape[self._draw(len(same_shape))]
        earlier, self._images[index] = self._images[index], image.clone()
        return earlier.to(image)

    def _draw(self, count: int) -> int:
        """Return a uniform random integer in [0, count)."""
        return int(torch.randint(count, (), generator=self._generator))
