"""How fast a training step is, beside a CycleGAN step written from its formulas with the same networks.

The textbook step (Zhu et al. 2017, arXiv:1703.10593) runs in fp32 and lets every loss term make its own forward passes.
Ours shares them, and runs as `srcyc train` does on this machine (bf16 where the CPU has it), and once more in fp32, so
that what sharing the passes and the type gain are seen apart. All start from the same weights, take steps on the same
batch and must find the same losses. Below stand the steps of the preset `generator`, on the batches that it draws.

The paths take turns, step by step, so that a machine that is busy for a while slows all of them. Times are of the
median step (the mean one for the preset, whose batches have several sizes), in wall time and in processor time, which
other programs disturb less; with several threads it counts those that wait, too, so compare it with --threads 1.

    python tests/benchmarks/bench_training.py [--threads 1] [--rounds 5] [--json FILE] [--set data.batch_size=1 ...]
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from srcyc.config import TrainingConfig
from srcyc.data.image_pool import ImagePool
from srcyc.data.patches import Batch, SimulatedPatches
from srcyc.data.store import TrainingScan
from srcyc.device import precision_name, resolve_precision
from srcyc.enhancement import enhance
from srcyc.physics.acquisition import ASSUMED_THICKNESS, Acquisition, AxisAcquisition
from srcyc.physics.resampling import resample
from srcyc.training.settings import load_settings
from srcyc.training.step import Networks, TrainingStep, build_networks
from srcyc.volumes.geometry import Grid

CPU = torch.device("cpu")
#: Voxels of the HR patch along the slice axis per slice of the LR patch.
FACTOR = 4
#: What the project aims at: the product's step over the textbook's.
AIM = 2.5
PATHS = {
    "textbook": "textbook, fp32",
    "fp32": "srcyc, fp32: passes shared",
    "srcyc": "srcyc, {}: as srcyc train runs",
}
#: How far the losses, and what the generators' weights have changed after one step, may be from the textbook's,
#: relative. Adam's first step has the size of the learning rate in every weight, however small its gradient, so
#: rounding alone turns some.
TOLERANCES = {"fp32": (1e-5, 1e-2), "srcyc": (0.05, 0.5)}
#: Standard deviation of the weights put where networks start with zeros.
_NOT_ZERO = 0.01

Terms = dict[str, Tensor]
Images = list[Tensor]


class TextbookStep:
    """One step of unpaired training as its formulas are printed.

    min over G, F, max over D of  GAN(G, D_Y) + GAN(F, D_X) + λ_cyc (|F(G(x)) - x| + |G(F(y)) - y|)
        + λ_id (|G(y) - y| + |F(x) - x|) + λ_tv TV(G(x))

    with x = real_lr, y = real_hr, G = G_HR, F = G_LR. Each term is a function of the images that calls the networks it
    names. Both players see the networks as they were before the step. HR images are looked at where they count.
    """

    def __init__(self, networks: Networks, config: TrainingConfig) -> None:
        if networks.g_lr is None or networks.d_hr is None or networks.d_lr is None:
            raise ValueError("the CycleGAN step needs four networks")
        unknown = config.losses.lambda_content or config.losses.lambda_perceptual
        if unknown or config.adversarial != "bce" or config.optimiser.algorithm != "adam":
            raise ValueError("the textbook has no content and perceptual terms, and knows bce and Adam only")
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

    def __call__(self, batch: Batch) -> Terms:
        objective = {name: (w, term(batch)) for name, (w, term) in self._objective().items() if w > 0}
        # As discriminators are asked before the generators step, they see the fakes of the same networks.
        judged_hr, judged_lr = self.discriminate_hr(batch), self.discriminate_lr(batch)
        self.optimiser_g.zero_grad()
        torch.stack([weight * term for weight, term in objective.values()]).sum().backward()
        # The generators' loss has left gradients in the discriminators, too.
        self.optimiser_d.zero_grad()
        (judged_hr + judged_lr).backward()
        for optimiser, parameters in (
            (self.optimiser_g, self.generators),
            (self.optimiser_d, self.discriminators),
        ):
            nn.utils.clip_grad_norm_(parameters, self.config.optimiser.gradient_clip)
            optimiser.step()
        terms = {name: term for name, (_, term) in objective.items()}
        return {name: t.detach() for name, t in (terms | {"d_hr": judged_hr, "d_lr": judged_lr}).items()}

    def _objective(self) -> dict[str, tuple[float, Callable[[Batch], Tensor]]]:
        weights = self.config.losses
        return {
            "adversarial_hr": (
                weights.lambda_adversarial,
                lambda b: fooled(self.d_hr(torch.cat(counted(self.super_resolve(b), b)))),
            ),
            "adversarial_lr": (weights.lambda_adversarial, lambda b: fooled(self.d_lr(self.degrade(b)))),
            "cycle_lr": (
                weights.lambda_cycle,
                lambda b: F.l1_loss(self._to_lr(self.super_resolve(b), b), b.real_lr),
            ),
            "cycle_hr": (weights.lambda_cycle, self._hr_cycle),
            "identity_hr": (weights.lambda_identity, self._hr_identity),
            "identity_lr": (weights.lambda_identity, self._lr_identity),
            "tv": (weights.lambda_tv, self._total_variation),
        }

    def super_resolve(self, batch: Batch) -> Images:
        """G(x)."""
        return self._to_hr(batch.real_lr, batch)

    def degrade(self, batch: Batch) -> Tensor:
        """F(y)."""
        return self._to_lr(batch.real_hr, batch)

    def _to_hr(self, lr: Tensor, batch: Batch) -> Images:
        return [enhanced.image for enhanced in enhance(self.g_hr, lr, batch.axes)]

    def _to_lr(self, hr: Images | tuple[Tensor, ...], batch: Batch) -> Tensor:
        size = batch.real_lr.shape[2:]
        pairs = zip(hr, batch.axes, strict=True)
        return torch.cat(
            [self.g_lr(image, size=size, thickness_ratio=axis.thickness_ratio) for image, axis in pairs]
        )

    def _hr_cycle(self, batch: Batch) -> Tensor:
        """|G(F(y)) - y|."""
        cycled = counted(self._to_hr(self.degrade(batch), batch), batch)
        return F.l1_loss(torch.cat(cycled), torch.cat(counted(batch.real_hr, batch)))

    def _hr_identity(self, batch: Batch) -> Tensor:
        """|G(y) - y| at factor 1, of the middle planes of y."""
        planes = batch.real_lr.shape[-1]
        start = (batch.axes[0].fine - planes) // 2
        thin = torch.cat(batch.real_hr)[..., start : start + planes]
        same = enhance(self.g_hr, thin, [AxisAcquisition.of(planes, planes)] * len(thin))
        return F.l1_loss(torch.cat([enhanced.image for enhanced in same]), thin)

    def _lr_identity(self, batch: Batch) -> Tensor:
        """|F(x) - x| at factor 1."""
        return F.l1_loss(self.g_lr(batch.real_lr, size=batch.real_lr.shape[2:]), batch.real_lr)

    def _total_variation(self, batch: Batch) -> Tensor:
        image = torch.cat(counted(self.super_resolve(batch), batch))
        return torch.stack([image.diff(dim=axis).abs().sum() / image.numel() for axis in (2, 3, 4)]).sum()

    def discriminate_hr(self, batch: Batch) -> Tensor:
        with torch.no_grad():
            fake = torch.cat(counted(self.super_resolve(batch), batch))
        real = torch.cat(counted(batch.real_hr, batch))
        return told_apart(self.d_hr(real), self.d_hr(self.pool_hr.query(fake)))

    def discriminate_lr(self, batch: Batch) -> Tensor:
        with torch.no_grad():
            fake = self.degrade(batch)
        return told_apart(self.d_lr(batch.real_lr), self.d_lr(self.pool_lr.query(fake)))


def counted(images: Images | tuple[Tensor, ...], batch: Batch) -> Images:
    """Give the planes that losses look at."""
    return [image[..., batch.counted(item)] for item, image in enumerate(images)]


def fooled(fake: Tensor) -> Tensor:
    """- E log D(fake), of logits."""
    return F.binary_cross_entropy_with_logits(fake, torch.ones_like(fake))


def told_apart(real: Tensor, fake: Tensor) -> Tensor:
    """- (E log D(real) + E log (1 - D(fake))) / 2, of logits."""
    real_loss = F.binary_cross_entropy_with_logits(real, torch.ones_like(real))
    return 0.5 * (real_loss + F.binary_cross_entropy_with_logits(fake, torch.zeros_like(fake)))


@contextmanager
def counted_passes(networks: Networks) -> Iterator[Counter[str]]:
    """Count the images that go through every network."""
    counts: Counter[str] = Counter()
    watched = {"g_lr": networks.g_lr, "d_hr": networks.d_hr, "d_lr": networks.d_lr}
    hooks = [
        network.register_forward_hook(
            lambda module, inputs, output, name=name: counts.update({name: len(inputs[0])})
        )
        for name, network in watched.items()
        if network is not None
    ]
    # G_HR is not called: it is asked for its estimate.
    g_hr, estimate = networks.g_hr, networks.g_hr.estimate

    def counting(upscaled: Tensor, samplings: Any) -> Any:
        counts.update({"g_hr": len(upscaled)})
        return estimate(upscaled, samplings)

    g_hr.estimate = counting  # type: ignore[method-assign]
    try:
        yield counts
    finally:
        del g_hr.estimate
        for hook in hooks:
            hook.remove()


def networks_of(config: TrainingConfig) -> Networks:
    """Build a run's networks, with numbers in G_HR's weights that start as zeros: behind those nothing would learn."""
    networks = build_networks(config, CPU)
    random = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for weight in networks.g_hr.parameters():
            if weight.ndim > 1 and not weight.any():
                weight.normal_(0, _NOT_ZERO, generator=random)
    return networks


def smooth_objects(count: int, shape: tuple[int, int, int], random: torch.Generator) -> Tensor:
    """Smooth random objects with a little noise."""
    smooth = resample(torch.rand(count, 1, 6, 6, 6, generator=random), shape, "cubic")
    return smooth + 0.01 * torch.randn(smooth.shape, generator=random)


def smooth_batch(config: TrainingConfig) -> Batch:
    """Unpaired patches of the configuration's size, the same at every call."""
    random = torch.Generator().manual_seed(0)
    edge, count, slices = config.data.size, config.data.batch_size, sum(config.data.slices) // 2
    axis = AxisAcquisition.of(slices * FACTOR, slices, ASSUMED_THICKNESS)
    fine, thick = (edge, edge, axis.fine), (edge, edge, axis.scan)
    scanner = Acquisition(fine, thick, axis.thickness_ratio, slice_axis=2)
    return Batch(
        real_lr=scanner.apply(smooth_objects(count, fine, random)),
        real_hr=smooth_objects(count, fine, random).split(1),
        axes=(axis,) * count,
        aligned=False,
        noise=torch.zeros(count, 1, *thick),
    )


