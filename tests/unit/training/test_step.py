from __future__ import annotations

import gc
import runpy
import weakref
from collections.abc import Callable
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from srcyc.config import (
    DegradationNetConfig,
    DiscriminatorConfig,
    LossWeights,
    LowResolutionDiscriminatorConfig,
    PatchConfig,
    SRResDNetConfig,
    TrainingConfig,
)
from srcyc.data.patches import Batch
from srcyc.training.networks import Networks, build_networks
from srcyc.training.step import TrainingStep
from srcyc.training.trainer import to_device

CPU = torch.device("cpu")
#: Every term but the perceptual one, which needs a feature network's weights.
ALL_TERMS = {
    "adversarial": 1.0,
    "cycle": 10.0,
    "identity": 5.0,
    "content": 3.0,
    "tv": 0.1,
}
UNPAIRED_TERMS = {
    *("adversarial_hr", "adversarial_lr", "cycle_hr", "cycle_lr", "identity_hr", "identity_lr"),
    *("content", "total_variation", "d_hr", "d_lr"),
}
NAMES = ("g_hr", "g_lr", "d_hr", "d_lr")


@pytest.fixture(scope="module")
def textbook(repository: Path) -> dict[str, Any]:
    """The benchmark's textbook step and its helpers."""
    return runpy.run_path(str(repository / "tests" / "benchmarks" / "bench_training.py"))


def config(mode: str = "unpaired", weights: dict[str, float] | None = None, **changes: Any) -> TrainingConfig:
    values: dict[str, Any] = {
        "mode": mode,
        "precision": "fp32",
        "pool_size": 2,
        "data": PatchConfig(size=16, batch_size=2),
        "g_hr": SRResDNetConfig(features=4, depth=1),
        "g_lr": DegradationNetConfig(features=4, blocks=1, head_kernel=3),
        "d_hr": DiscriminatorConfig(features=4, layers=2),
        "d_lr": LowResolutionDiscriminatorConfig(features=4, layers=1),
        "optimiser": {"learning_rate": 1e-3, "discriminator_learning_rate": 1e-3},
        **changes,
    }
    if weights is not None:
        values["losses"] = LossWeights(
            **{f"lambda_{name}": weights.get(name, 0.0) for name in ALL_TERMS}, lambda_perceptual=0
        )
    return TrainingConfig.model_validate(values)


def made(settings: TrainingConfig, dtype: torch.dtype = torch.float32) -> tuple[Networks, TrainingStep]:
    networks = build_networks(settings, CPU)
    return networks, TrainingStep(networks, settings, dtype=dtype)


def weights_of(networks: Networks) -> dict[str, dict[str, Tensor]]:
    return {
        name: {key: value.clone() for key, value in network.state_dict().items()}
        for name, network in networks.named()
    }


def vector(network: nn.Module) -> Tensor:
    return torch.cat([p.detach().reshape(-1) for p in network.parameters()])


def changed(before: dict[str, dict[str, Tensor]], after: dict[str, dict[str, Tensor]]) -> set[str]:
    """Names of the networks of which anything differs."""
    return {
        name
        for name, state in before.items()
        if any(not torch.equal(value, after[name][key]) for key, value in state.items())
    }


# -- against the formulas ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "weights",
    [ALL_TERMS, {"adversarial": 0.05, "cycle": 10.0, "identity": 5.0}, {"adversarial": 1.0, "content": 1.0}],
    ids=["all terms", "default", "no cycle"],
)
def test_steps_equal_those_of_the_textbook(textbook: dict[str, Any], weights: dict[str, float]) -> None:
    """Several steps, so that the image pools have exchanged fakes and the modulation is no longer 0.

    Without instance normalisation: a bias in front of it has a gradient of rounding alone, in whose direction Adam goes
    as far as in any other.
    """
    settings = config(
        weights=weights,
        d_hr=DiscriminatorConfig(features=4, layers=2, norm="none"),
        d_lr=LowResolutionDiscriminatorConfig(features=4, layers=1, norm="none"),
    )
    batch = replace(textbook["smooth_batch"](settings), thickness_ratio=0.8)
    ours, theirs = build_networks(settings, CPU), build_networks(settings, CPU)
    step, expected = TrainingStep(ours, settings), textbook["TextbookStep"](theirs, settings)
    for number in range(4):
        found, wanted = step(to_device(batch, CPU), 0.5), expected(batch, 0.5)
        assert found.keys() == wanted.keys()
        for name, value in wanted.items():
            assert float(found[name]) == pytest.approx(float(value), rel=1e-5), f"step {number}: {name}"
        batch = replace(batch, real_hr=batch.real_hr.flip(2), upscaled=batch.upscaled.flip(3))
    start = build_networks(settings, CPU)
    for name in NAMES:
        before, found, wanted = (vector(getattr(networks, name)) for networks in (start, ours, theirs))
        moved = torch.linalg.vector_norm(wanted - before)
        assert moved > 1e-3, f"{name} has not learnt"
        assert torch.linalg.vector_norm(found - wanted) < 1e-3 * moved, name


