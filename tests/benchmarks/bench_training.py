"""How fast a training step is, beside a CycleGAN step written from its formulas with the same networks.

The textbook step (Zhu et al. 2017, arXiv:1703.10593) runs in fp32, lets every loss term make its own forward passes,
and has PyTorch's own convolution and PReLU in their default memory format; in a second row it has this project's
layers, which compute the same faster. Ours runs as `srcyc train` does on this machine (bf16 where the CPU has it), and
once more in fp32, so that what the layers, sharing the passes, and the type gain are seen apart. All start from the
same weights, take steps on the same batch and must find the same losses. The paths take turns, step by step, so that a
machine that is busy for a while slows all of them. Speed is steps per second, the median.

    python tests/benchmarks/bench_training.py [--threads 2] [--rounds 7] [--json FILE] [--set losses.lambda_tv=1 ...]
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
import yaml
from torch import Tensor, nn

from srcyc.acquisition import Acquisition
from srcyc.config import TrainingConfig
from srcyc.data.image_pool import ImagePool
from srcyc.data.patches import Batch
from srcyc.device import precision_name, resolve_precision
from srcyc.networks import layers
from srcyc.resampling import resample
from srcyc.training.networks import Networks, build_networks
from srcyc.training.step import TrainingStep
from srcyc.training.trainer import to_device

CPU = torch.device("cpu")
#: Voxels of the HR patch along the slice axis per slice of the LR patch.
FACTOR = 4
#: What the project aims at: the product's step over the textbook's.
AIM = 2.5
PATHS = {
    "textbook": "textbook, fp32, PyTorch's layers",
    "layers": "textbook, fp32, srcyc's layers",
    "fp32": "srcyc, fp32: passes shared",
    "srcyc": "srcyc, {}: as srcyc train runs",
}
#: How far the losses, and what the generators' weights have changed after one step, may be from the textbook's,
#: relative. Adam's first step has the size of the learning rate in every weight, however small its gradient, so
#: rounding alone turns some.
TOLERANCES = {"layers": (1e-5, 1e-3), "fp32": (1e-5, 1e-3), "srcyc": (0.05, 0.5)}

Terms = dict[str, Tensor]


class TextbookStep:
    """One step of unpaired training as its formulas are printed.

    min over G, F, max over D of  GAN(G, D_Y) + GAN(F, D_X) + λ_cyc (|F(G(x)) - x| + |G(F(y)) - y|)
        + λ_id (|G(y) - y| + |F(x) - x|) + λ_content |G(F(y)) - y| + λ_tv TV(G(x))

    with x = real_lr, y = real_hr, G = G_HR, F = G_LR. Each term is a function of the images that calls the networks it
    names. Both players see the networks as they were before the step.
    """

    def __init__(self, networks: Networks, config: TrainingConfig) -> None:
        if networks.g_lr is None or networks.d_hr is None or networks.d_lr is None:
            raise ValueError("the CycleGAN step needs four networks")
        self.g_hr, self.g_lr = networks.g_hr, networks.g_lr
        self.d_hr, self.d_lr = networks.d_hr, networks.d_lr
        self.config = config
        self.pool_hr = ImagePool(config.pool_size, seed=config.seed)
        self.pool_lr = ImagePool(config.pool_size, seed=config.seed + 1)
        settings = config.optimiser
        self.generators = [*self.g_hr.parameters(), *self.g_lr.parameters()]
        self.discriminators = [*self.d_hr.parameters(), *self.d_lr.parameters()]
        self.optimiser_g = torch.optim.Adam(self.generators, settings.learning_rate, settings.betas)
        self.optimiser_d = torch.optim.Adam(
            self.discriminators, settings.discriminator_learning_rate, settings.betas
        )

    def __call__(self, batch: Batch, scale: float = 1.0) -> Terms:
        objective = {name: (w, term(batch)) for name, (w, term) in self._objective().items() if w > 0}
        self.optimiser_g.zero_grad()
        torch.stack([weight * term for weight, term in objective.values()]).sum().backward()
        # The generators' loss has left gradients in the discriminators, too.
        self.optimiser_d.zero_grad()
        judged_hr, judged_lr = self.discriminate_hr(batch), self.discriminate_lr(batch)
        (judged_hr + judged_lr).backward()
        for optimiser, parameters, rate in (
            (self.optimiser_g, self.generators, self.config.optimiser.learning_rate),
            (self.optimiser_d, self.discriminators, self.config.optimiser.discriminator_learning_rate),
        ):
            nn.utils.clip_grad_norm_(parameters, self.config.optimiser.gradient_clip)
            optimiser.param_groups[0]["lr"] = scale * rate
            optimiser.step()
        terms = {name: term for name, (_, term) in objective.items()}
        return {name: t.detach() for name, t in (terms | {"d_hr": judged_hr, "d_lr": judged_lr}).items()}

    def _objective(self) -> dict[str, tuple[float, Callable[[Batch], Tensor]]]:
        weights = self.config.losses
        return {
            "adversarial_hr": (
                weights.lambda_adversarial,
                lambda b: fooled(self.d_hr(self.super_resolve(b))),
            ),
            "adversarial_lr": (weights.lambda_adversarial, lambda b: fooled(self.d_lr(self.degrade(b)))),
            "cycle_lr": (
                weights.lambda_cycle,
                lambda b: F.l1_loss(self._to_lr(self.super_resolve(b), b), b.real_lr),
            ),
            "cycle_hr": (weights.lambda_cycle, self._hr_cycle),
            "identity_hr": (
                weights.lambda_identity,
                lambda b: F.l1_loss(self.g_hr.refine(b.real_hr, sigma=b.sigma_hr), b.real_hr),
            ),
            "identity_lr": (
                weights.lambda_identity,
                lambda b: F.l1_loss(self.g_lr(b.real_lr, size=b.real_lr.shape[2:]), b.real_lr),
            ),
            "content": (weights.lambda_content, self._hr_cycle),
            "total_variation": (
                weights.lambda_tv,
                lambda b: sum(
                    self.super_resolve(b).diff(dim=axis).abs().sum() / b.real_hr.numel() for axis in (2, 3, 4)
                ),
            ),
        }

    def super_resolve(self, batch: Batch) -> Tensor:
        """G(x)."""
        return self.g_hr.refine(
            batch.upscaled,
            factor=batch.factor,
            thickness_ratio=batch.thickness_ratio,
            sigma=batch.sigma_lr,
        )

    def degrade(self, batch: Batch) -> Tensor:
        """F(y)."""
        return self._to_lr(batch.real_hr, batch)

    def _to_lr(self, hr: Tensor, batch: Batch) -> Tensor:
        return self.g_lr(hr, size=batch.real_lr.shape[2:], thickness_ratio=batch.thickness_ratio)

    def _hr_cycle(self, batch: Batch) -> Tensor:
        """|G(F(y)) - y|."""
        cycled = self.g_hr(
            self.degrade(batch),
            size=batch.real_hr.shape[2:],
            thickness_ratio=batch.thickness_ratio,
            sigma=batch.sigma_hr,
        )
        return F.l1_loss(cycled, batch.real_hr)

    def discriminate_hr(self, batch: Batch) -> Tensor:
        with torch.no_grad():
            fake = self.super_resolve(batch)
        return told_apart(self.d_hr(batch.real_hr), self.d_hr(self.pool_hr.query(fake)))

    def discriminate_lr(self, batch: Batch) -> Tensor:
        with torch.no_grad():
            fake = self.degrade(batch)
        return told_apart(self.d_lr(batch.real_lr), self.d_lr(self.pool_lr.query(fake)))


def fooled(fake: Tensor) -> Tensor:
    """- E log D(fake), of logits."""
    return F.binary_cross_entropy_with_logits(fake, torch.ones_like(fake))


def told_apart(real: Tensor, fake: Tensor) -> Tensor:
    """- (E log D(real) + E log (1 - D(fake))) / 2, of logits."""
    real_loss = F.binary_cross_entropy_with_logits(real, torch.ones_like(real))
    return 0.5 * (real_loss + F.binary_cross_entropy_with_logits(fake, torch.zeros_like(fake)))


@contextmanager
def plain_layers() -> Iterator[None]:
    """Let the networks compute with PyTorch's own layers, in the default memory format."""

    def kernel(self: layers.Convolution) -> Tensor:
        weight = self.conv.weight
        return weight.transpose(0, 1).flip((2, 3, 4)).contiguous() if self.transposed else weight

    ours = layers.Convolution.kernel, layers.PReLU.forward, layers.convolve
    layers.Convolution.kernel, layers.PReLU.forward, layers.convolve = kernel, nn.PReLU.forward, F.conv3d
    try:
        yield
    finally:
        layers.Convolution.kernel, layers.PReLU.forward, layers.convolve = ours


