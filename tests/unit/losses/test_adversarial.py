from __future__ import annotations

import math

import pytest
import torch

from srcyc.errors import ConfigError, InputError
from srcyc.losses import AdversarialLoss

CRITERIA = ["bce", "lsgan", "relativistic"]


def logits(value: float, *shape: int) -> torch.Tensor:
    return torch.full(shape or (2, 1, 3, 3, 3), value)


@pytest.mark.parametrize("criterion", CRITERIA)
def test_a_fooled_discriminator_costs_more(criterion: str) -> None:
    loss = AdversarialLoss(criterion)
    right = loss.discriminator(real_logits=logits(3.0), fake_logits=logits(-3.0))
    undecided = loss.discriminator(real_logits=logits(0.0), fake_logits=logits(0.0))
    fooled = loss.discriminator(real_logits=logits(-3.0), fake_logits=logits(3.0))
    assert right < fooled
    if criterion != "lsgan":  # its targets are 1 and 0, so that +-3 overshoots them
        assert right < undecided < fooled


@pytest.mark.parametrize("criterion", CRITERIA)
def test_a_generator_that_fools_costs_less(criterion: str) -> None:
    loss = AdversarialLoss(criterion)
    seen_through = loss.generator(logits(-1.0), logits(1.0))
    fooling = loss.generator(logits(1.0), logits(-1.0))
    assert fooling < seen_through


def test_bce_is_the_mean_of_both_terms() -> None:
    loss = AdversarialLoss("bce")
    real, fake = 0.7, 1.3
    real_term = math.log1p(math.exp(-real))
    fake_term = math.log1p(math.exp(fake))
    assert float(loss.discriminator(logits(real), logits(fake))) == pytest.approx((real_term + fake_term) / 2)
    assert float(loss.generator(logits(fake))) == pytest.approx(math.log1p(math.exp(-fake)))


def test_lsgan_by_hand() -> None:
    loss = AdversarialLoss("lsgan")
    assert float(loss.discriminator(logits(0.5), logits(0.2))) == pytest.approx((0.25 + 0.04) / 2)
    assert float(loss.generator(logits(0.2))) == pytest.approx(0.64)
    assert float(loss.discriminator(logits(1.0), logits(0.0))) == 0.0


def test_relativistic_follows_the_papers_formula() -> None:
    torch.manual_seed(0)
    real, fake = torch.randn(2, 1, 4, 4), torch.randn(3, 1, 5, 5)
    probability_real = torch.sigmoid(real - fake.mean())
    probability_fake = torch.sigmoid(fake - real.mean())
    expected_d = -probability_real.log().mean() - (1 - probability_fake).log().mean()
    expected_g = -probability_fake.log().mean() - (1 - probability_real).log().mean()
    loss = AdversarialLoss("relativistic")
    torch.testing.assert_close(loss.discriminator(real, fake), expected_d / 2)
    torch.testing.assert_close(loss.generator(fake, real), expected_g / 2)


def test_relativistic_ignores_a_common_offset() -> None:
    loss = AdversarialLoss("relativistic")
    torch.manual_seed(0)
    real, fake = torch.randn(2, 1, 4, 4), torch.randn(2, 1, 4, 4)
    torch.testing.assert_close(loss.discriminator(real + 5, fake + 5), loss.discriminator(real, fake))


@pytest.mark.parametrize("criterion", CRITERIA)
def test_an_undecided_relativistic_or_bce_discriminator_costs_ln2(criterion: str) -> None:
    value = float(AdversarialLoss(criterion).discriminator(logits(0.0), logits(0.0)))
    assert value == pytest.approx(0.5 if criterion == "lsgan" else math.log(2))


def test_relativistic_generator_needs_real_logits() -> None:
    loss = AdversarialLoss("relativistic")
    assert loss.needs_real_logits and not AdversarialLoss("bce").needs_real_logits
    with pytest.raises(InputError, match="real_logits"):
        loss.generator(logits(0.0))


def test_an_unknown_criterion_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"wgan.*bce, lsgan, relativistic"):
        AdversarialLoss("wgan")  # type: ignore[arg-type]


@pytest.mark.parametrize("criterion", CRITERIA)
def test_the_generators_gradient_raises_the_fake_logits(criterion: str) -> None:
    fake = logits(-0.5).requires_grad_()
    AdversarialLoss(criterion).generator(fake, logits(0.5)).backward()
    assert fake.grad is not None and bool((fake.grad < 0).all())


@pytest.mark.parametrize("criterion", CRITERIA)
def test_half_precision_logits_are_reduced_in_float32(criterion: str) -> None:
    torch.manual_seed(0)
    real, fake = torch.randn(4, 1, 32, 32).bfloat16(), torch.randn(4, 1, 32, 32).bfloat16()
    loss = AdversarialLoss(criterion)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        values = loss.discriminator(real, fake), loss.generator(fake, real)
    expected = loss.discriminator(real.float(), fake.float()), loss.generator(fake.float(), real.float())
    for value, wanted in zip(values, expected, strict=True):
        assert value.dtype == torch.float32
        assert torch.equal(value, wanted)
