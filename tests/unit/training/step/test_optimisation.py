from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import pytest
import torch
from torch import nn

from srcyc.config import OptimiserConfig
from srcyc.networks import Sampling, SliceResDNet
from srcyc.training.distributed import Processes
from srcyc.training.step.optimisation import Muon, Optimiser, learning_rate_scale


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


@pytest.mark.parametrize("bad", [float("inf"), float("nan")])
def test_what_overflows_in_one_algorithm_moves_nothing_of_the_other(bad: float) -> None:
    """The layer that overflows is Adam's; Muon's gradients, clipped by the norm of all, must not follow."""
    network = SliceResDNet(features=8, depth=1)
    config = OptimiserConfig(algorithm="muon")
    optimiser = Optimiser([network], 0.1, config, Processes(), torch.float16, inner_of=network)

    def loss() -> torch.Tensor:
        return torch.stack([(p - 0.5).square().sum() for p in network.parameters()]).sum()

    optimiser.minimise(loss(), 1.0)  # Muon has momentum, in whose direction it would go on
    scale, before = optimiser.scaler.get_scale(), [p.detach().clone() for p in network.parameters()]
    optimiser.minimise(loss() + bad * network.head.bias.sum(), 1.0)
    assert all(map(torch.equal, network.parameters(), before))
    assert optimiser.scaler.get_scale() == scale / 2
    optimiser.minimise(loss(), 1.0)
    assert not any(map(torch.equal, network.parameters(), before))
    assert all(bool(p.isfinite().all()) for p in network.parameters())


def test_a_run_goes_on_in_a_type_that_needs_scaling() -> None:
    network = nn.Linear(1, 1)
    saved = Optimiser([network], 0.1, OptimiserConfig(), Processes(), torch.bfloat16).state_dict()
    again = Optimiser([network], 0.1, OptimiserConfig(), Processes(), torch.float16)
    fresh = again.scaler.get_scale()
    again.load_state_dict(saved)
    assert again.scaler.get_scale() == fresh


# -- Muon --------------------------------------------------------------------------------------------------------


def convolution(channels: int = 8, seed: int = 0) -> nn.Conv3d:
    torch.manual_seed(seed)
    return nn.Conv3d(channels, channels, 3)


def test_muon_steps_along_the_orthogonalised_momentum() -> None:
    """However unlike the singular values of a gradient are, those of the step are about 1."""
    torch.manual_seed(1)
    layer = convolution()
    before = layer.weight.detach().clone()
    gradient = torch.randn(8, 8 * 27) * torch.logspace(0, -2, 8)[:, None]
    layer.weight.grad = gradient.reshape(layer.weight.shape).clone()
    idle = convolution(seed=2).weight  # of a layer that had no part in the loss
    still = idle.detach().clone()
    Muon([layer.weight, idle], lr=0.1).step()
    assert torch.equal(idle, still)
    step = (before - layer.weight.detach()).reshape(8, -1) / 0.1
    values = torch.linalg.svdvals(step)
    assert values.min() > 0.6 and values.max() < 1.25
    assert torch.linalg.svdvals(gradient)[0] > 20 * torch.linalg.svdvals(gradient)[-1]
    # The nearest orthonormal rows are U V^T: the step goes that way, not another.
    u, _, vt = torch.linalg.svd(gradient, full_matrices=False)
    assert torch.cosine_similarity(step.flatten(), (u @ vt).flatten(), dim=0) > 0.97


def test_muon_s_momentum_is_of_the_nesterov_kind() -> None:
    layer = convolution()
    muon = Muon([layer.weight], lr=0.0, momentum=0.9)
    first, second = (torch.randn(layer.weight.shape) for _ in range(2))
    mean = torch.zeros_like(first)
    for gradient in (first, second):
        layer.weight.grad = gradient.clone()
        muon.step()
        mean = 0.9 * mean + 0.1 * gradient
    torch.testing.assert_close(muon.state[layer.weight]["momentum"], mean)
    before = layer.weight.detach().clone()
    muon.param_groups[0]["lr"] = 1.0
    layer.weight.grad = first.clone()
    muon.step()
    mean = 0.9 * mean + 0.1 * first
    # Looks ahead: the gradient counts once more. Without momentum a step is that of its gradient alone.
    other = convolution()
    with torch.no_grad():
        other.weight.copy_(before)
    other.weight.grad = 0.9 * mean + 0.1 * first
    Muon([other.weight], lr=1.0, momentum=0.0).step()
    torch.testing.assert_close(layer.weight, other.weight, rtol=0, atol=1e-4)