@contextmanager
def counted_passes(networks: Networks) -> Iterator[Counter[str]]:
    """Count the forward passes of every network."""
    counts: Counter[str] = Counter()
    # G_HR is entered by refine() as often as by forward(); its residual network runs in both.
    watched = {
        "g_hr": networks.g_hr.resdnet,
        "g_lr": networks.g_lr,
        "d_hr": networks.d_hr,
        "d_lr": networks.d_lr,
    }
    hooks = [
        network.register_forward_hook(lambda *_, name=name: counts.update([name]))
        for name, network in watched.items()
        if network is not None
    ]
    try:
        yield counts
    finally:
        for hook in hooks:
            hook.remove()


def smooth_batch(
    config: TrainingConfig, *, aligned: bool = False, dtype: torch.dtype = torch.float32
) -> Batch:
    """Patches of the configuration's size: smooth random objects with a little noise, the same at every call."""
    random = torch.Generator().manual_seed(0)
    edge, count, slices = config.data.size, config.data.batch_size, config.data.size // FACTOR
    fine, thick = (edge, edge, slices * FACTOR), (edge, edge, slices)

    def object_() -> Tensor:
        coarse = torch.rand(count, 1, 6, 6, 6, generator=random, dtype=dtype)
        smooth = resample(coarse, fine, "cubic")
        return smooth + 0.01 * torch.randn(smooth.shape, generator=random, dtype=dtype)

    real_hr = object_()
    real_lr = Acquisition(fine, thick).apply(real_hr if aligned else object_())
    sigma = torch.full((count,), 0.01, dtype=dtype)
    return Batch(
        real_lr,
        resample(real_lr, fine, config.g_hr.interpolation),
        real_hr,
        float(FACTOR),
        1.0,
        sigma,
        sigma,
        aligned,
    )


