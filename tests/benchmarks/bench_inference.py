"""How fast inference is, and how much memory it takes, beside the bare network and MONAI's sliding window.

Every path runs on the same image in a process of its own, so that each has its own peak memory; the rounds take
turns, so that a machine that is busy for a while slows all of them. Speed is output voxels per second, the median.

    python tests/benchmarks/bench_inference.py [--shape 181 217 181] [--rounds 3] [--large] [--json FILE]
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

SHAPE = (181, 217, 181)
LARGE_SHAPE = (512, 512, 320)
#: Voxels of the target along the slice axis per slice of the scan.
FACTOR = 5
PATHS = {
    "fp32": "bare network, fp32",
    "bf16": "bare network, bf16, channels last",
    "monai": "MONAI SlidingWindowInferer, 96^3, overlap 0.25, fp32",
    "srcyc": "SuperResolver, end to end",
}
#: What the project aims at: end to end over the bare bf16 network, and over the sliding window.
AIMS = {"bf16": 0.8, "monai": 3.0}
LARGE_AIM_BYTES = 6e9

Shape = tuple[int, int, int]


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--shape", type=int, nargs=3, default=SHAPE, help="output voxels")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument(
        "--large", action="store_true", help="also measure the memory of a 512 x 512 x 320 output"
    )
    parser.add_argument("--json", type=Path, help="also write the numbers to this file")
    parser.add_argument("--measure", choices=PATHS, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    shape = tuple(arguments.shape)
    if arguments.measure:
        print(json.dumps(measure(arguments.measure, shape)))
        return 0
    results = compare(shape, arguments.rounds)
    if arguments.large:
        results["large"] = measured_elsewhere("srcyc", LARGE_SHAPE)
        show_large(results["large"])
    if arguments.json:
        arguments.json.write_text(json.dumps(results, indent=2) + "\n")
    return 0


def compare(shape: Shape, rounds: int) -> dict[str, dict[str, float]]:
    """Measure all paths in turns, and print them side by side."""
    voxels = shape[0] * shape[1] * shape[2] / 1e6
    runs: dict[str, list[dict[str, float]]] = {path: [] for path in PATHS}
    for _ in range(rounds):
        for path, found in runs.items():
            found.append(measured_elsewhere(path, shape))
    print(f"output {' x '.join(map(str, shape))}, {voxels:.2f} Mvoxel, median of {rounds}")
    print(f"{'':54} {'seconds':>8} {'Mvoxel/s':>9} {'peak GB':>8} {'speed-up':>9}")
    results = {}
    for path, found in runs.items():
        seconds = statistics.median(run["seconds"] for run in found)
        memory = max(run["peak_memory"] for run in found)
        results[path] = {"seconds": seconds, "rate": voxels / seconds, "peak_memory": memory}
        faster = results[path]["rate"] / results["bf16"]["rate"] if "bf16" in results else float("nan")
        note = f"{faster:8.2f}x" if path in ("bf16", "monai", "srcyc") else ""
        print(f"{PATHS[path]:54} {seconds:8.2f} {voxels / seconds:9.3f} {memory / 1e9:8.2f} {note:>9}")
    for path, aim in AIMS.items():
        ratio = results["srcyc"]["rate"] / results[path]["rate"]
        print(f"SuperResolver / {path}: {ratio:.2f} (aim: {aim:g})")
    return results


def show_large(run: dict[str, float]) -> None:
    size = " x ".join(map(str, LARGE_SHAPE))
    print(
        f"SuperResolver, {size}: {run['seconds']:.1f} s, peak {run['peak_memory'] / 1e9:.2f} GB (aim: under 6)"
    )


def measured_elsewhere(path: str, shape: Shape) -> dict[str, float]:
    """Run :func:`measure` in a fresh process."""
    command = [sys.executable, __file__, "--measure", path, "--shape", *map(str, shape)]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    result: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return result


def measure(path: str, shape: Shape) -> dict[str, float]:
    """Time one path once, after a small warm-up, and give this process's peak memory."""
    from srcyc.device import peak_memory

    prepare = {"fp32": bare_fp32, "bf16": bare_bf16, "monai": sliding_window, "srcyc": super_resolver}[path]
    prepare((24, 24, 20))()
    run = prepare(shape)
    start = time.perf_counter()
    run()
    return {"seconds": time.perf_counter() - start, "peak_memory": peak_memory() or 0}


def bare_fp32(shape: Shape) -> Callable[[], object]:
    import torch

    network, image = folded_network(), torch.rand(1, 1, *shape)
    return torch.inference_mode()(lambda: network(image))


def bare_bf16(shape: Shape) -> Callable[[], object]:
    import torch

    layout = torch.channels_last_3d
    network = folded_network().to(dtype=torch.bfloat16, memory_format=layout)
    image = torch.rand(1, 1, *shape).to(dtype=torch.bfloat16, memory_format=layout)
    return torch.inference_mode()(lambda: network(image))


def sliding_window(shape: Shape) -> Callable[[], object]:
    import torch
    from monai.inferers import SlidingWindowInferer

    network, image = folded_network(), torch.rand(1, 1, *shape)
    inferer = SlidingWindowInferer(roi_size=(96, 96, 96), overlap=0.25)
    return torch.inference_mode()(lambda: inferer(image, network))


def super_resolver(shape: Shape) -> Callable[[], object]:
    """A scan with noise everywhere: no background that could be left out."""
    import numpy as np

    from srcyc.inference import SuperResolver
    from srcyc.volume import Volume

    slices = max(2, round(shape[2] / FACTOR))
    data = np.random.default_rng(0).random((1, *shape[:2], slices), dtype=np.float32)
    scan = Volume(data, np.diag([1.0, 1.0, shape[2] / slices, 1.0]))
    with tempfile.TemporaryDirectory() as folder:
        resolver = SuperResolver.load(publish_untrained(Path(folder)))

    def run() -> None:
        result = resolver(scan)
        if result.volume.shape != shape:
            raise RuntimeError(f"got {result.volume.shape} voxels, wanted {shape}")

    return run


def folded_network():  # type: ignore[no-untyped-def]
    from srcyc.config import SRResDNetConfig
    from srcyc.networks import SRResDNet

    return SRResDNet.from_config(SRResDNetConfig()).folded(float(FACTOR))


def publish_untrained(folder: Path) -> Path:
    """Speed does not depend on the weights."""
    from srcyc.config import SRResDNetConfig
    from srcyc.inference import ModelCard, publish_model
    from srcyc.networks import SRResDNet

    config = SRResDNetConfig()
    card = ModelCard(
        name="untrained",
        title="Untrained, for benchmarks",
        network=config,
        spacing_range=(0.8, 1.2),
        factor_range=(2.0, 7.0),
        contrasts=(),
        trained_on="nothing",
        metrics={},
        licence="CC0-1.0",
        created="2026-01-01",
        software="srcyc",
    )
    return publish_model(SRResDNet.from_config(config), card, folder / "untrained.safetensors")


if __name__ == "__main__":
    sys.exit(main())
