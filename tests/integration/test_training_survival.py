"""Trainings that are killed, stopped, run out of disk or numbers: what was done is kept, and they can go on."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from srcyc.models.model_file import ModelCard, load_model
from srcyc.training.checkpoint import load_checkpoint

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(sys.platform != "linux", reason="looks at processes in /proc"),
]

Training = Any
Make = Callable[..., Training]
Differing = Callable[..., dict[str, float]]

STEPS, INTERVAL = 260, 4
KILLS_EARLY, KILLS_IN_TRAINING = 6, 17
#: As many steps as there are faults while it trains need, validated often, so that models are written often.
FEW_STEPS = 32
FEW = (f"steps={FEW_STEPS}", "validate_every=4")


def check_readable(run: Training, of: int = STEPS) -> None:
    """Whatever stands under its final name can be read."""
    for path in run.checkpoints:
        assert load_checkpoint(path)["state"]["done"] == int(path.stem.removeprefix("step-"))
    if (run.folder / "model.safetensors").exists():
        load_model(run.folder / "model.safetensors")
    if (run.folder / "history.csv").exists():
        steps = [int(row["step"]) for row in run.history]
        assert steps == sorted(set(steps))
        assert steps[-1] - run.saved <= INTERVAL, "no more than one interval is lost"
    if (run.folder / "config.yaml").exists():
        assert yaml.safe_load((run.folder / "config.yaml").read_text())["steps"] == of
        assert json.loads((run.folder / "scans.json").read_text())["hr"]


def going_on(run: Training) -> list[str]:
    """How it is started again. Before config.yaml stands there is no run, and it begins anew."""
    return ["--resume"] if (run.folder / "config.yaml").exists() else []


def nobody_left(run: Training, within: float = 60.0) -> bool:
    end = time.monotonic() + within
    while run.processes():
        if time.monotonic() > end:
            return False
        time.sleep(0.1)
    return True


#: Where a run is killed, one after the other, and whether the next one goes on (or nothing had begun).
FAULTS = [
    ("half written", ".npy", False),
    ("renamed", "scans.json", False),
    ("not renamed", "config.yaml", False),
    ("renamed", "config.yaml", True),
    ("half written", "model.safetensors", True),
    ("half written", "step-", True),
    ("not renamed", "step-", True),
    ("renamed", "history.csv", True),
    ("renamed", "step-", True),
    ("half written", "report.md", True),
    ("not renamed", "curves.png", True),
]


def test_killed_wherever_a_file_is_written_it_goes_on_to_the_same_end(
    training: Make, differing: Differing
) -> None:
    """The second file of each kind that a process writes, so that every process gets on a little."""
    straight, run = (training(name, *FEW) for name in ("straight", "killed"))
    assert straight.run().code == 0
    for fault, name, begun in FAULTS:
        before = run.saved
        # A run's last files are written once.
        number = 1 if name in ("scans.json", "config.yaml", "report.md", "curves.png") else 2
        process = run.start(*going_on(run), dies=(fault, name, number))
        ran = run.ended(process)
        assert ran.code == -signal.SIGKILL, (fault, name, ran)
        assert (run.folder / "config.yaml").exists() == begun, (fault, name)
        assert run.saved >= before
        check_readable(run, FEW_STEPS)
    assert run.saved == FEW_STEPS, "the last ones while the report was drawn"
    assert nobody_left(run)
    ran = run.run("--resume")
    assert ran.code == 0, ran.err
    same_end(straight, run, differing)


def timeless(card: ModelCard) -> ModelCard:
    """A card without the seconds that training took."""
    assert card.training is not None
    return card.model_copy(update={"training": card.training.model_copy(update={"seconds": None})})


def same_end(straight: Training, run: Training, differing: Differing) -> None:
    assert not list(run.folder.rglob("*.part")), "nothing half-written is left"
    assert differing(straight.last, run.last) == {}
    assert run.history == straight.history
    models = [load_model(one.folder / "model.safetensors") for one in (straight, run)]
    straight_card, card = (timeless(model.card) for model in models)
    assert straight_card == card
    assert differing(*(model.network.state_dict() for model in models)) == {}


def test_real_processes_that_are_killed_go_on_and_leave_none_behind(
    training: Make, differing: Differing
) -> None:
    """While Python starts, while scans are prepared, and in the midst of training; at more moments: `make test-all`."""
    straight, run = (training(name, *FEW) for name in ("straight", "killed"))
    assert straight.run().code == 0
    process = run.start(real=True)
    time.sleep(0.3)
    assert process.poll() is None
    process.kill()
    process.communicate()
    assert not run.folder.exists(), "nothing began"
    process = run.start()
    assert run.waited(process, (run.folder / "prepared-scans").exists)
    process.kill()
    process.communicate()
    process = run.start(*going_on(run), real=True)
    assert run.waited(process, lambda: run.saved >= INTERVAL)
    process.kill()
    process.communicate()
    assert nobody_left(run), "loader processes end with their trainer"
    check_readable(run, FEW_STEPS)
    assert INTERVAL <= run.saved < FEW_STEPS, "it was killed while it trained"
    ran = run.run("--resume")
    assert ran.code == 0, ran.err
    same_end(straight, run, differing)


@pytest.mark.exhaustive
@pytest.mark.timeout(1800)
def test_kills_at_random_moments_lose_no_more_than_an_interval(training: Make, differing: Differing) -> None:
    """SIGKILL, while Python starts, scans are prepared, steps are taken, files are written, the report is drawn."""
    straight, run = (training(name, f"steps={STEPS}") for name in ("straight", "killed"))
    assert straight.run().code == 0
    rng = random.Random(1)
    config, prepared, history = (run.folder / n for n in ("config.yaml", "prepared-scans", "history.csv"))

    def kill(process: Any, what: str) -> None:
        assert process.poll() is None, (what, process.communicate())
        process.kill()
        process.communicate()
        check_readable(run)
        killed.append(what)

    killed: list[str] = []
    for number in range(KILLS_EARLY):
        process = run.start(*going_on(run), real=True)
        if number == 0:
            time.sleep(rng.uniform(0.1, 2.0))
            kill(process, "starting")
            assert not config.exists()
        elif number < 3:
            assert run.waited(process, prepared.exists)
            time.sleep(rng.uniform(0, 0.1))
            kill(process, "preparing scans")
        else:
            assert run.waited(process, (config if number < 5 else history).exists)
            kill(process, "before the first checkpoint")
    interval = float(straight_seconds(straight)) * INTERVAL / STEPS
    for _ in range(KILLS_IN_TRAINING):
        before = run.saved
        process = run.start(*going_on(run), real=True)
        assert run.waited(process, lambda before=before: run.saved > before)
        time.sleep(rng.uniform(0, 2 * interval))
        kill(process, "training")
        assert run.saved > before
    assert run.saved < STEPS, "it was killed while it trained"
    process = run.start("--resume")
    assert run.waited(process, lambda: run.saved == STEPS)
    kill(process, "drawing the report")

    assert len(killed) >= 20
    assert nobody_left(run), "loader processes end with their trainer"
    ran = run.run("--resume")
    assert ran.code == 0, ran.err
    same_end(straight, run, differing)


def straight_seconds(run: Training) -> str:
    return (run.folder / "history.csv").read_text().splitlines()[-1].split(",")[1]


def test_a_stop_saves_where_it_is(training: Make, differing: Differing) -> None:
    """Ctrl-C and a container's end reach every process of the group, the loader's among them."""
    settings = ("steps=30", "checkpoint_every=1000", "mode=paired")
    straight = training("straight", *settings)
    assert straight.run().code == 0
    for number, code in ((signal.SIGTERM, 143), (signal.SIGINT, 130)):
        for send in (os.kill, os.killpg):
            run = training(f"{number.name}-{send.__name__}", *settings)
            check_stop(run, number, send, code)
        ran = run.run("--resume")
        assert ran.code == 0, ran.err
        assert differing(straight.last, run.last) == {}
        assert run.history == straight.history


def check_stop(run: Training, number: signal.Signals, send: Callable[[int, int], None], code: int) -> None:
    process = run.start()
    assert run.waited(process, lambda: (run.folder / "history.csv").exists() and len(run.history) > 2)
    send(process.pid, number)
    ran = run.ended(process)
    assert ran.code == code
    assert f"stopped by {number.name} after step {run.saved} of 30" in ran.sentence
    assert "--resume" in ran.sentence
    assert 0 < run.saved < 30
    assert nobody_left(run)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_stop_before_the_first_step_leaves_a_run_that_can_go_on(
    training: Make, number: signal.Signals
) -> None:
    run = training("early", "steps=2", "mode=generator-only")
    process = run.start()
    assert run.waited(process, (run.folder / "config.yaml").exists)
    process.send_signal(number)
    assert run.ended(process).code == 128 + number
    ran = run.run("--resume")
    assert ran.code == 0, ran.err
    assert run.saved == 2


def test_two_trainings_do_not_share_a_folder(training: Make) -> None:
    first, second = (
        training("run", "steps=5000", "mode=generator-only"),
        training("run", "steps=4", "mode=paired"),
    )
    process = first.start()
    assert first.waited(process, lambda: bool(first.checkpoints))
    for arguments in ((), ("--resume",)):
        ran = second.run(*arguments)
        assert ran.code == 2
        assert "another process is training here" in ran.sentence
    assert process.poll() is None
    process.terminate()
    assert first.ended(process).code == 143
    check = yaml.safe_load((first.folder / "config.yaml").read_text())
    assert check["steps"] == 5000, "the first one's"


def test_a_loss_that_is_no_number_ends_the_run(training: Make) -> None:
    """Really: from the seventh step on, slices are so noisy that their squared error overflows."""
    often = (
        "checkpoint_every=1",
        "validate_every=2",
        "steps=300",
        "data.held_back=[sub-a]",
        "data.spoil.begin=6",
        "data.spoil.full=7",
        "data.spoil.chance=1",
        "data.spoil.noise_chance=1",
        "data.spoil.noise=1e30",
    )
    run = training("run", "mode=generator-only", *often)
    ran = run.run()
    assert ran.code == 1, ran.err
    assert "not finite" in ran.sentence
    assert "are kept" in ran.sentence
    assert run.saved > 2, "it went well for some steps"
    for path in run.checkpoints:
        for weights in load_checkpoint(path)["networks"].values():
            assert all(bool(torch.isfinite(value).all()) for value in weights.values())
    best = load_model(run.folder / "model.safetensors").card.training.step
    assert 0 < best <= run.saved


def tmpfs_works() -> bool:
    try:
        done = subprocess.run(
            ["unshare", "-Urm", "sh", "-c", "mount -t tmpfs -o size=1m tmpfs /mnt"],
            capture_output=True,
            check=False,
        )
    except OSError:
        return False
    return done.returncode == 0


@pytest.mark.skipif(
    sys.platform != "linux" or not tmpfs_works(), reason="no tmpfs can be mounted by `unshare -Urm`"
)
@pytest.mark.parametrize(
    ("kilobytes", "full_while"), [(300, "preparing scans"), (1600, "training")], ids=["preparing", "training"]
)
def test_a_full_disk(
    training: Make, differing: Differing, tmp_path: Path, kilobytes: int, full_while: str
) -> None:
    """The disk is a small one that only the training sees; a copy of it is looked at afterwards."""
    settings = ("steps=40", "keep_checkpoints=9", "mode=paired")
    disk, copy = tmp_path / "disk", tmp_path / "copy"
    disk.mkdir()
    small = training("small", *settings, folder=disk / "run")
    script = (
        f'mount -t tmpfs -o size={kilobytes}k tmpfs {disk}; "$@"; code=$?; cp -a {disk} {copy}; exit $code'
    )
    ran = small.run(prefix=["unshare", "-Urm", "sh", "-c", script, "sh"])
    assert ran.code == 2, ran.err
    assert str(disk / "run") in ran.sentence
    assert "No space left" in ran.sentence
    assert "free some space" in ran.sentence
    if full_while == "preparing scans":
        assert not (copy / "run").exists(), "nothing began"
        return
    assert "step-" in ran.sentence or "history.csv" in ran.sentence or "tensorboard" in ran.sentence
    run = training("copy", *settings, folder=copy / "run")
    assert run.saved >= INTERVAL
    assert not list(run.folder.rglob("*.part"))
    for path in run.checkpoints:
        load_checkpoint(path)
    load_model(run.folder / "model.safetensors")
    # The disk is larger now.
    ran = run.run("--resume")
    assert ran.code == 0, ran.err
    straight = training("straight", *settings)
    assert straight.run().code == 0
    assert differing(straight.last, run.last) == {}
    assert run.history == straight.history
    shutil.rmtree(copy)
