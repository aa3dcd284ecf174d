from __future__ import annotations

import pytest
import torch

from srcyc.errors import ConfigError, InputError
from srcyc.losses import ReconstructionLoss


@pytest.mark.parametrize("criterion", ["l1", "charbonnier"])
def test_a_perfect_image_costs_nothing(criterion: str) -> None:
    image = torch.rand(1, 1, 5, 6, 7)
    assert float(ReconstructionLoss(criterion)(image, image.clone())) == pytest.approx(0.0, abs=1e-9)


def test_l1_by_hand() -> None:
    image = torch.tensor([0.0, 0.5, 1.0, 2.0]).view(1, 1, 2, 2)
    target = torch.tensor([0.0, 0.0, 2.0, 0.0]).view(1, 1, 2, 2)
    assert float(ReconstructionLoss("l1")(image, target)) == pytest.approx((0.5 + 1 + 2) / 4)
    assert float(ReconstructionLoss("l1", reduction="sum")(image, target)) == pytest.approx(3.5)
    assert ReconstructionLoss("l1", reduction="none")(image, target).shape == image.shape


def test_charbonnier_is_smooth_at_zero_and_l1_far_from_it() -> None:
    loss = ReconstructionLoss("charbonnier", epsilon=1e-3)
    near = torch.full((1, 1, 4, 4), 1e-5, requires_grad=True)
    loss(near, torch.zeros(1, 1, 4, 4)).backward()
    assert near.grad is not None
    assert float(near.grad.sum()) == pytest.approx(1e-5 / 1e-3, rel=1e-3)  # an L1 gradient would be 1
    far = loss(torch.full((1, 1, 4, 4), 2.0), torch.zeros(1, 1, 4, 4))
    assert float(far) == pytest.approx(2.0, abs=1.1e-3)


def test_shapes_are_not_broadcast() -> None:
    with pytest.raises(InputError, match=r"\(2, 1, 4, 4\).*\(1, 1, 4, 4\)"):
        ReconstructionLoss()(torch.zeros(2, 1, 4, 4), torch.zeros(1, 1, 4, 4))


def test_bad_settings_are_refused() -> None:
    with pytest.raises(ConfigError, match="l2"):
        ReconstructionLoss("l2")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="average"):
        ReconstructionLoss(reduction="average")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="epsilon"):
        ReconstructionLoss("charbonnier", epsilon=0.0)


@pytest.mark.parametrize("criterion", ["l1", "charbonnier"])
def test_half_precision_is_reduced_in_float32(criterion: str) -> None:
    torch.manual_seed(0)
    image, target = torch.rand(1, 1, 32, 32).bfloat16(), torch.rand(1, 1, 32, 32).bfloat16()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        value = ReconstructionLoss(criterion)(image, target)
    assert value.dtype == torch.float32
    assert torch.equal(value, ReconstructionLoss(criterion)(image.float(), target.float()))
