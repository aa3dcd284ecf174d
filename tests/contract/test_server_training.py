"""Training through real servers: watched, stopped, killed, gone on with, and used."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from monailabel.client.client import MONAILabelClientException

from srcyc.models.model_file import DEFAULT_MODEL, load_model
from srcyc.training.checkpoint import load_checkpoint

pytestmark = pytest.mark.slow

Tiny = Callable[..., dict[str, Any]]
Refused = Callable[..., str]

#: More than any test waits for.
ENDLESS = 100_000
IMAGES = {"sub-a_T1w", "sub-b_T1w", "sub-c_T1w", "sub-d_T1w"}


@pytest.fixture(scope="module", params=["srcyc", "stock"])
def trainer(
    request: pytest.FixtureRequest,
    serve: Callable[..., Any],
    training_studies: Callable[..., Path],
    tiny_model: Path,
) -> Any:
    server = serve(request.param, training_studies(), model=tiny_model, real=request.param == "stock")
    server.wait_for(lambda: server.client.datastore()["objects"].keys() >= IMAGES, "notice the scans")
    yield server
    server.end()


#: What our own server promises: MONAI Label's kills and forgets, see docs/server.md. What both do with a training that
#: they run is shown by one from its start to the use of its model.
ours = pytest.mark.parametrize("trainer", ["srcyc"], indirect=True)


@pytest.fixture
def hardened(trainer: Any) -> Any:
    return trainer


@pytest.fixture(autouse=True)
def idle(request: pytest.FixtureRequest) -> Any:
    """No test leaves a training to the next."""
    yield
    if "trainer" in request.fixturenames:
        server = request.getfixturevalue("trainer")
        if server.children():
            server.client.train_stop()
            server.wait_for(lambda: not server.children(), "end the training")


def stats(server: Any) -> dict[str, Any]:
    told = server.client.info()["train_stats"]["srcyc"]
    json.dumps(told, allow_nan=False)
    return told


def steps_taken(server: Any, name: str, more_than: int = 0) -> dict[str, Any]:
    """Wait for progress of the training that runs now; until it has begun, the one before is told about."""

    def far_enough() -> Any:
        told = stats(server)
        if told.get("run") != name:
            return None
        assert told["state"] != "failed", told
        return told if told["state"] == "running" and told["step"] > more_than else None

    return server.wait_for(far_enough, f"get beyond step {more_than}")


def saved(server: Any, name: str) -> int:
    """The step of a run's newest checkpoint, each of which can be read."""
    found = sorted((server.model_dir / "runs" / name / "checkpoints").glob("*.pt"))
    for path in found:
        assert load_checkpoint(path)["state"]["done"] == int(path.stem.removeprefix("step-"))
    return max((int(path.stem.removeprefix("step-")) for path in found), default=0)


def check_as_slicer_reads_it(told: dict[str, Any], *, running: bool) -> None:
    """The stock plugin reads these of the first trainer, and takes `total_time` as the end."""
    assert told["total_epochs"] >= 1
    assert 0 <= told["epoch"] <= told["total_epochs"]
    assert 0 <= told["best_metric"] <= 1
    assert ("total_time" in told) == (not running)
    assert told["start_time"] <= told["current_time"]


def test_trainer_s_options(trainer: Any) -> None:
    config = trainer.client.info()["trainers"]["srcyc"]["config"]
    for key, value in config.items():
        assert isinstance(value, str | bool | int | float | list), key
        assert not isinstance(value, list) or all(isinstance(item, str) for item in value), key
    assert config["preset"][0] == "default"
    assert config["run"] == ["continue", "new"]
    assert config["publish"][0] == "if better"


