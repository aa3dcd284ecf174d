from __future__ import annotations

import gc
import math
import weakref
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from factories import tiny_settings
from srcyc.config import LossWeights, TrainingConfig
from srcyc.data.image_pool import ImagePool
from srcyc.data.patches import Batch
from srcyc.enhancement import enhance
from srcyc.networks import (
    DegradationNetConfig,
    DiscriminatorConfig,
    LowResolutionDiscriminatorConfig,
)
from srcyc.networks.degradation import Skip
from srcyc.physics.acquisition import AxisAcquisition
from srcyc.physics.resampling import apply_along, resample
from srcyc.training.step import Networks, TrainingStep, build_networks
from srcyc.training.step.terms import TERMS, Term

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
    *("content", "tv", "d_hr", "d_lr"),
}
NAMES = ("g_hr", "g_lr", "d_hr", "d_lr")


def config(mode: str = "unpaired", weights: dict[str, float] | None = None, **changes: Any) -> TrainingConfig:
    rates = {"learning_rate": 1e-3, "discriminator_learning_rate": 1e-3}
    values = {**tiny_settings(mode=mode, pool_size=2, data__batch_size=2, optimiser=rates), **changes}
    if weights is not None:
        values["losses"] = LossWeights(
            **{f"lambda_{name}": weights.get(name, 0.0) for name in ALL_TERMS},
            lambda_adversarial_lr=weights.get("adversarial_lr"),
            lambda_spectrum=weights.get("spectrum", 0.0),
            lambda_perceptual=0,
        )
    return TrainingConfig.model_validate(values)


def made(settings: TrainingConfig, dtype: torch.dtype = torch.float32) -> tuple[Networks, TrainingStep]:
    networks = build_networks(settings, CPU)
    # An untrained G_HR says nothing; this one says something in every layer.
    random = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in networks.g_hr.parameters():
            parameter.add_(0.15 * torch.randn(parameter.shape, generator=random))
    return networks, TrainingStep(networks, settings, dtype=dtype)


def smooth_batch(
    settings: TrainingConfig,
    *,
    aligned: bool = False,
    shapes: tuple[tuple[int, float], ...] = ((15, 0.8), (15, 0.8)),
) -> Batch:
    """Smooth random objects with a little noise; slices of these, or of others if not aligned.

    Args:
        settings: give the patches' edge.
        aligned: see :class:`Batch`.
        shapes: planes and thickness ratio of each item.
    """
    random, edge, slices = torch.Generator().manual_seed(0), settings.data.size, 5

    def object_(planes: int) -> Tensor:
        coarse = torch.rand(1, 1, 6, 6, 6, generator=random)
        smooth = resample(coarse, (edge, edge, planes), "cubic")
        return smooth + 0.01 * torch.randn(smooth.shape, generator=random)

    axes = tuple(AxisAcquisition.of(planes, slices, ratio) for planes, ratio in shapes)
    real_hr = tuple(object_(axis.fine) for axis in axes)
    seen = real_hr if aligned else tuple(object_(axis.fine) for axis in axes)
    real_lr = torch.cat([apply_along(image, axis.matrix, -1) for image, axis in zip(seen, axes, strict=True)])
    noise = torch.randn(real_lr.shape, generator=random)
    return Batch(real_lr, real_hr, axes, aligned, noise)


@contextmanager
def counted_passes(networks: Networks) -> Iterator[Counter[str]]:
    """Count the images that go through every network."""
    counts: Counter[str] = Counter()
    # G_HR is entered by estimate(), not by forward(): its last layer runs once for every pass.
    watched = {**dict(networks.named()), "g_hr": networks.g_hr.tail}
    hooks = [
        network.register_forward_hook(lambda *args, name=name: counts.update({name: len(args[-1])}))
        for name, network in watched.items()
        if not name.startswith("ema")
    ]
    try:
        yield counts
    finally:
        for hook in hooks:
            hook.remove()


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