# -- forward passes and terms --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("mode", "weights", "passes", "terms"),
    [
        ("unpaired", ALL_TERMS, {"g_hr": 3, "g_lr": 3, "d_hr": 3, "d_lr": 3}, UNPAIRED_TERMS),
        (
            "paired",
            {**ALL_TERMS, "identity": 0.0},
            {"g_hr": 1, "g_lr": 1, "d_hr": 3, "d_lr": 3},
            UNPAIRED_TERMS - {"identity_hr", "identity_lr", "cycle_hr"},
        ),
        (
            "paired",
            ALL_TERMS,
            {"g_hr": 2, "g_lr": 2, "d_hr": 3, "d_lr": 3},
            UNPAIRED_TERMS - {"cycle_hr"},
        ),
        ("generator-only", {"content": 1.0, "tv": 0.1}, {"g_hr": 1}, {"content", "total_variation"}),
        ("unpaired", {"cycle": 1.0}, {"g_hr": 2, "g_lr": 2}, {"cycle_hr", "cycle_lr"}),
        ("unpaired", {"identity": 1.0}, {"g_hr": 1, "g_lr": 1}, {"identity_hr", "identity_lr"}),
        ("unpaired", {"content": 1.0}, {"g_hr": 1, "g_lr": 1}, {"content"}),
        ("unpaired", {"tv": 1.0}, {"g_hr": 1}, {"total_variation"}),
        (
            "unpaired",
            {"adversarial": 1.0},
            {"g_hr": 1, "g_lr": 1, "d_hr": 3, "d_lr": 3},
            {"adversarial_hr", "adversarial_lr", "d_hr", "d_lr"},
        ),
        ("paired", {"content": 1.0}, {"g_hr": 1}, {"content"}),
        ("paired", {"cycle": 1.0}, {"g_hr": 1, "g_lr": 1}, {"cycle_lr"}),
    ],
)
def test_no_pass_is_run_twice_or_for_a_term_of_weight_0(
    textbook: dict[str, Any], mode: str, weights: dict[str, float], passes: dict[str, int], terms: set[str]
) -> None:
    settings = config(mode, weights)
    networks, step = made(settings)
    with textbook["counted_passes"](networks) as counts:
        found = step(textbook["smooth_batch"](settings, aligned=mode != "unpaired"), 1.0)
    assert dict(counts) == passes
    assert found.keys() == terms
    assert all(value.ndim == 0 and not value.requires_grad and value > 0 for value in found.values())


def test_the_relativistic_criterion_alone_looks_at_real_images_in_the_generators_step(
    textbook: dict[str, Any],
) -> None:
    for criterion, count in (("bce", 3), ("lsgan", 3), ("relativistic", 4)):
        settings = config(weights=ALL_TERMS, adversarial=criterion)
        networks, step = made(settings)
        before = weights_of(networks)
        with textbook["counted_passes"](networks) as counts:
            terms = step(textbook["smooth_batch"](settings), 1.0)
        assert (counts["d_hr"], counts["d_lr"]) == (count, count), criterion
        assert all(bool(value.isfinite()) for value in terms.values()), criterion
        assert changed(before, weights_of(networks)) == set(NAMES), criterion


