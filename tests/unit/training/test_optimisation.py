from __future__ import annotations

from itertools import pairwise

import pytest
import torch
from torch import nn

from srcyc.config import OptimiserConfig
from srcyc.training.distributed import Processes
from srcyc.training.optimisation import Optimiser, learning_rate_scale


def scales(steps: int = 1000, **settings: object) -> list[float]:
    config = OptimiserConfig.model_validate({"warm_up": 100, "final_fraction": 0.02, **settings})
    return [learning_rate_scale(step, config, steps) for step in range(steps + 1)]


@pytest.mark.parametrize("schedule", ["cosine", "linear", "step", "constant"])
def test_every_schedule_warms_up_and_never_rises_again(schedule: str) -> None:
    found = scales(schedule=schedule, milestones=[300, 600])
    assert found[0] == pytest.approx(0.01)
    assert found[99] == pytest.approx(1.0)
    assert all(a <= b for a, b in pairwise(found[:100]))
    assert all(a >= b for a, b in pairwise(found[100:]))


def test_the_ends_of_the_schedules() -> None:
    assert scales(schedule="cosine")[-1] == pytest.approx(0.02)
    assert scales(schedule="linear")[-1] == pytest.approx(0.02)
    assert scales(schedule="linear")[550] == pytest.approx(0.51)
    assert scales(schedule="constant")[-1] == 1


def test_the_authors_halvings() -> None:
    found = scales(60, schedule="step", warm_up=0, milestones=[10, 20, 40, 50], gamma=0.5)
    assert [found[step] for step in (0, 9, 10, 19, 20, 39, 40, 49, 50, 60)] == [
        *(1, 1, 0.5, 0.5, 0.25, 0.25, 0.125, 0.125, 0.0625, 0.0625)
    ]


def test_gradients_are_clipped_over_all_networks_together() -> None:
    network = nn.Linear(1, 1, bias=False)
    with torch.no_grad():
        network.weight.fill_(1.0)
    optimiser = Optimiser([network], 0.1, OptimiserConfig(gradient_clip=1e-3), Processes(), torch.float32)
    optimiser.minimise(1000 * network.weight.sum(), 1.0)
    assert float(network.weight.grad) == pytest.approx(1e-3, rel=1e-3)


def test_a_loss_that_overflows_fp16_is_scaled_down_and_its_step_left_out() -> None:
    network = nn.Linear(1, 1, bias=False)
    before = network.weight.detach().clone()
    optimiser = Optimiser([network], 0.1, OptimiserConfig(), Processes(), torch.float16)
    scale = optimiser.scaler.get_scale()
    optimiser.minimise(network.weight.sum() * float("inf"), 1.0)
    assert torch.equal(network.weight, before)
    assert optimiser.scaler.get_scale() < scale
    optimiser.minimise(network.weight.sum(), 1.0)
    assert not torch.equal(network.weight, before)

    again = Optimiser([network], 0.1, OptimiserConfig(), Processes(), torch.float16)
    again.load_state_dict(optimiser.state_dict())
    assert again.scaler.get_scale() == optimiser.scaler.get_scale()


def test_a_run_goes_on_in_a_type_that_needs_scaling() -> None:
    network = nn.Linear(1, 1)
    saved = Optimiser([network], 0.1, OptimiserConfig(), Processes(), torch.bfloat16).state_dict()
    again = Optimiser([network], 0.1, OptimiserConfig(), Processes(), torch.float16)
    fresh = again.scaler.get_scale()
    again.load_state_dict(saved)
    assert again.scaler.get_scale() == fresh