class Textbook:
    """One step as its formulas are printed; each term makes its own passes, with PyTorch's own Adam.

    unpaired (Zhu et al. 2017), x = real_lr, y = real_hr, G = G_HR, F = G_LR:
        min over G, F, max over D of  GAN(G, D_Y) + GAN(F, D_X) + l_cyc (|F(G(x)) - x| + |G(F(y)) - y|)
            + l_id (|G(y) - y| + |F(x) - x|) + l_content |G(F(y)) - y|^2 / |M F(y) - y|^2 + l_tv TV(G(x))
        where the content is minimised over G alone
    paired (Umer, Micheloni 2020), y the truth of x: D_X judges F(G(x)), content is that of G(x), no |G(F(y)) - y|.
    """

    def __init__(self, networks: Networks, settings: TrainingConfig) -> None:
        g_hr, g_lr, d_hr, d_lr = networks.g_hr, networks.g_lr, networks.d_hr, networks.d_lr
        assert g_lr is not None and d_hr is not None and d_lr is not None
        self.g_hr, self.g_lr, self.d_hr, self.d_lr = g_hr, g_lr, d_hr, d_lr
        self.settings = settings
        self.pools = [ImagePool(settings.pool_size, seed=settings.seed + n) for n in (0, 1)]
        rates = settings.optimiser
        self.players = [
            ([*one.parameters(), *other.parameters()], rate)
            for one, other, rate in (
                (g_hr, g_lr, rates.learning_rate),
                (d_hr, d_lr, rates.discriminator_learning_rate),
            )
        ]
        self.optimisers = [torch.optim.Adam(p, rate, rates.betas) for p, rate in self.players]

    def __call__(self, b: Batch, scale: float) -> dict[str, Tensor]:
        w, ratio = self.settings.losses, 1e-4
        inner = [
            image[..., math.ceil(a.factor) : a.fine - math.ceil(a.factor)] for image, a in self._pairs(b)
        ]

        def content() -> Tensor:
            slices = b.real_lr if b.aligned else self._f(b.real_hr, b).detach()
            errors = [
                F.mse_loss(x, y)
                / (F.mse_loss(self._inner(apply_along(s, a.upscaling, -1), a), y).detach() + ratio)
                for x, y, s, a in zip(self._g(slices, b), inner, slices.split(1), b.axes, strict=True)
            ]
            return sum(errors) / len(errors)  # type: ignore[return-value]

        def variation(x: Tensor) -> Tensor:
            return sum(x.diff(dim=axis).abs().sum() for axis in (2, 3, 4)) / x.numel()  # type: ignore[return-value]

        def same(y: Tensor) -> tuple[Tensor, Tensor]:
            planes = b.real_lr.shape[-1]
            start = (y.shape[-1] - planes) // 2
            thin = y[..., start : start + planes]
            return enhance(self.g_hr, thin, [AxisAcquisition.of(planes, planes)])[0].image, thin

        fakes = {
            "d_hr": lambda: torch.cat(self._g(b.real_lr, b)),
            "d_lr": lambda: self._f(self._whole(b.real_lr, b) if b.aligned else b.real_hr, b),
        }
        objective: dict[str, tuple[float, Callable[[], Tensor]]] = {
            "content": (w.lambda_content, content),
            "tv": (w.lambda_tv, lambda: _mean([variation(x) for x in self._g(b.real_lr, b)])),
            "adversarial_hr": (w.lambda_adversarial, lambda: _bce(self.d_hr(fakes["d_hr"]()), 1)),
            "adversarial_lr": (w.lambda_adversarial, lambda: _bce(self.d_lr(fakes["d_lr"]()), 1)),
            "cycle_lr": (
                w.lambda_cycle,
                lambda: F.l1_loss(self._f(self._whole(b.real_lr, b), b), b.real_lr),
            ),
            "identity_hr": (w.lambda_identity, lambda: _mean([F.l1_loss(*same(y)) for y in b.real_hr])),
            "identity_lr": (
                w.lambda_identity,
                lambda: F.l1_loss(
                    self.g_lr(b.real_lr, size=b.real_lr.shape[2:], thickness_ratio=1.0), b.real_lr
                ),
            ),
        }
        if not b.aligned:
            objective["cycle_hr"] = (
                w.lambda_cycle,
                lambda: _mean(
                    [F.l1_loss(*pair) for pair in zip(self._g(self._f(b.real_hr, b), b), inner, strict=True)]
                ),
            )
        terms = {name: term() for name, (weight, term) in objective.items() if weight > 0}
        torch.autograd.backward(sum(objective[name][0] * term for name, term in terms.items()))  # type: ignore[arg-type]
        # Both players see the networks as they were; the generators' loss has left gradients in the judges, too.
        self.optimisers[1].zero_grad()
        with torch.no_grad():
            shown = [pool.query(fake()) for pool, fake in zip(self.pools, fakes.values(), strict=True)]
        judged = {
            name: 0.5 * (_bce(judge(real), 1) + _bce(judge(fake), 0))
            for name, judge, real, fake in (
                ("d_hr", self.d_hr, torch.cat(inner), shown[0]),
                ("d_lr", self.d_lr, b.real_lr, shown[1]),
            )
        }
        sum(judged.values()).backward()  # type: ignore[union-attr]
        for optimiser, (parameters, rate) in zip(self.optimisers, self.players, strict=True):
            nn.utils.clip_grad_norm_(parameters, self.settings.optimiser.gradient_clip)
            optimiser.param_groups[0]["lr"] = scale * rate
            optimiser.step()
            optimiser.zero_grad()
        return {name: term.detach() for name, term in {**terms, **judged}.items()}

    @staticmethod
    def _pairs(b: Batch) -> list[tuple[Tensor, AxisAcquisition]]:
        return list(zip(b.real_hr, b.axes, strict=True))

    @staticmethod
    def _inner(x: Tensor, axis: AxisAcquisition) -> Tensor:
        return x[..., math.ceil(axis.factor) : axis.fine - math.ceil(axis.factor)]

    def _whole(self, slices: Tensor, b: Batch) -> list[Tensor]:
        return [
            enhance(self.g_hr, one, [axis])[0].image
            for one, axis in zip(slices.split(1), b.axes, strict=True)
        ]

    def _g(self, slices: Tensor, b: Batch) -> list[Tensor]:
        return [self._inner(x, axis) for x, axis in zip(self._whole(slices, b), b.axes, strict=True)]

    def _f(self, images: Any, b: Batch) -> Tensor:
        size = b.real_lr.shape[2:]
        return torch.cat(
            [
                self.g_lr(y, size=size, thickness_ratio=axis.thickness_ratio)
                for y, axis in zip(images, b.axes, strict=True)
            ]
        )


