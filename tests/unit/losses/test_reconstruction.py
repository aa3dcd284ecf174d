from __future__ import annotations

import pytest
import torch

from srcyc.errors import InputError
from srcyc.losses import ReconstructionLoss, RelativeLoss


def random(seed: int = 0) -> torch.Tensor:
    return torch.rand(1, 1, 8, 9, 7, generator=torch.Generator().manual_seed(seed))


# -- L1 ----------------------------------------------------------------------------------------------------------


def test_a_perfect_image_costs_nothing() -> None:
    assert float(ReconstructionLoss()(random(), random())) == 0


def test_l1_by_hand() -> None:
    image = torch.tensor([0.0, 0.5, 1.0, 2.0]).view(1, 1, 2, 2)
    target = torch.tensor([0.0, 0.0, 2.0, 0.0]).view(1, 1, 2, 2)
    assert float(ReconstructionLoss()(image, target)) == pytest.approx((0.5 + 1 + 2) / 4)


# -- squared error over the baseline's ---------------------------------------------------------------------------


def test_relative_error_by_hand() -> None:
    """mean (x - t)^2 / (mean (x0 - t)^2 + 1e-4)."""
    image = torch.tensor([1.0, 1.0, 0.0, 0.0]).view(1, 1, 2, 2)
    baseline = torch.tensor([2.0, 0.0, 0.0, 0.0]).view(1, 1, 2, 2)
    loss = RelativeLoss()(image, torch.zeros(1, 1, 2, 2), baseline)
    assert float(loss) == pytest.approx(0.5 / (1 + 1e-4))


def test_one_means_that_nothing_was_gained_and_the_truth_costs_nothing() -> None:
    truth, baseline = random(), random(1)
    loss = RelativeLoss()
    assert float(loss(baseline, truth, baseline)) == pytest.approx(1.0, rel=1e-2)
    assert float(loss(truth, truth, baseline)) == 0
    half = truth + (baseline - truth) / 2
    assert float(loss(half, truth, baseline)) == pytest.approx(0.25, rel=1e-2)


def test_patches_count_alike_whatever_their_contrast() -> None:
    truth, baseline = random(), random(1)
    faint = RelativeLoss()(0.5 * truth + 0.1 * random(2), truth, baseline)
    strong = RelativeLoss()(3 * (0.5 * truth + 0.1 * random(2)), 3 * truth, 3 * baseline)
    assert float(faint) == pytest.approx(float(strong), rel=2e-3)


def test_a_perfect_baseline_divides_by_no_zero() -> None:
    truth = random()
    loss = RelativeLoss()(truth + 0.01, truth, truth)
    assert float(loss) == pytest.approx(1.0, rel=1e-3)


def test_the_baseline_is_a_yardstick_and_gets_no_gradient() -> None:
    """Else G_LR, whose slices the baseline is made of, could lower the loss by making the baseline worse."""
    image, baseline = random().requires_grad_(), random(1).requires_grad_()
    RelativeLoss()(image, random(2), baseline).backward()
    assert image.grad is not None and image.grad.any()
    assert baseline.grad is None


def test_its_gradient_is_that_of_the_mean_not_of_the_sign() -> None:
    """What noise there is in the truth averages out: twice the distance pulls twice as hard."""
    image = torch.tensor([0.1, 0.2]).view(1, 1, 1, 2).requires_grad_()
    RelativeLoss()(image, torch.zeros(1, 1, 1, 2), torch.ones(1, 1, 1, 2)).backward()
    assert image.grad is not None
    near, far = image.grad.flatten().tolist()
    assert far == pytest.approx(2 * near)


# -- both --------------------------------------------------------------------------------------------------------


def test_shapes_are_not_broadcast() -> None:
    one, two = torch.zeros(1, 1, 4, 4), torch.zeros(2, 1, 4, 4)
    for call in (
        lambda: ReconstructionLoss()(two, one),
        lambda: RelativeLoss()(two, one, one),
        lambda: RelativeLoss()(one, one, two),
    ):
        with pytest.raises(InputError, match=r"\(2, 1, 4, 4\).*\(1, 1, 4, 4\)"):
            call()


def test_half_precision_is_reduced_in_float32() -> None:
    image, target, baseline = (random(seed).bfloat16() for seed in range(3))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        plain = ReconstructionLoss()(image, target)
        relative = RelativeLoss()(image, target, baseline)
    assert plain.dtype == relative.dtype == torch.float32
    assert torch.equal(plain, ReconstructionLoss()(image.float(), target.float()))
    assert torch.equal(relative, RelativeLoss()(image.float(), target.float(), baseline.float()))