def test_from_start_to_use(trainer: Any, tiny_training: Tiny) -> None:
    """Begin, watch, stop, go on, finish; the next inference uses what was learnt, without a restart."""
    client = trainer.client
    assert client.infer("srcyc", "sub-c_T1w", {"device": "cpu"})[1]["model"]["name"] == "tiny"
    objects = client.datastore()["objects"]
    request = tiny_training(ENDLESS, name="mine", publish="always")
    task = client.train_start("srcyc", request)
    assert task["status"] in ("SUBMITTED", "RUNNING")
    told = steps_taken(trainer, "mine", 8)
    check_as_slicer_reads_it(told, running=True)
    assert client.train_status(check_if_running=True) is True
    assert client.train_status()["status"] == "RUNNING"
    assert told["run"] == "mine"
    assert told["steps"] == ENDLESS
    assert told["terms"] and all(isinstance(value, float) for value in told["terms"].values())
    assert told["remaining"] > 0
    assert told["scans"]["HR"] >= 1 and told["scans"]["LR"] >= 1
    assert [row["step"] for row in told["history"]] == sorted({row["step"] for row in told["history"]})
    validated = trainer.wait_for(lambda: stats(trainer).get("validation"), "validate")
    assert "psnr" in validated

    stopped = client.train_stop()
    assert stopped["status"] == "STOPPED"
    trainer.wait_for(lambda: not trainer.children(), "end its processes")
    assert client.train_status(check_if_running=True) is False
    # What was killed takes a moment to be gone.
    trainer.wait_for(lambda: stats(trainer)["state"] in ("stopped", "interrupted"), "notice its end")
    told = stats(trainer)
    check_as_slicer_reads_it(told, running=False)
    at = saved(trainer, "mine")
    assert at > 0
    if trainer.kind == "srcyc":
        assert told["state"] == "stopped", "asked to, it saves"
        assert at >= told["step"]

    # It goes on where it was, now only until a validation is no better than those before.
    client.train_start("srcyc", tiny_training(ENDLESS, {"early_stopping": 1}, name="mine", publish="always"))

    def finished() -> Any:
        status = client.train_status()["status"]
        assert status in ("SUBMITTED", "RUNNING", "DONE"), client.train_status()
        return status == "DONE"

    trainer.wait_for(finished, "finish", 240)
    told = stats(trainer)
    assert told["state"] == "finished"
    assert told["published"] is True
    assert told["step"] > at
    assert told["history"][0]["step"] < at, "what came before is part of it"
    check_as_slicer_reads_it(told, running=False)
    assert load_model(trainer.model_dir / "mine.safetensors").card.name == "mine"
    assert client.datastore()["objects"].keys() == objects.keys(), "training adds nothing to the datastore"

    before = client.info()["models"]["srcyc"]["config"]["weights"][0]
    assert before != "mine", "training takes nothing into use"
    _, params = client.infer("srcyc", "sub-c_T1w", {"device": "cpu"})
    assert params["activation"]["sha256"] == params["model"]["sha256"]
    _, params = client.infer("srcyc", "sub-c_T1w", {"device": "cpu", "weights": "mine"})
    assert params["model"]["name"] == "mine", "whoever asks for it gets it"
    assert params["activation"] is None
    command = [sys.executable, "-m", "srcyc_app.activation", str(trainer.model_dir)]
    subprocess.run([*command, "mine"], check=True, capture_output=True)
    _, params = client.infer("srcyc", "sub-c_T1w", {"device": "cpu"})
    assert params["model"]["name"] == "mine", "chosen by whoever may"
    assert client.info()["models"]["srcyc"]["config"]["weights"][0] == "mine"
    subprocess.run([*command, "--rollback"], check=True, capture_output=True)
    assert client.info()["models"]["srcyc"]["config"]["weights"][0] == before
    _, params = client.infer("srcyc", "sub-c_T1w", {"device": "cpu", "weights": DEFAULT_MODEL})
    assert params["model"]["name"] == DEFAULT_MODEL, "the one that came with SRCyc can still be chosen"
    (trainer.model_dir / "mine.safetensors").unlink()


@ours
def test_a_worse_model_is_not_published(hardened: Any, tiny_training: Tiny) -> None:
    """The models that come with SRCyc were trained for hours, this one for eight steps."""
    (hardened.model_dir / "tiny.safetensors").rename(hardened.folder / "aside")
    try:
        hardened.client.train_start("srcyc", tiny_training(8, name="worse"))
        hardened.wait_for(lambda: stats(hardened).get("run") == "worse", "begin")
        hardened.wait_for(lambda: stats(hardened).get("state") in ("finished", "failed"), "finish")
        told = stats(hardened)
        assert told["state"] == "finished", told
        assert told["published"] is False
        assert "not better" in told["message"]
        assert not (hardened.model_dir / "worse.safetensors").exists()
        reply = hardened.infer("sub-c_T1w", output="json")
        assert reply.status_code == 409, (
            "the model in use was taken away: no other one takes its place by itself"
        )
        assert "tiny" in reply.json()["detail"]
        reply = hardened.infer("sub-c_T1w", output="json", weights=DEFAULT_MODEL)
        assert reply.json()["model"]["name"] == DEFAULT_MODEL
    finally:
        shutil.move(hardened.folder / "aside", hardened.model_dir / "tiny.safetensors")


@ours
def test_one_training_at_a_time(trainer: Any, tiny_training: Tiny, refused: Refused) -> None:
    client = trainer.client
    client.train_start("srcyc", tiny_training(ENDLESS, name="first"))
    second = tiny_training(4, name="second")
    refused(trainer.post("/train/srcyc", json=second), 429)
    steps_taken(trainer, "first")
    refused(trainer.post("/train/srcyc", json=second), 429)
    with pytest.raises(MONAILabelClientException):
        client.train_start("srcyc", second)
    # MONAI Label would begin with the next one in the queue when somebody presses Stop.
    assert trainer.post("/train/srcyc?enqueue=true", json=second).status_code == 200
    assert client.train_stop()["status"] == "STOPPED"
    trainer.wait_for(lambda: not trainer.children(), "end its processes")
    assert client.train_status(check_if_running=True) is False
    assert not (trainer.model_dir / "runs" / "second").exists()