# -- who learns from what ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["unpaired", "paired"])
def test_all_four_networks_learn(textbook: dict[str, Any], mode: str) -> None:
    settings = config(mode, ALL_TERMS)
    networks, step = made(settings)
    before = weights_of(networks)
    step(textbook["smooth_batch"](settings, aligned=mode == "paired"), 1.0)
    # The moving averages follow outside the step.
    assert changed(before, weights_of(networks)) == set(NAMES)
    for name in NAMES:
        gradients = {key: p.grad for key, p in getattr(networks, name).named_parameters()}
        assert [key for key, gradient in gradients.items() if gradient is None] == [], name


def test_without_adversary_the_discriminators_stay(textbook: dict[str, Any]) -> None:
    settings = config(weights={"cycle": 1.0})
    networks, step = made(settings)
    before = weights_of(networks)
    step(textbook["smooth_batch"](settings), 1.0)
    assert changed(before, weights_of(networks)) == {"g_hr", "g_lr"}


def test_the_generators_step_leaves_nothing_in_the_discriminators(
    textbook: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = config(weights=ALL_TERMS)
    networks, step = made(settings)
    assert networks.d_hr is not None and networks.d_lr is not None and step.discriminators is not None
    discriminators = [*networks.d_hr.parameters(), *networks.d_lr.parameters()]
    generators = step.generators.parameters
    seen: list[str] = []

    def after(minimise: Callable[..., None], check: Callable[[], None]) -> Callable[..., None]:
        def wrapped(loss: Tensor, scale: float) -> None:
            minimise(loss, scale)
            check()

        return wrapped

    def after_generators() -> None:
        seen.append("generators")
        assert not any(p.requires_grad for p in discriminators)
        assert all(p.grad is None for p in discriminators)
        for p in generators:
            assert p.grad is not None
            p.grad = None

    def after_discriminators() -> None:
        seen.append("discriminators")
        assert all(p.grad is not None for p in discriminators)
        assert all(p.grad is None for p in generators), "fakes are detached"

    monkeypatch.setattr(step.generators, "minimise", after(step.generators.minimise, after_generators))
    monkeypatch.setattr(
        step.discriminators, "minimise", after(step.discriminators.minimise, after_discriminators)
    )
    step(textbook["smooth_batch"](settings), 1.0)
    assert seen == ["generators", "discriminators"]


def test_a_scale_of_0_changes_no_weight(textbook: dict[str, Any]) -> None:
    settings = config(weights=ALL_TERMS)
    networks, step = made(settings)
    before = weights_of(networks)
    step(textbook["smooth_batch"](settings), 0.0)
    assert changed(before, weights_of(networks)) == set()


def test_the_paired_step_looks_at_the_truth(textbook: dict[str, Any]) -> None:
    """A G_HR that returns the truth has content 0; in the unpaired step content looks at the cycle instead."""
    settings = config("generator-only", {"content": 1.0})
    networks, step = made(settings)
    nn.init.zeros_(networks.g_hr.resdnet.tail.conv.bias)  # type: ignore[arg-type]
    networks.g_hr.resdnet.tail.scale_weight(1e-20)
    batch = textbook["smooth_batch"](settings, aligned=True)
    assert float(step(replace(batch, upscaled=batch.real_hr), 0.0)["content"]) < 1e-6
    blurred = float(step(batch, 0.0)["content"])
    assert blurred == pytest.approx(float((batch.upscaled - batch.real_hr).abs().mean()), rel=1e-4)


# -- precision -----------------------------------------------------------------------------------------------------


def test_bf16_finds_nearly_the_same_terms(textbook: dict[str, Any]) -> None:
    settings = config(weights=ALL_TERMS)
    batch = to_device(textbook["smooth_batch"](settings), CPU)
    exact = made(settings)[1](batch, 1.0)
    networks, step = made(settings, torch.bfloat16)
    rounded = step(batch, 1.0)
    for name, value in exact.items():
        assert rounded[name].dtype == torch.float32, name
        assert float(rounded[name]) == pytest.approx(float(value), rel=0.05), name
    assert any(float(rounded[name]) != float(value) for name, value in exact.items()), "bf16 was used"
    assert all(p.dtype == torch.float32 for name in NAMES for p in getattr(networks, name).parameters())


def test_fp16_scales_the_loss_and_skips_a_step_that_overflows(textbook: dict[str, Any]) -> None:
    settings = config("generator-only", {"content": 1.0})
    networks, step = made(settings, torch.float16)
    batch = textbook["smooth_batch"](settings, aligned=True)
    scaler = step.generators.scaler
    before = weights_of(networks)
    try:
        step(batch, 1.0)
    except RuntimeError as error:  # which operations exist in fp16 on a CPU depends on PyTorch's release
        if "not implemented for 'Half'" not in str(error):
            raise
        pytest.skip(f"this PyTorch has no fp16 on the CPU ({error})")
    assert scaler.is_enabled()
    while changed(before, weights_of(networks)) == set():
        # The first scale, 65536, may be too large by itself.
        assert scaler.get_scale() >= 1
        step(batch, 1.0)
    usual, before = scaler.get_scale(), weights_of(networks)
    overflow = networks.g_hr.resdnet.head.conv.bias.register_hook(  # type: ignore[union-attr]
        lambda gradient: torch.full_like(gradient, torch.inf)
    )
    step(batch, 1.0)
    assert changed(before, weights_of(networks)) == set()
    assert scaler.get_scale() == usual / 2
    overflow.remove()
    step(batch, 1.0)
    assert changed(before, weights_of(networks)) == {"g_hr"}
    assert not made(settings)[1].generators.scaler.is_enabled()


# -- memory and resuming -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["unpaired", "paired"])
def test_the_tensors_of_a_step_go_with_it(textbook: dict[str, Any], mode: str) -> None:
    """At once, not when the garbage collector finds a cycle: a GPU would hold two steps by then."""
    settings = config(mode, ALL_TERMS, pool_size=0)
    networks, step = made(settings)
    batch = textbook["smooth_batch"](settings, aligned=mode == "paired")
    outputs: list[weakref.ref[Tensor]] = []
    for name in NAMES:
        watched = networks.g_hr.resdnet if name == "g_hr" else getattr(networks, name)
        watched.register_forward_hook(lambda *args: outputs.append(weakref.ref(args[-1])))
    gc.collect()
    gc.disable()
    try:
        terms = step(batch, 1.0)
        kept = [weakref.ref(getattr(batch, field.name)) for field in fields(Batch) if field.type == "Tensor"]
        del batch
        assert len(outputs) >= 8 and len(kept) == 5
        assert [ref().shape for ref in (*outputs, *kept) if ref() is not None] == []  # type: ignore[union-attr]
    finally:
        gc.enable()
    assert terms


@pytest.mark.parametrize("mode", ["unpaired", "generator-only"])
def test_a_restored_step_goes_on_exactly(textbook: dict[str, Any], mode: str, tmp_path: Path) -> None:
    """Adam's moments and the pools' images and random numbers are all part of the state."""
    settings = config(mode, ALL_TERMS if mode == "unpaired" else {"content": 1.0})
    batch = textbook["smooth_batch"](settings, aligned=mode != "unpaired")
    networks, step = made(settings)
    for _ in range(3):
        step(batch, 1.0)
    file = tmp_path / "step.pt"
    torch.save({"step": step.state_dict(), "networks": weights_of(networks)}, file)
    saved = torch.load(file, weights_only=True)
    others, other = made(settings)
    for name, network in others.named():
        network.load_state_dict(saved["networks"][name])
    other.load_state_dict(saved["step"])
    for _ in range(3):
        first, second = step(batch, 0.5), other(batch, 0.5)
        assert all(torch.equal(value, second[name]) for name, value in first.items())
    assert changed(weights_of(networks), weights_of(others)) == set()


def test_the_fp16_scale_is_part_of_the_state() -> None:
    settings = config("generator-only", {"content": 1.0})
    step, other = made(settings, torch.float16)[1], made(settings, torch.float16)[1]
    step.generators.scaler.scale(torch.zeros(()))
    step.generators.scaler.update(1024.0)
    other.load_state_dict(step.state_dict())
    assert other.generators.scaler.get_scale() == 1024.0