def _bce(logits: Tensor, real: int) -> Tensor:
    return F.binary_cross_entropy_with_logits(logits, torch.full_like(logits, real))


def _mean(values: list[Tensor]) -> Tensor:
    return torch.stack(values).mean()


@pytest.mark.parametrize("mode", ["unpaired", "paired"])
@pytest.mark.parametrize(
    "weights",
    [ALL_TERMS, {"adversarial": 0.05, "cycle": 10.0, "identity": 5.0}],
    ids=["all terms", "default"],
)
def test_steps_equal_those_of_the_textbook(mode: str, weights: dict[str, float]) -> None:
    """Several steps, so that the image pools have exchanged fakes.

    Without instance normalisation: a bias in front of it has a gradient of rounding alone, in whose direction Adam goes
    as far as in any other.
    """
    settings = config(
        mode,
        weights,
        d_hr=DiscriminatorConfig(features=4, layers=2, norm="none"),
        d_lr=LowResolutionDiscriminatorConfig(features=4, layers=1, norm="none"),
    )
    batch = smooth_batch(settings, aligned=mode == "paired")
    ours, step = made(settings)
    theirs, _ = made(settings)
    book = Textbook(theirs, settings)
    for number in range(4):
        found, wanted = step(batch, 0.5 + number), book(batch, 0.5 + number)
        assert found.keys() == wanted.keys()
        for name, value in wanted.items():
            assert float(found[name]) == pytest.approx(float(value), rel=1e-3), f"step {number}: {name}"
        batch = replace(batch, real_lr=batch.real_lr.flip(2), real_hr=tuple(x.flip(2) for x in batch.real_hr))
    start, _ = made(settings)
    for name in NAMES:
        before, found_, wanted_ = (vector(getattr(networks, name)) for networks in (start, ours, theirs))
        moved = torch.linalg.vector_norm(wanted_ - before)
        assert moved > 1e-3, f"{name} has not learnt"
        assert torch.linalg.vector_norm(found_ - wanted_) < 2e-2 * moved, name