@ours
def test_stop_without_a_training(trainer: Any) -> None:
    assert trainer.delete("/train/").status_code == 200


@ours
def test_without_thin_scans_there_is_nothing_to_learn(
    trainer: Any, tiny_training: Tiny, refused: Refused
) -> None:
    """Tags decide: with both thin scans set aside, a training is refused, and says what to do.

    MONAI Label starts a process first, which then says it: tests/unit/app/test_training_task.py.
    """

    def tag(image: str, domain: str) -> None:
        reply = trainer.put(
            f"/datastore/image/info?image={image}", data={"info": json.dumps({"domain": domain})}
        )
        assert reply.status_code == 200, reply.text

    for image in ("sub-a_T1w", "sub-b_T1w"):
        tag(image, "neither")
    try:
        assert trainer.client.info()["datastore"]["domains"]["HR"] == 0
        request = tiny_training(8, name="refused")
        sentence = refused(trainer.post("/train/srcyc", json=request), 409, 422, says="HR")
        assert "domain" in sentence
        assert not (trainer.model_dir / "refused.safetensors").exists()
        # A thick scan that is tagged as thin counts as such.
        tag("sub-d_T1w", "HR")
        domains = trainer.client.info()["datastore"]["domains"]
        assert (domains["HR"], domains["LR"]) == (1, 1)
    finally:
        for image in sorted(IMAGES):
            tag(image, "")
    assert trainer.client.info()["datastore"]["domains"]["HR"] == 2


@ours
def test_the_server_is_killed_while_it_trains(trainer: Any, tiny_training: Tiny, hash_tree: Any) -> None:
    """No orphan, no broken file; a server that comes back at once knows of the run and goes on with it."""
    before = hash_tree(trainer.studies)
    request = tiny_training(ENDLESS, name="killed")
    trainer.client.train_start("srcyc", request)
    steps_taken(trainer, "killed", 12)
    orphans = trainer.children()
    assert orphans, "or nothing is tested"
    trainer.kill()
    # At once: the old training needs a moment to see that its server is dead.
    trainer.restart()
    assert hash_tree(trainer.studies) == before
    trainer.client.train_start("srcyc", request)
    trainer.wait_for(lambda: not any(one.is_running() for one in orphans), "leave no orphan")
    at = saved(trainer, "killed")
    assert at > 8
    assert steps_taken(trainer, "killed", at)["step"] > at


@ours
def test_the_server_is_ended_while_it_trains(trainer: Any, tiny_training: Tiny, hash_tree: Any) -> None:
    """It takes the training with it; afterwards everybody is told how to go on, or begins anew."""
    before = hash_tree(trainer.studies)
    runs = trainer.model_dir / "runs"
    trainer.client.train_start("srcyc", tiny_training(ENDLESS, name="ended"))
    steps_taken(trainer, "ended", 12)
    assert trainer.children(), "or nothing is tested"
    assert trainer.terminate() in (0, -signal.SIGTERM, 128 + signal.SIGTERM)
    trainer.wait_for(lambda: not trainer.children(), "leave no process behind")
    assert hash_tree(trainer.studies) == before
    at = saved(trainer, "ended")
    assert at > 8
    assert not list(runs.rglob("*.part"))
    trainer.restart()
    told = stats(trainer)
    assert (told["run"], told["state"]) == ("ended", "stopped")
    assert "start" in told["message"], "it says how to go on"
    check_as_slicer_reads_it(told, running=False)
    assert trainer.client.train_status(check_if_running=True) is False
    trainer.client.train_start("srcyc", tiny_training(ENDLESS, name="ended", run="new"))
    trainer.wait_for(lambda: len(list(runs.glob("ended-*"))) == 1, "put the old run aside")
    steps_taken(trainer, "ended")
    assert saved(trainer, next(runs.glob("ended-*")).name) == at


@ours
def test_a_training_process_is_killed_alone(hardened: Any, tiny_training: Tiny) -> None:
    """As the system's out-of-memory killer does it: the server says so."""
    hardened.client.train_start("srcyc", tiny_training(ENDLESS, name="alone"))
    steps_taken(hardened, "alone", 12)
    for process in hardened.children():
        process.kill()
    hardened.wait_for(lambda: hardened.client.train_status()["status"] == "ERROR", "notice")
    told = stats(hardened)
    assert told["state"] == "interrupted"
    assert "start" in told["message"]
    assert saved(hardened, "alone") > 8
