"""Training through real servers: watched, stopped, killed, gone on with, and used."""

from __future__ import annotations

import json
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from monailabel.client.client import MONAILabelClientException

from srcyc.inference.model_file import load_model
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
    server = serve(request.param, training_studies(), model=tiny_model)
    server.wait_for(lambda: server.client.datastore()["objects"].keys() >= IMAGES, "notice the scans")
    yield server
    server.end()


@pytest.fixture
def hardened(trainer: Any) -> Any:
    if trainer.kind != "srcyc":
        pytest.skip("MONAI Label's own server kills and forgets: see docs/server.md")
    return trainer


@pytest.fixture(autouse=True)
def idle(request: pytest.FixtureRequest) -> Any:
    """No test leaves a training to the next."""
    yield
    if "trainer" in request.fixturenames:
        server = request.getfixturevalue("trainer")
        if server.children():
            server.client.train_stop()
            server.wait_for(lambda: not server.children(), "end the training", 90)


def stats(server: Any) -> dict[str, Any]:
    told = server.client.info()["train_stats"]["srcyc"]
    json.dumps(told, allow_nan=False)
    return told


def steps_taken(server: Any, more_than: int = 0) -> dict[str, Any]:
    """Wait for progress of the training that runs now."""

    def far_enough() -> Any:
        told = stats(server)
        if told.get("state") == "failed":
            raise AssertionError(told)
        return told if told.get("state") == "running" and told.get("step", 0) > more_than else None

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
    request = tiny_training(600, name="mine", publish="always")
    task = client.train_start("srcyc", request)
    assert task["status"] in ("SUBMITTED", "RUNNING")
    told = steps_taken(trainer, 8)
    check_as_slicer_reads_it(told, running=True)
    assert client.train_status(check_if_running=True) is True
    assert client.train_status()["status"] == "RUNNING"
    assert told["run"] == "mine"
    assert told["steps"] == 600
    assert told["terms"] and all(isinstance(value, float) for value in told["terms"].values())
    assert told["remaining"] > 0
    assert told["scans"]["HR"] >= 1 and told["scans"]["LR"] >= 1
    assert [row["step"] for row in told["history"]] == sorted({row["step"] for row in told["history"]})
    validated = trainer.wait_for(lambda: stats(trainer).get("validation"), "validate")
    assert "psnr" in validated

    stopped = client.train_stop()
    assert stopped["status"] == "STOPPED"
    trainer.wait_for(lambda: not trainer.children(), "end its processes", 60)
    assert client.train_status(check_if_running=True) is False
    told = stats(trainer)
    assert told["state"] in ("stopped", "interrupted")
    check_as_slicer_reads_it(told, running=False)
    at = saved(trainer, "mine")
    assert 0 < at < 600
    if trainer.kind == "srcyc":
        assert told["state"] == "stopped", "asked to, it saves"
        assert at >= told["step"]

    client.train_start("srcyc", request)
    assert steps_taken(trainer, at)["step"] > at, "it goes on where it was"

    def finished() -> Any:
        status = client.train_status()["status"]
        assert status in ("RUNNING", "DONE"), client.train_status()
        return status == "DONE"

    trainer.wait_for(finished, "finish", 240)
    told = stats(trainer)
    assert told["state"] == "finished"
    assert told["published"] is True
    assert told["step"] == 600
    check_as_slicer_reads_it(told, running=False)
    assert load_model(trainer.model_dir / "mine.safetensors").card.name == "mine"
    assert client.datastore()["objects"].keys() == objects.keys(), "training adds nothing to the datastore"

    _, params = client.infer("srcyc", "sub-c_T1w", {"device": "cpu"})
    assert params["model"]["name"] == "mine", "the newest retrained model is the default"
    assert client.info()["models"]["srcyc"]["config"]["weights"][0] == "mine"
    _, params = client.infer("srcyc", "sub-c_T1w", {"device": "cpu", "weights": "srcyc-t1"})
    assert params["model"]["name"] == "srcyc-t1", "the one that came with SRCyc can still be chosen"
    (trainer.model_dir / "mine.safetensors").unlink()


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
        assert hardened.infer("sub-c_T1w", output="json").json()["model"]["name"] == "srcyc-t1"
    finally:
        shutil.move(hardened.folder / "aside", hardened.model_dir / "tiny.safetensors")


def test_one_training_at_a_time(trainer: Any, tiny_training: Tiny, refused: Refused) -> None:
    client = trainer.client
    client.train_start("srcyc", tiny_training(ENDLESS, name="first"))
    refused(trainer.post("/train/srcyc", json=tiny_training(4, name="second")), 429)
    with pytest.raises(MONAILabelClientException):
        client.train_start("srcyc", tiny_training(4, name="second"))
    steps_taken(trainer)
    refused(trainer.post("/train/srcyc", json=tiny_training(4, name="second")), 429)
    assert client.train_stop()["status"] == "STOPPED"
    trainer.wait_for(lambda: not trainer.children(), "end its processes", 60)
    assert not (trainer.model_dir / "runs" / "second").exists()