def test_patches_of_different_factors_are_averaged() -> None:
    """The content of a step is the mean of its items', each over its own planes and against its own baseline."""
    settings = config("generator-only", {"content": 1.0})
    networks, step = made(settings)
    batch = smooth_batch(settings, aligned=True, shapes=((15, 0.8), (23, 1.0), (10, 0.6)))
    found = float(step(batch, 0.0)["content"])
    alone = []
    for item, (image, axis) in enumerate(Textbook._pairs(batch)):
        slices = batch.real_lr[item : item + 1]
        with torch.no_grad():
            x = Textbook._inner(enhance(networks.g_hr, slices, [axis])[0].image, axis)
        y = Textbook._inner(image, axis)
        baseline = Textbook._inner(apply_along(slices, axis.upscaling, -1), axis)
        alone.append(float(F.mse_loss(x, y) / (F.mse_loss(baseline, y) + 1e-4)))
    assert found == pytest.approx(sum(alone) / 3, rel=1e-4)
    assert max(alone) > 1.05 * min(alone)


def test_the_papers_content_is_l1() -> None:
    settings = config("paired", {"content": 1.0}, content="l1")
    networks, step = made(settings)
    batch = smooth_batch(settings, aligned=True)
    with torch.no_grad():
        expected = [
            F.l1_loss(Textbook._inner(one.image, axis), Textbook._inner(image, axis))
            for one, (image, axis) in zip(
                enhance(networks.g_hr, batch.real_lr, batch.axes), Textbook._pairs(batch), strict=True
            )
        ]
    assert float(step(batch, 0.0)["content"]) == pytest.approx(float(_mean(expected)), rel=1e-5)


# -- forward passes and terms --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("mode", "weights", "passes", "terms"),
    [
        # Content must not teach G_LR, the cycle does: two passes.
        ("unpaired", ALL_TERMS, {"g_hr": 4, "g_lr": 3, "d_hr": 3, "d_lr": 3}, UNPAIRED_TERMS),
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
        ("generator-only", {"content": 1.0, "tv": 0.1}, {"g_hr": 1}, {"content", "tv"}),
        ("unpaired", {"cycle": 1.0}, {"g_hr": 2, "g_lr": 2}, {"cycle_hr", "cycle_lr"}),
        ("unpaired", {"identity": 1.0}, {"g_hr": 1, "g_lr": 1}, {"identity_hr", "identity_lr"}),
        ("unpaired", {"content": 1.0}, {"g_hr": 1, "g_lr": 1}, {"content"}),
        ("unpaired", {"tv": 1.0}, {"g_hr": 1}, {"tv"}),
        (
            "unpaired",
            {"adversarial": 1.0},
            {"g_hr": 1, "g_lr": 1, "d_hr": 3, "d_lr": 3},
            {"adversarial_hr", "adversarial_lr", "d_hr", "d_lr"},
        ),
        (
            "unpaired",
            {"adversarial_lr": 1.0, "content": 1.0},
            {"g_hr": 1, "g_lr": 1, "d_lr": 3},
            {"adversarial_lr", "content", "d_lr"},
        ),
        ("paired", {"content": 1.0}, {"g_hr": 1}, {"content"}),
        ("paired", {"cycle": 1.0}, {"g_hr": 1, "g_lr": 1}, {"cycle_lr"}),
    ],
)
def test_no_pass_is_run_twice_or_for_a_term_of_weight_0(
    mode: str, weights: dict[str, float], passes: dict[str, int], terms: set[str]
) -> None:
    settings = config(mode, weights)
    networks, step = made(settings)
    with counted_passes(networks) as counts:
        found = step(smooth_batch(settings, aligned=mode != "unpaired"), 1.0)
    assert dict(counts) == {name: 2 * count for name, count in passes.items()}
    assert found.keys() == terms
    assert all(value.ndim == 0 and not value.requires_grad and value > 0 for value in found.values())