class Stopwatch:
    """Wall and processor seconds of every step, by path."""

    def __init__(self) -> None:
        self.seconds: dict[str, list[tuple[float, float]]] = {}

    def take(self, path: str, step: Callable[[], object]) -> None:
        start, cpu_start = time.perf_counter(), time.process_time()
        step()
        taken = time.perf_counter() - start, time.process_time() - cpu_start
        self.seconds.setdefault(path, []).append(taken)

    def typical(self, path: str, average: Callable[[list[float]], float]) -> dict[str, float]:
        wall, cpu = (average(list(column)) for column in zip(*self.seconds[path], strict=True))
        return {"seconds": wall, "rate": 1 / wall, "cpu_seconds": cpu, "cpu_rate": 1 / cpu}


def compare(config: TrainingConfig, rounds: int) -> dict[str, dict[str, Any]]:
    """Measure all paths in turns, print them side by side, and check that they learn the same.

    Raises:
        RuntimeError: the losses, or the weights after a step, are not those of the textbook.
    """
    batch, dtype = smooth_batch(config), resolve_precision(config.precision, CPU)
    networks = {path: networks_of(config) for path in PATHS}
    textbook = TextbookStep(networks["textbook"], config)
    shared = TrainingStep(networks["fp32"], config)
    product = TrainingStep(networks["srcyc"], config, dtype=dtype)
    steps: dict[str, Callable[[], Terms]] = {
        "textbook": lambda: textbook(batch),
        "fp32": lambda: shared(batch, 1.0),
        "srcyc": lambda: product(batch, 1.0),
    }
    results: dict[str, dict[str, Any]] = {}
    before = generator_weights(networks["textbook"])
    after: dict[str, Tensor] = {}
    for path, step in steps.items():
        with counted_passes(networks[path]) as images:
            terms = step()
        results[path] = {
            "terms": {name: float(value) for name, value in terms.items()},
            "passes": {name: count / len(batch.real_lr) for name, count in images.items()},
        }
        after[path] = generator_weights(networks[path])

    watch = Stopwatch()
    for _ in range(rounds):
        for path, step in steps.items():
            watch.take(path, step)

    norm = torch.linalg.vector_norm
    for path, result in results.items():
        result |= watch.typical(path, statistics.median)
        result |= {
            "speed_up": result["rate"] / results["textbook"]["rate"],
            "cpu_speed_up": result["cpu_rate"] / results["textbook"]["cpu_rate"],
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
    hr, lr = (" x ".join(map(str, image.shape[2:])) for image in (batch.real_hr[0], batch.real_lr))
    print(
        f"unpaired, {len(batch.real_lr)} patches, HR {hr}, LR {lr}, G_HR {describe(config)}, "
        f"{torch.get_num_threads()} threads, median of {rounds}"
    )
    print(f"losses: {', '.join(results['textbook']['terms'])}")
    print(
        f"{'':32} {'wall':>8} {'':>9} {'processor':>9} {'':>9}  {'passes':>7} {'':>20}  {'differences':>17}"
    )
    print(
        f"{'':32} {'s / step':>8} {'speed-up':>9} {'s / step':>9} {'speed-up':>9}  {'G_HR':>7} {'G_LR':>6} "
        f"{'D_HR':>6} {'D_LR':>6}  {'losses':>8} {'update':>8}"
    )
    for path, result in results.items():
        kind, passes = precision_name(dtype) if path == "srcyc" else "fp32", result["passes"]
        print(
            f"{PATHS[path].format(kind):32} {result['seconds']:8.3f} {result['speed_up']:8.2f}x "
            f"{result['cpu_seconds']:9.3f} {result['cpu_speed_up']:8.2f}x  {passes['g_hr']:7g} {passes['g_lr']:6g} "
            f"{passes['d_hr']:6g} {passes['d_lr']:6g}  {result['loss_difference']:8.1e} "
            f"{result['update_difference']:8.1e}"
        )
    found = results["srcyc"]
    print(
        f"srcyc / textbook: {found['cpu_speed_up']:.2f} in processor time, {found['speed_up']:.2f} in wall time "
        f"(aim: {AIM:g})"
    )


def preset(rounds: int) -> dict[str, dict[str, float]]:
    """Measure the steps of the preset `generator` on batches that it draws from one smooth object, and print them."""
    config = load_settings("generator")
    edge = 2 * config.data.size + 48
    image = smooth_objects(1, (edge, edge, edge), torch.Generator().manual_seed(0))[0, 0].numpy()
    scan = TrainingScan(
        "smooth", np.ascontiguousarray(image), Grid((edge, edge, edge), np.eye(4)), ASSUMED_THICKNESS
    )
    warm_up = 1
    batches = SimulatedPatches([scan], config.data, config.seed, warm_up + rounds)
    types = {name: resolve_precision(name, CPU) for name in ("fp32", "auto")}
    steps = {
        precision_name(dtype): TrainingStep(build_networks(config, CPU), config, dtype=dtype)
        for dtype in types.values()
    }
    watch = Stopwatch()
    for index in range(warm_up + rounds):
        batch = batches[index]
        for name, step in steps.items():
            if index < warm_up:
                step(batch, 1.0)
            else:
                watch.take(name, lambda step=step, batch=batch: step(batch, 1.0))
    print(
        f"preset generator: {config.data.batch_size} patches, G_HR {describe(config)}, mean of {rounds} steps"
    )
    results = {name: watch.typical(name, statistics.fmean) for name in steps}
    for name, result in results.items():
        print(f"{name:32} {result['seconds']:8.3f} {'':>9} {result['cpu_seconds']:9.3f}")
    return results


def describe(config: TrainingConfig) -> str:
    arguments: Mapping[str, Any] = config.g_hr.model_dump()
    return ", ".join(str(v) if k == "name" else f"{k} {v}" for k, v in arguments.items())


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
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument(
        "--set", nargs="*", default=[], metavar="KEY=VALUE", help="of the settings of the unpaired steps"
    )
    parser.add_argument("--json", type=Path, help="also write the numbers to this file")
    arguments = parser.parse_args()
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    results = compare(load_settings(single=arguments.set), arguments.rounds)
    results["preset"] = preset(arguments.rounds)
    if arguments.json:
        arguments.json.write_text(json.dumps(results, indent=2) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
