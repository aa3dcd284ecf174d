"""Two processes, as torchrun starts them, take the steps that one would, and their checkpoints are the same.

Not bit for bit: the mean over a batch of four is not rounded as that of two means over two. Adam makes a step of full
length out of a gradient that is rounding noise (a convolution's bias before an instance normalisation has no other),
so the discriminators are compared within the distance that a few such steps can go.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable
from typing import Any

import pytest

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(sys.platform != "linux", reason="torchrun with gloo is used on Linux"),
]

Training = Any
Make = Callable[..., Training]
Differing = Callable[..., dict[str, float]]

GENERATORS, DISCRIMINATORS, IMAGES = 1e-6, 5e-4, 1e-5
#: How far twelve full steps of the discriminators' Adam go.
STEPS = 12 * 2e-4
#: Validates once and reports often, so that the numbers of the history are compared too.
COMMON = ("steps=12", "data.batch_size=4", "validate_every=6", "pool_size=2")


def is_rounding(network: str, weight: str) -> bool:
    """Whether a weight's gradient is rounding noise alone: the bias of a discriminator's normalised convolution."""
    return network.startswith("d_") and weight.endswith(".bias")


def apart(differing: Differing, one: Training, other: Training) -> dict[str, float]:
    """Where the networks and pools of two runs are further apart than rounding takes them."""
    a, b = one.last, other.last
    assert a["state"]["done"] == b["state"]["done"]
    assert a["networks"].keys() == b["networks"].keys()
    found = differing(a["step"]["pools"], b["step"]["pools"], IMAGES)
    for name, weights in a["networks"].items():
        tolerance = DISCRIMINATORS if name.startswith("d_") else GENERATORS
        further = differing(weights, b["networks"][name], tolerance)
        found |= {f"{name}{k}": v for k, v in further.items() if not (is_rounding(name, k) and v < STEPS)}
    return found


def same_history(one: Training, other: Training) -> None:
    assert [row.keys() for row in one.history] == [row.keys() for row in other.history]
    for row, twin in zip(one.history, other.history, strict=True):
        for name, cell in row.items():
            assert (cell == "") == (twin[name] == "")
            if cell:
                assert float(twin[name]) == pytest.approx(float(cell), rel=1e-4, abs=1e-6), name


@pytest.mark.parametrize("mode", ["unpaired", "paired", "generator-only"])
def test_two_processes_train_as_one_does(training: Make, differing: Differing, mode: str) -> None:
    settings = COMMON if mode == "unpaired" else (*COMMON, f"mode={mode}")
    one, two = (training(f"{mode}-{name}", *settings) for name in ("one", "two"))
    assert one.run().code == 0
    ran = two.run(processes=2)
    assert ran.code == 0, ran.err
    assert ran.out.count("step 6/12 ") == 1, "only one of them tells"
    assert "2 processes" in ran.out
    assert apart(differing, one, two) == {}
    same_history(one, two)
    assert {path.name for path in two.folder.iterdir()} == {path.name for path in one.folder.iterdir()}
    assert len(list((two.folder / "tensorboard").iterdir())) == 1, "only one of them writes"


def test_a_stop_of_torchrun_saves_and_any_number_of_processes_goes_on(
    training: Make, differing: Differing
) -> None:
    """SIGTERM reaches torchrun, which sends it on; a scheduler that sends it to everybody says it twice."""
    settings = ("steps=40", "data.batch_size=2", "checkpoint_every=1000", "mode=paired", "pool_size=2")
    straight, run = training("straight", *settings), training("stopped", *settings)
    assert straight.run().code == 0

    def begun() -> bool:
        return (run.folder / "history.csv").exists() and len(run.history) > before

    before = 1
    process = run.start(processes=2, real=True)
    assert run.waited(process, begun)
    for worker in run.processes():
        if worker != process.pid:
            send(worker)
    process.send_signal(signal.SIGTERM)
    ran = run.ended(process)
    assert ran.code != 0
    assert ran.err.count(f"stopped by SIGTERM after step {run.saved} of 40, everything is saved") == 1
    first = run.saved
    assert 0 < first < 40
    # One process goes on where two were stopped, and two where the one was.
    before = len(run.history) + 1
    process = run.start("--resume")
    assert run.waited(process, begun)
    process.send_signal(signal.SIGTERM)
    assert run.ended(process).code == 143
    assert first < run.saved < 40
    ran = run.run("--resume", processes=2)
    assert ran.code == 0, ran.err
    assert apart(differing, straight, run) == {}
    same_history(straight, run)


def send(process: int) -> None:
    os.kill(process, signal.SIGTERM)


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        (("data.batch_size=3", "mode=paired"), "data.batch_size=3 cannot be shared by 2 processes"),
        (("data.batch_size=2", "mode=paired", "data.size=64"), "smaller than a training patch"),
    ],
)
def test_a_mistake_is_told_once_and_nothing_begins(
    training: Make, settings: tuple[str, ...], sentence: str
) -> None:
    run = training("run", "steps=4", *settings)
    ran = run.run(processes=2)
    assert ran.code in (1, 2)
    assert ran.err.count(sentence) == 1
    assert "unexpected" not in ran.err
    assert not run.folder.exists()


def test_a_process_that_is_killed_ends_the_run_and_its_checkpoints_stay(training: Make) -> None:
    run = training("run", "steps=5000", "data.batch_size=2", "mode=generator-only")
    process = run.start(processes=2, real=True)
    assert run.waited(process, lambda: run.saved >= 8)
    workers = sorted(set(run.processes()) - {process.pid})
    os.kill(workers[0], signal.SIGKILL)
    ran = run.ended(process)
    assert ran.code != 0
    assert "unexpected" not in ran.err
    saved = run.saved
    run.given[:] = []
    process = run.start("--resume")
    assert run.waited(process, lambda: run.saved > saved)
    process.terminate()
    assert run.ended(process).code == 143