def test_the_relativistic_criterion_alone_looks_at_real_images_in_the_generators_step() -> None:
    for criterion, count in (("bce", 3), ("lsgan", 3), ("relativistic", 4)):
        settings = config(weights=ALL_TERMS, adversarial=criterion)
        networks, step = made(settings)
        before = weights_of(networks)
        with counted_passes(networks) as counts:
            terms = step(smooth_batch(settings), 1.0)
        assert (counts["d_hr"], counts["d_lr"]) == (2 * count, 2 * count), criterion
        assert all(bool(value.isfinite()) for value in terms.values()), criterion
        assert changed(before, weights_of(networks)) == set(NAMES), criterion


# -- who learns from what ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["unpaired", "paired"])
def test_all_four_networks_learn(mode: str) -> None:
    settings = config(mode, ALL_TERMS)
    networks, step = made(settings)
    before = weights_of(networks)
    step(smooth_batch(settings, aligned=mode == "paired"), 1.0)
    # The moving averages follow outside the step.
    assert changed(before, weights_of(networks)) == set(NAMES)
    for name in NAMES:
        gradients = {key: p.grad for key, p in getattr(networks, name).named_parameters()}
        assert [key for key, gradient in gradients.items() if gradient is None] == [], name


def test_without_its_term_a_discriminator_stays() -> None:
    settings = config(weights={"adversarial_lr": 1.0, "content": 1.0})
    networks, step = made(settings)
    before = weights_of(networks)
    step(smooth_batch(settings), 1.0)
    assert changed(before, weights_of(networks)) == {"g_hr", "g_lr", "d_lr"}


def test_content_teaches_g_hr_alone() -> None:
    settings = config(weights={"content": 1.0})
    networks, step = made(settings)
    before = weights_of(networks)
    step(smooth_batch(settings), 1.0)
    assert changed(before, weights_of(networks)) == {"g_hr"}
    assert networks.g_lr is not None
    assert all(p.grad is None for p in networks.g_lr.parameters())


def test_spectra_teach_g_lr_alone() -> None:
    settings = learned({"spectrum": 1.0})
    networks, step = made(settings)
    before = weights_of(networks)
    assert step(smooth_batch(settings), 1.0).keys() == {"spectrum_lr"}
    assert changed(before, weights_of(networks)) == {"g_lr"}


def test_the_degradation_can_learn_alone() -> None:
    settings = config(weights={"adversarial_lr": 1.0, "content": 1.0, "tv": 1.0})
    networks, step = made(settings)
    before = weights_of(networks)
    with counted_passes(networks) as counts:
        terms = step(smooth_batch(settings), 1.0, degradation_alone=True)
    assert terms.keys() == {"adversarial_lr", "d_lr"}
    assert "g_hr" not in counts
    assert changed(before, weights_of(networks)) == {"g_lr", "d_lr"}


def learned(weights: dict[str, float], mode: str = "unpaired", **changes: Any) -> TrainingConfig:
    g_lr = DegradationNetConfig(features=4, blocks=1, head_kernel=3, skip="learned")
    return config(mode, weights, g_lr=g_lr, **changes)