def compare(config: TrainingConfig, rounds: int) -> dict[str, dict[str, Any]]:
    """Measure all paths in turns, print them side by side, and check that they learn the same.

    Raises:
        RuntimeError: the losses, or the weights after a step, are not those of the textbook.
    """
    batch, dtype = smooth_batch(config), resolve_precision(config.precision, CPU)
    networks = {path: build_networks(config, CPU) for path in PATHS}
    fast = to_device(batch, CPU)
    textbook, quicker = (TextbookStep(networks[path], config) for path in ("textbook", "layers"))

    def plain_step() -> Terms:
        with plain_layers():
            return textbook(batch, 1.0)

    shared = TrainingStep(networks["fp32"], config)
    product = TrainingStep(networks["srcyc"], config, dtype=dtype)
    steps: dict[str, Callable[[], Terms]] = {
        "textbook": plain_step,
        "layers": lambda: quicker(batch, 1.0),
        "fp32": lambda: shared(fast, 1.0),
        "srcyc": lambda: product(fast, 1.0),
    }
    results: dict[str, dict[str, Any]] = {}
    before = generator_weights(networks["textbook"])
    after: dict[str, Tensor] = {}
    for path, step in steps.items():
        with counted_passes(networks[path]) as passes:
            terms = step()
        results[path] = {
            "terms": {name: float(value) for name, value in terms.items()},
            "passes": dict(passes),
        }
        after[path] = generator_weights(networks[path])
        step()

    seconds: dict[str, list[float]] = {path: [] for path in PATHS}
    for _ in range(rounds):
        for path, step in steps.items():
            start = time.perf_counter()
            step()
            seconds[path].append(time.perf_counter() - start)

    norm = torch.linalg.vector_norm
    for path, result in results.items():
        median = statistics.median(seconds[path])
        result |= {
            "seconds": median,
            "rate": 1 / median,
            "speed_up": statistics.median(seconds["textbook"]) / median,
            "loss_difference": largest_difference(result["terms"], results["textbook"]["terms"]),
            "update_difference": float(
                norm(after[path] - after["textbook"]) / norm(after["textbook"] - before)
            ),
        }
    show(results, config, batch, rounds, dtype)
    for path, (losses, updates) in TOLERANCES.items():
        found = results[path]
        if not (found["loss_difference"] <= losses and found["update_difference"] <= updates):
            raise RuntimeError(f"{path} does not learn what the textbook does: {found}")
    return results


