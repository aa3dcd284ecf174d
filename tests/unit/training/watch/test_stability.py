from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import nn

from srcyc.config import TrainingConfig
from srcyc.training.watch.stability import CollapseError, StabilityMonitor, check_weights

UNDECIDED = {"bce": math.log(2), "relativistic": math.log(2), "lsgan": 0.25}


def monitor(adversarial: str = "bce", **stability: Any) -> StabilityMonitor:
    settings = {"patience": 3, **stability}
    return StabilityMonitor(
        TrainingConfig.model_validate({"adversarial": adversarial, "stability": settings})
    )


def feed(watching: StabilityMonitor, name: str, *values: float) -> None:
    for step, value in enumerate(values):
        watching.check(step, {name: value})


@pytest.mark.parametrize("adversarial", list(UNDECIDED))
@pytest.mark.parametrize("name", ["d_hr", "d_lr"])
def test_a_discriminator_that_has_won_stops_the_run_after_the_patience(adversarial: str, name: str) -> None:
    won, nearly = 0.0099 * UNDECIDED[adversarial], 0.011 * UNDECIDED[adversarial]
    feed(monitor(adversarial), name, *[nearly] * 20)
    watching = monitor(adversarial)
    feed(watching, name, won, won)
    with pytest.raises(
        CollapseError, match=rf"step 7: {name.upper()} has told real from fake .* for 3 reports"
    ):
        watching.check(7, {name: won})


def test_a_discriminator_that_recovers_is_given_its_time_again() -> None:
    watching = monitor()
    feed(watching, "d_hr", *[0.0, 0.0, 0.5] * 5)
    with pytest.raises(CollapseError):
        feed(watching, "d_hr", 0.0, 0.0, 0.0)


def test_each_discriminator_is_counted_for_itself() -> None:
    watching = monitor()
    for _ in range(5):
        watching.check(1, {"d_hr": 0.0, "d_lr": 0.5})
        watching.check(2, {"d_hr": 0.5, "d_lr": 0.0})


@pytest.mark.parametrize("name", ["cycle_lr", "cycle_hr"])
def test_a_cycle_that_blows_up_stops_the_run(name: str) -> None:
    watching = monitor()
    feed(watching, name, 0.5, 0.1, 0.39, 0.39, 0.39, 0.39)
    feed(watching, name, 0.41, 0.41)
    with pytest.raises(CollapseError, match=rf"{name} has been above 4 times its best .*\(0.41, best 0.1\)"):
        feed(watching, name, 0.41)


def test_a_cycle_that_recovers_goes_on() -> None:
    feed(monitor(), "cycle_lr", 0.1, *[0.9, 0.9, 0.2] * 5)


def test_other_terms_may_do_as_they_like() -> None:
    feed(monitor(), "content", 0.1, *[9.0] * 9)
    feed(monitor(), "adversarial_hr", *[0.0] * 9)


def test_both_can_be_switched_off() -> None:
    watching = monitor(saturation=0, blow_up=0)
    feed(watching, "d_hr", *[0.0] * 9)
    feed(watching, "cycle_hr", 0.1, *[99.0] * 9)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_what_is_no_number_stops_at_once_and_cannot_be_switched_off(value: float) -> None:
    with pytest.raises(
        CollapseError, match=r"step 4: the loss cycle_hr is not finite; the last checkpoint and"
    ):
        monitor(saturation=0, blow_up=0).check(4, {"content": 1.0, "cycle_hr": value})


def test_a_resumed_run_goes_on_counting() -> None:
    first = monitor()
    first.check(1, {"d_hr": 0.0, "cycle_lr": 0.1})
    first.check(2, {"d_hr": 0.0, "cycle_lr": 0.9})
    for name, value in (("d_hr", 0.0), ("cycle_lr", 0.9)):
        resumed = monitor()
        resumed.load_state_dict(first.state_dict())
        if name == "cycle_lr":
            resumed.check(3, {name: value})
        with pytest.raises(CollapseError):
            resumed.check(4, {name: value})


def test_what_was_given_out_does_not_change() -> None:
    watching = monitor()
    watching.check(1, {"d_hr": 0.0})
    state = watching.state_dict()
    watching.check(2, {"d_hr": 0.0})
    assert state["suspect"] == {"d_hr": 1}


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_weights_and_running_statistics_must_be_numbers(value: float) -> None:
    network = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2))
    check_weights(1, [("g_hr", network)])
    with torch.no_grad():
        network[1].running_mean[0] = value  # type: ignore[index, union-attr]
    with pytest.raises(CollapseError, match="step 5: the weights of g_lr are not finite"):
        check_weights(5, [("g_hr", nn.Linear(2, 2)), ("g_lr", network)])