def test_a_learned_degradation_is_noisy_where_d_lr_looks_and_not_where_scans_are_compared() -> None:
    settings = learned({"adversarial_lr": 1.0, "cycle": 1.0})
    batch = smooth_batch(settings)
    other = replace(batch, noise=-batch.noise)
    first, second = (made(settings)[1](each, 0.0) for each in (batch, other))
    assert float(first["adversarial_lr"]) != float(second["adversarial_lr"])
    assert float(first["cycle_lr"]) == float(second["cycle_lr"])


def test_a_learned_degradation_of_pairs_has_a_noisy_pass_for_d_lr() -> None:
    settings = learned({"adversarial_lr": 1.0, "cycle": 1.0}, "paired")
    networks, step = made(settings)
    with counted_passes(networks) as counts:
        step(smooth_batch(settings, aligned=True), 1.0)
    assert counts["g_lr"] == 2 * 2


@pytest.mark.parametrize("teacher", ["adversarial_lr", "spectrum"])
def test_what_nobody_tells_is_taught(teacher: str) -> None:
    """The width of the profile, the blur and the strength of the noise all get a gradient, and move."""
    settings = learned({teacher: 1.0})
    networks, step = made(settings)
    assert networks.g_lr is not None and networks.g_lr.learned is not None
    before = networks.g_lr.learned.as_row()
    step(smooth_batch(settings), 1.0)
    after = networks.g_lr.learned.as_row()
    # Adam's first step is the learning rate, which is to move a value visibly.
    for name, value in before.items():
        assert abs(after[name] / value - 1) == pytest.approx(0.1, abs=0.01), name


def test_without_adversary_the_discriminators_stay() -> None:
    settings = config(weights={"cycle": 1.0})
    networks, step = made(settings)
    before = weights_of(networks)
    step(smooth_batch(settings), 1.0)
    assert changed(before, weights_of(networks)) == {"g_hr", "g_lr"}


def test_the_generators_step_leaves_nothing_in_the_discriminators(monkeypatch: pytest.MonkeyPatch) -> None:
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
    step(smooth_batch(settings), 1.0)
    assert seen == ["generators", "discriminators"]


def test_a_scale_of_0_changes_no_weight() -> None:
    settings = config(weights=ALL_TERMS)
    networks, step = made(settings)
    before = weights_of(networks)
    step(smooth_batch(settings), 0.0)
    assert changed(before, weights_of(networks)) == set()


def test_where_there_is_a_truth_content_looks_at_it() -> None:
    """An untrained G_HR gives the classical inverse: its relative error is 1, less what the constant allows."""
    settings = config("generator-only", {"content": 1.0})
    networks = build_networks(settings, CPU)
    batch = smooth_batch(settings, aligned=True)
    error = float(TrainingStep(networks, settings)(batch, 0.0)["content"])
    assert 0.5 < error < 1
    # Slices of something else: the estimate is as far from that truth as the baseline is.
    other = smooth_batch(settings, aligned=False)
    assert float(
        TrainingStep(networks, settings)(replace(other, aligned=True), 0.0)["content"]
    ) == pytest.approx(1.0, abs=0.01)


def test_the_slices_at_the_ends_do_not_count() -> None:
    settings = config("generator-only", {"content": 1.0})
    _, step = made(settings)
    batch = smooth_batch(settings, aligned=True)
    spoiled = tuple(image.clone() for image in batch.real_hr)
    for image in spoiled:
        image[..., :3] += 5
        image[..., -3:] += 5
    changed_ends = replace(batch, real_hr=spoiled)
    assert float(step(changed_ends, 0.0)["content"]) == float(step(batch, 0.0)["content"])
    spoiled[0][..., 3] += 5
    assert float(step(changed_ends, 0.0)["content"]) != float(step(batch, 0.0)["content"])


# -- precision -----------------------------------------------------------------------------------------------------