def test_a_step_does_not_depend_on_the_size_of_the_gradient() -> None:
    steps = []
    gradient = torch.randn(convolution().weight.shape)
    for size in (1e-4, 1.0, 100.0):
        layer = convolution()
        layer.weight.grad = size * gradient
        Muon([layer.weight], lr=0.1).step()
        steps.append(layer.weight.detach())
    torch.testing.assert_close(steps[0], steps[1], rtol=0, atol=1e-4)
    torch.testing.assert_close(steps[2], steps[1], rtol=0, atol=1e-4)


def test_only_the_inner_layers_of_the_generator_are_muon_s() -> None:
    network, other = SliceResDNet(features=8, depth=2), convolution()
    muon = OptimiserConfig(algorithm="muon")
    optimiser = Optimiser([network, other], 1e-3, muon, Processes(), torch.float32, inner_of=network)
    inner = {id(p) for group in optimiser.algorithms["muon"][0].param_groups for p in group["params"]}
    names = {name for name, p in network.named_parameters() if id(p) in inner}
    assert names == {f"blocks.{block}.conv{n}.weight" for block in range(2) for n in (1, 2)}
    # A square layer of another network is Adam's, and every weight has exactly one algorithm.
    rest = [id(p) for group in optimiser.algorithms["adam"][0].param_groups for p in group["params"]]
    assert len(rest) == len(set(rest))
    assert {*rest}.isdisjoint(inner)
    assert {*rest} | inner == {id(p) for p in (*network.parameters(), *other.parameters())}
    for plain in (
        Optimiser([network], 1e-3, OptimiserConfig(), Processes(), torch.float32, inner_of=network),
        Optimiser([network], 1e-3, muon, Processes(), torch.float32),
    ):
        assert list(plain.algorithms) == ["adam"]


def test_both_algorithms_follow_the_schedule_from_rates_of_their_own() -> None:
    network = SliceResDNet(features=8, depth=1)
    config = OptimiserConfig(algorithm="muon", muon_learning_rate=0.03)
    optimiser = Optimiser([network], 0.002, config, Processes(), torch.float32, inner_of=network)
    optimiser.minimise(sum(p.square().sum() for p in network.parameters()), 0.5)  # type: ignore[arg-type]
    rates = {name: algorithm.param_groups[0]["lr"] for name, (algorithm, _) in optimiser.algorithms.items()}
    assert rates == pytest.approx({"adam": 0.001, "muon": 0.015})


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_restored_optimiser_goes_on_bit_by_bit(dtype: torch.dtype, tmp_path: Path) -> None:
    """Through a file, into channels-last weights, as a checkpoint goes."""

    def fresh() -> tuple[SliceResDNet, Optimiser]:
        torch.manual_seed(0)
        network = SliceResDNet(features=8, depth=1)
        config = OptimiserConfig(algorithm="muon")
        return network, Optimiser([network], 1e-3, config, Processes(), dtype, inner_of=network)

    def step(network: SliceResDNet, optimiser: Optimiser, seed: int) -> None:
        x = torch.rand(1, 1, 8, 8, 12, generator=torch.Generator().manual_seed(seed))
        between, slices = network.estimate(x, [Sampling(3.0, 0.8)])
        assert slices is not None
        optimiser.minimise((between - x.mean()).square().mean() + (slices - 0.1).square().mean(), 1.0)

    network, optimiser = fresh()
    for seed in range(3):
        step(network, optimiser, seed)
    torch.save((network.state_dict(), optimiser.state_dict()), tmp_path / "state.pt")
    weights, state = torch.load(tmp_path / "state.pt", weights_only=True)
    other, again = fresh()
    other.load_state_dict(weights)
    again.load_state_dict(state)
    for seed in range(3, 6):
        step(network, optimiser, seed)
        step(other, again, seed)
    for name, value in network.state_dict().items():
        assert torch.equal(value, other.state_dict()[name]), name
    start = fresh()[0].state_dict()
    assert not torch.equal(start["blocks.0.conv1.weight"], other.state_dict()["blocks.0.conv1.weight"])
