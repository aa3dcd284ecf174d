"""How fast inference is, and how much memory it takes, beside the bare network and MONAI's sliding window.

Every path runs the packaged default model on the same scan in a process of its own, so that each has its own peak
memory; the rounds take turns, so that a machine that is busy for a while slows all of them. Speed is output voxels per
second, the median: of wall time, and of processor time, which other programs disturb less (with several threads it
counts those that wait, too, so compare it with --threads 1).

    python tests/benchmarks/bench_inference.py [--shape 181 217 181] [--factor 5] [--rounds 3] [--threads 1] [--large]

With --against, SuperResolver is compared with that of another version instead, each with its own default model:

    python tests/benchmarks/bench_inference.py --against ANOTHER_CHECKOUT/lib
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

SHAPE = (181, 217, 181)
LARGE_SHAPE = (512, 512, 320)
#: Voxels of the target along the slice axis per slice of the scan.
FACTOR = 5.0
#: Edge of MONAI's window on what the generator sees, voxels; a whole number of slices.
WINDOW, OVERLAP = 96, 0.25
PATHS = {
    "fp32": "bare network, whole volume, fp32",
    "bf16": "bare network, whole volume, bf16, channels last",
    "monai": f"MONAI SlidingWindowInferer, {WINDOW}^3, overlap {OVERLAP:g}, fp32",
    "srcyc": "SuperResolver, end to end, precision auto",
    "srcyc-fp32": "SuperResolver, end to end, fp32",
}
RESOLVERS = {"srcyc": "auto", "srcyc-fp32": "fp32"}
#: What the project aims at: SuperResolver over the bare bf16 network, and over the sliding window.
AIMS = {"bf16": 0.8, "monai": 3.0}
LARGE_AIM_BYTES = 6e9

Shape = tuple[int, int, int]
Run = dict[str, float]


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--shape", type=int, nargs=3, default=SHAPE, help="output voxels")
    parser.add_argument("--factor", type=float, default=FACTOR, help="output voxels per slice, about")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, help="of every process; default: PyTorch's choice")
    parser.add_argument(
        "--large", action="store_true", help="also measure the memory of a 512 x 512 x 320 output"
    )
    parser.add_argument("--against", type=Path, metavar="LIB", help="the lib folder of another version")
    parser.add_argument("--json", type=Path, help="also write the numbers to this file")
    parser.add_argument("--measure", choices=PATHS, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    shape = tuple(arguments.shape)
    if arguments.measure:
        print(json.dumps(measure(arguments.measure, shape, arguments.factor)))
        return 0
    bench = Bench(shape, arguments.factor, arguments.rounds, arguments.threads)
    results = bench.paths() if arguments.against is None else bench.versions(arguments.against)
    if arguments.large:
        results["large"] = bench.large()
    if arguments.json:
        arguments.json.write_text(json.dumps(results, indent=2) + "\n")
    return 0


class Bench:
    """Measures in other processes and prints."""

    def __init__(self, shape: Shape, factor: float, rounds: int, threads: int | None) -> None:
        self.shape, self.factor, self.rounds, self.threads = shape, factor, rounds, threads
        self.voxels = shape[0] * shape[1] * shape[2] / 1e6

    def paths(self) -> dict[str, Run]:
        """Compare all paths of this version."""
        results = self._in_turns({path: (title, path, None) for path, title in PATHS.items()})
        for path, aim in AIMS.items():
            self._show_ratio(f"SuperResolver / {path}", results["srcyc"], results[path], f"aim: {aim:g}")
        return results

    def versions(self, lib: Path) -> dict[str, Run]:
        """Compare the super-resolvers of this version and of another."""
        rows = {}
        for path in RESOLVERS:
            rows[f"{path}-before"] = (f"{PATHS[path]}: {lib}", path, lib)
            rows[path] = (PATHS[path], path, None)
        results = self._in_turns(rows)
        for path, precision in RESOLVERS.items():
            note = "aim: as fast as before" if path == "srcyc" else ""
            self._show_ratio(f"now / before, {precision}", results[path], results[f"{path}-before"], note)
        return results

    def large(self) -> Run:
        """Measure a large output."""
        run = self._elsewhere("srcyc", LARGE_SHAPE)
        size = " x ".join(map(str, LARGE_SHAPE))
        print(
            f"SuperResolver, {size}: {run['seconds']:.1f} s, {run['cpu_seconds']:.1f} s of the processor, "
            f"peak {run['peak_memory'] / 1e9:.2f} GB (aim: under {LARGE_AIM_BYTES / 1e9:g})"
        )
        return run

    def _in_turns(self, rows: dict[str, tuple[str, str, Path | None]]) -> dict[str, Run]:
        runs: dict[str, list[Run]] = {row: [] for row in rows}
        for _ in range(self.rounds):
            for row, (_, path, lib) in rows.items():
                runs[row].append(self._elsewhere(path, self.shape, lib))
        size, threads = " x ".join(map(str, self.shape)), self.threads or "PyTorch's choice"
        print(
            f"output {size}, factor {self.factor:g}, {self.voxels:.2f} Mvoxel, threads: {threads}, "
            f"median of {self.rounds}"
        )
        width = max(len(title) for title, _, _ in rows.values())
        print(f"{'':{width}} {'wall':>8} {'':>9} {'processor':>9}")
        print(f"{'':{width}} {'seconds':>8} {'Mvoxel/s':>9} {'seconds':>9} {'Mvoxel/s':>9} {'peak GB':>8}")
        results = {}
        for row, (title, _, _) in rows.items():
            seconds, cpu = (
                statistics.median(run[key] for run in runs[row]) for key in ("seconds", "cpu_seconds")
            )
            results[row] = {
                "seconds": seconds,
                "rate": self.voxels / seconds,
                "cpu_seconds": cpu,
                "cpu_rate": self.voxels / cpu,
                "peak_memory": max(run["peak_memory"] for run in runs[row]),
            }
            print(
                f"{title:{width}} {seconds:8.2f} {self.voxels / seconds:9.3f} {cpu:9.2f} {self.voxels / cpu:9.3f} "
                f"{results[row]['peak_memory'] / 1e9:8.2f}"
            )
        return results

    def _show_ratio(self, what: str, fast: Run, reference: Run, note: str) -> None:
        wall, cpu = (fast[key] / reference[key] for key in ("rate", "cpu_rate"))
        print(f"{what}: {cpu:.2f} in processor time, {wall:.2f} in wall time{note and f' ({note})'}")

    def _elsewhere(self, path: str, shape: Shape, lib: Path | None = None) -> Run:
        """Run :func:`measure` in a fresh process, with this version or another."""
        command = [sys.executable, __file__, "--measure", path, "--factor", str(self.factor)]
        environment = dict(os.environ)
        if self.threads is not None:
            environment["OMP_NUM_THREADS"] = str(self.threads)
        if lib is not None:
            environment["PYTHONPATH"] = str(lib.resolve())
        done = subprocess.run(
            [*command, "--shape", *map(str, shape)],
            check=True,
            stdout=subprocess.PIPE,
            text=True,
            env=environment,
        )
        found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
        if lib is not None and not Path(found["library"]).is_relative_to(lib.resolve()):
            raise RuntimeError(f"{lib} holds no srcyc: {found['library']} was measured")
        return {key: value for key, value in found.items() if key != "library"}


def measure(path: str, shape: Shape, factor: float) -> dict[str, Any]:
    """Time one path once, after a small warm-up, and give this process's peak memory.

    Another version may be imported here, so a super-resolver's path uses no more than every version has.
    """
    import srcyc
    from srcyc.device import peak_memory

    prepare = {"fp32": bare_fp32, "bf16": bare_bf16, "monai": sliding_window}.get(path)
    if prepare is None:
        prepare = super_resolver(RESOLVERS[path])
    prepare((24, 24, 20), factor)()
    run = prepare(shape, factor)
    start, cpu_start = time.perf_counter(), time.process_time()
    run()
    return {
        "seconds": time.perf_counter() - start,
        "cpu_seconds": time.process_time() - cpu_start,
        "peak_memory": peak_memory() or 0,
        "library": str(srcyc.__file__),
    }


def slices_of(shape: Shape, factor: float) -> int:
    return max(2, round(shape[2] / factor))


def super_resolver(precision: str) -> Callable[[Shape, float], Callable[[], object]]:
    """A scan with noise everywhere: no background that could be left out."""
    import numpy as np

    from srcyc import Volume
    from srcyc.inference.super_resolver import SuperResolver

    resolver = SuperResolver.from_pretrained(device="cpu", precision=precision)

    def prepare(shape: Shape, factor: float) -> Callable[[], object]:
        slices = slices_of(shape, factor)
        data = np.random.default_rng(0).random((1, *shape[:2], slices), dtype=np.float32)
        scan = Volume(data, np.diag([1.0, 1.0, shape[2] / slices, 1.0]))

        def run() -> None:
            result = resolver(scan)
            if result.volume.shape != shape:
                raise RuntimeError(f"got {result.volume.shape} voxels, wanted {shape}")

        return run

    return prepare


def bare_fp32(shape: Shape, factor: float) -> Callable[[], object]:
    import torch

    return whole_volume(generator(), shape, factor, torch.float32)


def bare_bf16(shape: Shape, factor: float) -> Callable[[], object]:
    import torch

    network = generator().to(dtype=torch.bfloat16, memory_format=torch.channels_last_3d)
    return whole_volume(network, shape, factor, torch.bfloat16)


def sliding_window(shape: Shape, factor: float) -> Callable[[], object]:
    """MONAI's window over what the generator sees.

    Windows hold whole slices, since every start on the last axis is a multiple of the sub-planes per slice; the planes
    that come out are a whole multiple of those that go in.
    """
    import torch
    from monai.inferers import SlidingWindowInferer
    from torch import Tensor

    from srcyc.networks.generator import Estimate, Sampling

    network = generator()
    inferer = SlidingWindowInferer(roi_size=(WINDOW, WINDOW, WINDOW), overlap=OVERLAP)

    class Windows:
        """The generator, window by window."""

        planes = staticmethod(network.planes)

        @staticmethod
        def estimate(upscaled: Tensor, samplings: list[Sampling]) -> Estimate:
            between = inferer(upscaled, lambda window: network.estimate(window, samplings).between)
            return Estimate(between, None)

    return whole_volume(Windows(), shape, factor, torch.float32)


def whole_volume(network: Any, shape: Shape, factor: float, dtype: Any) -> Callable[[], object]:
    import torch

    from srcyc.enhancement import enhance
    from srcyc.physics.acquisition import ASSUMED_THICKNESS, AxisAcquisition

    slices = slices_of(shape, factor)
    scan = torch.rand(1, 1, *shape[:2], slices).to(dtype)
    axis = AxisAcquisition.of(shape[2], slices, ASSUMED_THICKNESS)

    @torch.inference_mode()
    def run() -> None:
        image = enhance(network, scan, [axis])[0].image
        if image.shape[2:] != shape:
            raise RuntimeError(f"got {tuple(image.shape[2:])} voxels, wanted {shape}")

    return run


def generator() -> Any:
    """Give the packaged default model's network, fp32."""
    from srcyc.models.model_file import DEFAULT_MODEL, find_model, load_model

    return load_model(find_model(DEFAULT_MODEL)).network


if __name__ == "__main__":
    sys.exit(main())