def show(
    results: dict[str, dict[str, Any]],
    config: TrainingConfig,
    batch: Batch,
    rounds: int,
    dtype: torch.dtype,
) -> None:
    print(
        f"HR patches {' x '.join(map(str, batch.real_hr.shape))}, LR {' x '.join(map(str, batch.real_lr.shape))}, "
        f"{config.g_hr.features} features, {torch.get_num_threads()} threads, median of {rounds}"
    )
    print(f"losses: {', '.join(results['textbook']['terms'])}")
    print(
        f"{'':36} {'s / step':>8} {'steps/s':>8} {'speed-up':>9}  {'forward passes':>26}  {'differences':>17}"
    )
    print(f"{'':64}  {'G_HR':>7} {'G_LR':>5} {'D_HR':>6} {'D_LR':>5}  {'losses':>8} {'update':>8}")
    for path, result in results.items():
        kind, passes = precision_name(dtype) if path == "srcyc" else "fp32", result["passes"]
        print(
            f"{PATHS[path].format(kind):36} {result['seconds']:8.3f} {result['rate']:8.3f} "
            f"{result['speed_up']:8.2f}x  {passes['g_hr']:7} {passes['g_lr']:5} {passes['d_hr']:6} "
            f"{passes['d_lr']:5}  {result['loss_difference']:8.1e} {result['update_difference']:8.1e}"
        )
    print(f"srcyc / textbook: {results['srcyc']['speed_up']:.2f} (aim: {AIM:g})")


def generator_weights(networks: Networks) -> Tensor:
    """Give a copy of all weights of G_HR and G_LR as one vector."""
    parameters = [p for network in (networks.g_hr, networks.g_lr) if network for p in network.parameters()]
    return torch.cat([p.detach().reshape(-1) for p in parameters])


def largest_difference(terms: dict[str, float], reference: dict[str, float]) -> float:
    """Largest relative difference of any term; infinite when one has terms that the other has not."""
    if terms.keys() != reference.keys():
        return float("inf")
    return max(abs(terms[name] - value) / abs(value) for name, value in reference.items())


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--threads", type=int, help="of PyTorch; default: its own choice")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--set", nargs="*", default=[], metavar="KEY=VALUE", help="of the training settings")
    parser.add_argument("--json", type=Path, help="also write the numbers to this file")
    arguments = parser.parse_args()
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    settings: dict[str, Any] = {"mode": "unpaired"}
    for assignment in arguments.set:
        *sections, key = assignment.split("=")[0].split(".")
        place = settings
        for section in sections:
            place = place.setdefault(section, {})
        place[key] = yaml.safe_load(assignment.split("=", 1)[1])
    results = compare(TrainingConfig.model_validate(settings), arguments.rounds)
    if arguments.json:
        arguments.json.write_text(json.dumps(results, indent=2) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
