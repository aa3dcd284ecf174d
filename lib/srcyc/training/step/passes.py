"""The forward passes of one batch."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import cast

import torch
from torch import Tensor

from srcyc.data.patches import Batch
from srcyc.enhancement import enhance
from srcyc.networks import DegradationNet
from srcyc.physics.acquisition import AxisAcquisition
from srcyc.physics.resampling import apply_along
from srcyc.training.step.networks import Networks

#: One image ``(1, 1, I, J, planes)`` per item; if not said otherwise, of those planes that count.
Images = list[Tensor]


class Passes:
    """What the networks make of a batch, each computed when first asked for and then kept.

    A random G_LR makes noise where D_LR looks; where its result is compared with a scan voxel by voxel, it gives the
    mean.

    Args:
        networks: of the run.
        batch: of the step.
    """

    def __init__(self, networks: Networks, batch: Batch) -> None:
        self.networks = networks
        self.batch = batch
        self.real_lr = batch.real_lr
        self.real_hr = self._counted(batch.real_hr)

    @cached_property
    def _whole_fake_hr(self) -> Images:
        return self._enhanced(self.real_lr)

    @cached_property
    def fake_hr(self) -> Images:
        """G_HR(real_lr)."""
        return self._counted(self._whole_fake_hr)

    @cached_property
    def rec_lr(self) -> Tensor:
        """G_LR(G_HR(real_lr))."""
        return self._degraded(self._whole_fake_hr)

    @cached_property
    def fake_lr(self) -> Tensor:
        """What D_LR judges: G_LR(real_hr), with pairs G_LR(G_HR(real_lr)) as in the paper."""
        if not self.batch.aligned:
            return self._degraded(self.batch.real_hr, noisy=True)
        g_lr = self.networks.g_lr
        noisy = g_lr is not None and g_lr.is_noisy
        return self._degraded(self._whole_fake_hr, noisy=True) if noisy else self.rec_lr

    @cached_property
    def rec_hr(self) -> Images:
        """G_HR(fake_lr)."""
        return self._counted(self._enhanced(self.fake_lr))

    @cached_property
    def estimate(self) -> Images:
        """What real_hr is the truth of: fake_hr if aligned, else rec_hr without a gradient in G_LR."""
        if self.batch.aligned:
            return self.fake_hr
        return self._counted(self._enhanced(self.fake_lr.detach()))

    @cached_property
    def baseline(self) -> Images:
        """The classical inverse of what the estimate was made of."""
        slices = self.real_lr if self.batch.aligned else self.fake_lr
        pairs = zip(slices.detach().split(1), self.batch.axes, strict=True)
        return self._counted([apply_along(one.float(), axis.upscaling, -1) for one, axis in pairs])

    @cached_property
    def identity_hr(self) -> tuple[Images, Images]:
        """G_HR at factor 1, and its truth; all planes of them.

        A thin scan's planes are slices of factor 1: nothing lies between them, and nothing is wrong with them.
        """
        planes = self.real_lr.shape[-1]
        thin = torch.cat([image[..., _central(image.shape[-1], planes)] for image in self.batch.real_hr])
        same = [AxisAcquisition.of(planes, planes)] * len(thin)
        return [one.image for one in enhance(self.networks.g_hr, thin, same)], list(thin.split(1))

    @cached_property
    def identity_lr(self) -> Tensor:
        """G_LR(real_lr) at factor 1."""
        return self._degraded(self.real_lr.split(1), ratio=1.0)

    def judged(self, judge: str) -> tuple[Tensor, Tensor]:
        """Give the fakes that ``d_hr`` or ``d_lr`` judges, and the real images beside them, as one batch each."""
        if judge == "d_lr":
            return self.fake_lr, self.real_lr
        # All items of a step with an adversary have one factor, so they are one batch.
        return torch.cat(self.fake_hr), torch.cat(self.real_hr)

    def _counted(self, images: Sequence[Tensor]) -> Images:
        return [image[..., self.batch.counted(item)] for item, image in enumerate(images)]

    def _enhanced(self, slices: Tensor) -> Images:
        return [one.image for one in enhance(self.networks.g_hr, slices, self.batch.axes)]

    def _degraded(
        self, images: Sequence[Tensor], ratio: float | None = None, *, noisy: bool = False
    ) -> Tensor:
        # Only terms of modes that have a G_LR ask for it.
        g_lr, batch = cast(DegradationNet, self.networks.g_lr), self.batch
        fakes = [
            g_lr(
                image,
                size=batch.real_lr.shape[2:],
                thickness_ratio=axis.thickness_ratio if ratio is None else ratio,
                noise=noise if noisy else None,
            )
            for image, axis, noise in zip(images, batch.axes, batch.noise.split(1), strict=True)
        ]
        return torch.cat(fakes)


def _central(n: int, size: int) -> slice:
    start = (n - size) // 2
    return slice(start, start + size)
