from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from pydantic import ValidationError

from srcyc.errors import ConfigError, InputError
from srcyc.losses import LossWeights, weighted_sum
from srcyc.training.step.terms import TERMS

ALL_ON = LossWeights(
    lambda_adversarial=1,
    lambda_cycle=10,
    lambda_identity=5,
    lambda_content=2,
    lambda_perceptual=0.5,
    lambda_tv=0.25,
    lambda_spectrum=0.125,
)


def constant(value: float) -> Callable[[], torch.Tensor]:
    return lambda: torch.tensor(value)


def never() -> torch.Tensor:
    pytest.fail("a term with weight 0 was computed")


def test_the_defaults_are_the_methods() -> None:
    weights = LossWeights()
    assert (weights.lambda_adversarial, weights.lambda_cycle, weights.lambda_identity) == (1.0, 10.0, 5.0)
    assert (weights.lambda_content, weights.lambda_perceptual, weights.lambda_tv) == (0.0, 0.0, 0.0)


def test_the_total_is_the_weighted_sum_of_every_term() -> None:
    names = list(TERMS)
    values = {name: float(2**index) for index, name in enumerate(names)}  # so that no mix-up cancels out
    total, terms = weighted_sum({name: constant(values[name]) for name in names}, ALL_ON)
    expected = (
        1 * (values["adversarial_hr"] + values["adversarial_lr"])
        + 10 * (values["cycle_hr"] + values["cycle_lr"])
        + 5 * (values["identity_hr"] + values["identity_lr"])
        + 2 * values["content"]
        + 0.5 * values["perceptual"]
        + 0.25 * values["tv"]
        + 0.125 * values["spectrum_lr"]
    )
    assert float(total) == pytest.approx(expected)
    assert {name: float(value) for name, value in terms.items()} == values


def test_the_lr_adversary_may_have_a_weight_of_its_own() -> None:
    shared, own, off = (
        LossWeights(lambda_adversarial=2, lambda_adversarial_lr=value) for value in (None, 3, 0)
    )
    assert [each.of("adversarial_lr") for each in (shared, own, off)] == [2, 3, 0]
    assert {each.of("adversarial_hr") for each in (shared, own, off)} == {2}
    only_lr = LossWeights(lambda_adversarial=0, lambda_adversarial_lr=1)
    assert only_lr.of("adversarial_lr") == 1 and only_lr.of("adversarial_hr") == 0


def test_a_term_with_weight_zero_is_never_computed() -> None:
    total, terms = weighted_sum(
        {
            "adversarial_hr": never,
            "adversarial_lr": never,
            "cycle_hr": constant(0.5),
            "content": never,
            "perceptual": never,
            "tv": never,
        },
        LossWeights(lambda_adversarial=0),
    )
    assert float(total) == pytest.approx(5.0)
    assert list(terms) == ["cycle_hr"]


def test_the_gradient_carries_the_weights_and_the_reported_terms_none() -> None:
    parameter = torch.tensor(3.0, requires_grad=True)
    total, terms = weighted_sum(
        {"cycle_hr": lambda: parameter**2, "identity_hr": lambda: 2 * parameter}, LossWeights()
    )
    total.backward()  # type: ignore[no-untyped-call]
    assert parameter.grad is not None
    assert float(parameter.grad) == pytest.approx(10 * 6 + 5 * 2)
    assert not any(value.requires_grad for value in terms.values())


def test_half_precision_terms_are_summed_in_float32() -> None:
    total, terms = weighted_sum(
        {
            "cycle_hr": lambda: torch.tensor(256.0, dtype=torch.bfloat16),
            "cycle_lr": lambda: torch.tensor(1.0, dtype=torch.bfloat16),
        },
        LossWeights(lambda_cycle=1),
    )
    assert total.dtype == torch.float32
    assert float(total) == 257.0  # bfloat16 rounds it to 256
    assert {value.dtype for value in terms.values()} == {torch.float32}


def test_misuse_is_refused() -> None:
    weights = LossWeights()
    with pytest.raises(InputError, match=r"gan.*cycle"):
        weighted_sum({"gan": constant(1.0)}, weights)
    with pytest.raises(InputError, match=r"cycle_hr has shape \(2,\)"):
        weighted_sum({"cycle_hr": lambda: torch.zeros(2)}, weights)
    with pytest.raises(ConfigError, match="content"):
        weighted_sum({"content": never}, weights)
    with pytest.raises(ConfigError, match="none given"):
        weighted_sum({}, weights)


@pytest.mark.parametrize("value", [-1.0, float("nan"), float("inf")])
def test_a_weight_is_a_finite_number_from_zero(value: float) -> None:
    with pytest.raises(ValidationError, match="lambda_cycle"):
        LossWeights(lambda_cycle=value)


def test_weights_are_frozen_and_know_no_other_names() -> None:
    with pytest.raises(ValidationError, match="lambda_gan"):
        LossWeights(lambda_gan=1)  # type: ignore[call-arg]
    with pytest.raises(ValidationError, match="frozen"):
        LossWeights().lambda_cycle = 3.0  # type: ignore[misc]