def test_a_training_that_waits_does_not_start_after_a_stop(hardened: Any, tiny_training: Tiny) -> None:
    """MONAI Label begins with the next one in the queue when somebody presses Stop."""
    hardened.client.train_start("srcyc", tiny_training(ENDLESS, name="before"))
    assert hardened.post("/train/srcyc?enqueue=true", json=tiny_training(4, name="behind")).status_code == 200
    steps_taken(hardened)
    hardened.client.train_stop()
    hardened.wait_for(lambda: not hardened.children(), "end its processes", 60)
    assert not (hardened.model_dir / "runs" / "behind").exists()
    assert hardened.client.train_status(check_if_running=True) is False


def test_stop_without_a_training(trainer: Any) -> None:
    assert trainer.delete("/train/").status_code == 200


def test_without_thin_scans_there_is_nothing_to_learn(
    trainer: Any, tiny_training: Tiny, refused: Refused
) -> None:
    """Tags decide: with both thin scans set aside, a training is refused, and says what to do."""

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
        reply = trainer.post("/train/srcyc", json=request)
        if trainer.kind == "srcyc":
            sentence = refused(reply, 409, 422, says="HR")
            assert "domain=HR" in sentence
        else:
            # MONAI Label starts a process first, and only then asks.
            trainer.wait_for(lambda: trainer.client.train_status()["status"] == "ERROR", "refuse")
            assert "HR" in "\n".join(trainer.client.train_status()["details"])
        assert not (trainer.model_dir / "refused.safetensors").exists()
        # A thick scan that is tagged as thin counts as such.
        tag("sub-d_T1w", "HR")
        domains = trainer.client.info()["datastore"]["domains"]
        assert (domains["HR"], domains["LR"]) == (1, 1)
    finally:
        for image in sorted(IMAGES):
            tag(image, "")
    assert trainer.client.info()["datastore"]["domains"]["HR"] == 2


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_the_server_ends_while_it_trains(
    trainer: Any, tiny_training: Tiny, hash_tree: Callable[..., dict[str, str]], number: signal.Signals
) -> None:
    """No orphan, no broken file; the restarted server knows of the run and goes on with it."""
    if trainer.kind == "stock" and number is signal.SIGINT:
        pytest.skip("the same as SIGTERM there")
    name = f"run-{number.name}"
    before = hash_tree(trainer.studies)
    request = tiny_training(ENDLESS, name=name)
    trainer.client.train_start("srcyc", request)
    steps_taken(trainer, 12)
    assert trainer.children(), "or nothing is tested"
    if number is signal.SIGKILL:
        trainer.kill()
    else:
        assert trainer.terminate(number) in (0, -number, 128 + number)
    trainer.wait_for(lambda: not trainer.children(), "leave no process behind", 15)
    assert hash_tree(trainer.studies) == before
    at = saved(trainer, name)
    assert at > 8
    assert not list((trainer.model_dir / "runs" / name).rglob("*.part"))
    json.loads((trainer.model_dir / "runs" / name / "status.json").read_text())

    trainer.restart()
    told = stats(trainer)
    assert told["run"] == name
    assert told["state"] in ("stopped", "interrupted")
    assert "start" in told["message"], "it says how to go on"
    check_as_slicer_reads_it(told, running=False)
    assert trainer.client.train_status(check_if_running=True) is False
    trainer.client.train_start("srcyc", request)
    assert steps_taken(trainer, at)["step"] > at
    trainer.client.train_stop()
    trainer.wait_for(lambda: not trainer.children(), "end its processes", 60)
    assert saved(trainer, name) >= at


def test_a_server_that_comes_back_at_once_waits_for_the_run_folder(
    hardened: Any, tiny_training: Tiny
) -> None:
    """The old training needs a moment to see that its server is dead; the new one must not fail for that."""
    request = tiny_training(ENDLESS, name="at-once")
    hardened.client.train_start("srcyc", request)
    at = steps_taken(hardened, 4)["step"]
    hardened.kill()
    hardened.restart()
    hardened.client.train_start("srcyc", request)
    assert steps_taken(hardened, at)["step"] > at


def test_a_training_process_that_is_killed_alone(hardened: Any, tiny_training: Tiny) -> None:
    """As the system's out-of-memory killer does it: the server says so, and the run can go on."""
    request = tiny_training(ENDLESS, name="alone")
    hardened.client.train_start("srcyc", request)
    steps_taken(hardened, 12)
    for process in hardened.children():
        process.kill()
    hardened.wait_for(lambda: hardened.client.train_status()["status"] == "ERROR", "notice", 20)
    told = stats(hardened)
    assert told["state"] == "interrupted"
    at = saved(hardened, "alone")
    hardened.client.train_start("srcyc", request)
    assert steps_taken(hardened, at)["step"] > at


def test_a_new_run_keeps_the_old_one(hardened: Any, tiny_training: Tiny) -> None:
    runs = hardened.model_dir / "runs"
    hardened.client.train_start("srcyc", tiny_training(ENDLESS, name="again"))
    steps_taken(hardened, 4)
    hardened.client.train_stop()
    hardened.wait_for(lambda: not hardened.children(), "end its processes", 60)
    at = saved(hardened, "again")
    hardened.client.train_start("srcyc", tiny_training(ENDLESS, name="again", run="new"))
    hardened.wait_for(lambda: len(list(runs.glob("again-*"))) == 1, "put the old run aside")
    assert steps_taken(hardened)["step"] <= max(at, 50), "it began anew"
    aside = next(runs.glob("again-*"))
    assert saved(hardened, aside.name) == at