def test_bf16_finds_nearly_the_same_terms() -> None:
    settings = config(weights=ALL_TERMS)
    batch = smooth_batch(settings).to(CPU)
    exact = made(settings)[1](batch, 1.0)
    networks, step = made(settings, torch.bfloat16)
    rounded = step(batch, 1.0)
    for name, value in exact.items():
        assert rounded[name].dtype == torch.float32, name
        assert float(rounded[name]) == pytest.approx(float(value), rel=0.05), name
    assert any(float(rounded[name]) != float(value) for name, value in exact.items()), "bf16 was used"
    assert all(p.dtype == torch.float32 for name in NAMES for p in getattr(networks, name).parameters())


def test_fp16_scales_the_loss_and_skips_a_step_that_overflows() -> None:
    settings = config("generator-only", {"content": 1.0})
    networks, step = made(settings, torch.float16)
    batch = smooth_batch(settings, aligned=True)
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
    overflow = networks.g_hr.head.bias.register_hook(  # type: ignore[union-attr]
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
def test_the_tensors_of_a_step_go_with_it(mode: str) -> None:
    """At once, not when the garbage collector finds a cycle: a GPU would hold two steps by then."""
    settings = config(mode, ALL_TERMS, pool_size=0)
    networks, step = made(settings)
    batch = smooth_batch(settings, aligned=mode == "paired")
    outputs: list[weakref.ref[Tensor]] = []
    for name in NAMES:
        watched = networks.g_hr.tail if name == "g_hr" else getattr(networks, name)
        watched.register_forward_hook(lambda *args: outputs.append(weakref.ref(args[-1])))
    gc.collect()
    gc.disable()
    try:
        terms = step(batch, 1.0)
        kept = [weakref.ref(image) for image in (batch.real_lr, *batch.real_hr)]
        del batch
        assert len(outputs) >= 8 and len(kept) == 3
        assert [ref().shape for ref in (*outputs, *kept) if ref() is not None] == []  # type: ignore[union-attr]
    finally:
        gc.enable()
    assert terms


@pytest.mark.parametrize("skip", ["profile", "learned"])
@pytest.mark.parametrize("algorithm", ["adam", "muon"])
@pytest.mark.parametrize("mode", ["unpaired", "generator-only"])
def test_a_restored_step_goes_on_exactly(mode: str, algorithm: str, skip: Skip, tmp_path: Path) -> None:
    """Adam's moments, Muon's momentum, and the pools' images and random numbers are all part of the state."""
    settings = config(
        mode,
        ALL_TERMS if mode == "unpaired" else {"content": 1.0},
        optimiser={"algorithm": algorithm},
        g_lr=DegradationNetConfig(features=4, blocks=1, head_kernel=3, skip=skip),
    )
    batch = smooth_batch(settings, aligned=mode != "unpaired")
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


# -- the table of terms --------------------------------------------------------------------------------------


class MoreWeights(LossWeights):
    """With the weight of a term that is not there yet."""

    lambda_mean: float = 0.0


def test_each_term_has_a_weight_and_each_weight_a_term() -> None:
    weights = LossWeights()
    used = {name.removesuffix("_hr").removesuffix("_lr") for name in TERMS if weights.of(name) >= 0}
    named = {name.removeprefix("lambda_").removesuffix("_lr") for name in LossWeights.model_fields}
    assert used == named


@pytest.mark.parametrize("weight", [0.0, 2.0])
def test_a_loss_is_added_by_its_weight_and_one_row(monkeypatch: pytest.MonkeyPatch, weight: float) -> None:
    row = Term(lambda settings: lambda passes: torch.cat(passes.fake_hr).mean(), cyclic=False)
    monkeypatch.setitem(TERMS, "mean", row)
    settings = config("generator-only", {"content": 1.0})
    weights = MoreWeights(**settings.losses.model_dump(), lambda_mean=weight)
    _, step = made(settings.model_copy(update={"losses": weights}))
    terms = [step(smooth_batch(settings, aligned=True), 1.0) for _ in range(4)]
    assert all(("mean" in some) == (weight > 0) for some in terms)
    if weight:
        assert terms[-1]["mean"] < terms[0]["mean"], "the generator learns from it"
