"""The trainer: real, tiny trainings through the task; stopped, killed, orphaned, refused, published or not."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import psutil
import pytest

import forks

# Loaded before any test: a signal must not come in the midst of it.
import srcyc_app.trainers.running  # noqa: F401
from ended import has_ended
from factories import TINY_TRAINING, save_people, tiny_words
from srcyc.errors import OutputError, SRCycError, StoppedError
from srcyc.models.model_file import DEFAULT_MODEL, load_model, packaged_models
from srcyc.training.checkpoint import load_checkpoint
from srcyc.training.folder import RunFolder
from srcyc.training.watch.recorder import read_history
from srcyc.training.watch.stability import CollapseError
from srcyc_app.models import ModelShelf
from srcyc_app.refusals import Refusal, worded
from srcyc_app.studies.datastore import StudiesFolder
from srcyc_app.trainers.task import UnpairedTraining

linux = pytest.mark.skipif(sys.platform != "linux", reason="needs Linux's processes")

#: Longer than anything here takes.
PATIENCE = 120.0

#: The same as `forks.train` in a process that begins at its beginning.
PROGRAM = """
import json, sys
folder, studies, models, request = sys.argv[1:]
sys.path.append(folder)
import forks
sys.exit(forks.train(studies, models, json.loads(request)))
"""


def tiny(**request: Any) -> dict[str, Any]:
    """A request for a tiny training from random weights."""
    more = request.pop("more", "")
    standard = {"model": "srcyc", "name": "mine", "device": ["cpu"], "initial_model": "none", "steps": "8"}
    return {**standard, "settings": f"{tiny_words()} {more}", **request}


@pytest.fixture(autouse=True)
def quick_figures(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the report's pictures show is tested where they are drawn."""
    forks.draw_nothing(monkeypatch.setattr)


@pytest.fixture(scope="module")
def scans(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two thin and two thick heads of four people."""
    return save_people(tmp_path_factory.mktemp("scans"))


@pytest.fixture
def studies(scans: Path, tmp_path: Path) -> Path:
    """The studies folder, with a result of super-resolution that must never be trained on."""
    folder = tmp_path / "studies"
    folder.mkdir()
    for scan in scans.iterdir():
        os.link(scan, folder / scan.name)
        os.utime(scan, (1_700_000_000,) * 2)
    store = StudiesFolder(str(folder), watch=False, interval=0.02)
    store.store_result("sub-c_T1w", scans / "sub-a_T1w.nii.gz", {})
    return folder


class Place:
    """A model folder, and trainings in it."""

    def __init__(self, studies: Path, models: Path) -> None:
        self.studies = studies
        self.models = models
        self.run = models / "runs" / "mine"
        self.started: list[Any] = []

    def task(self, *, with_packaged: bool = False) -> UnpairedTraining:
        return UnpairedTraining(self.models, ModelShelf(self.models, with_packaged=with_packaged))

    def datastore(self) -> StudiesFolder:
        return StudiesFolder(str(self.studies), watch=False, interval=0.02)

    def train(self, *, with_packaged: bool = False, **request: Any) -> dict[str, Any]:
        """In this process."""
        return self.task(with_packaged=with_packaged)(tiny(**request), self.datastore())

    def check(self, *, with_packaged: bool = False, **request: Any) -> None:
        self.task(with_packaged=with_packaged).check(tiny(**request), self.datastore())

    def refusal(self, **request: Any) -> Refusal:
        with pytest.raises(Refusal) as caught:
            self.check(**request)
        return caught.value

    def start(self, *prefix: str, **request: Any) -> Any:
        """In a process of its own; with a program that starts it, from the beginning."""
        given = (str(self.studies), str(self.models))
        process: Any
        if prefix:
            harness = str(Path(forks.__file__).parent)
            process = subprocess.Popen(
                [*prefix, sys.executable, "-c", PROGRAM, harness, *given, json.dumps(tiny(**request))],
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                start_new_session=True,
            )
        else:
            process = forks.Fork(forks.train, *given, tiny(**request), joined=True)
        self.started.append(process)
        return process

    @property
    def stats(self) -> dict[str, Any]:
        return self.task().stats()

    @property
    def saved(self) -> int:
        paths = (self.run / "checkpoints").glob("step-*.pt")
        return max((int(path.stem.removeprefix("step-")) for path in paths), default=0)

    def reach(self, process: Any, step: int) -> None:
        """Wait until a checkpoint of at least this step is there."""
        wait_for(lambda: self.saved >= step or process.poll() is not None)
        assert process.poll() is None, process.communicate()

    def end_all(self) -> None:
        for process in self.started:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
                process.communicate()


def wait_for(happened: Callable[[], bool]) -> None:
    end = time.monotonic() + PATIENCE
    while not happened():
        assert time.monotonic() < end
        time.sleep(0.01)


def last_line(process: Any) -> str:
    out, _ = process.communicate(timeout=PATIENCE)
    assert "Traceback" not in out
    return out.strip().splitlines()[-1]


@pytest.fixture
def place(studies: Path, tmp_path: Path) -> Iterator[Place]:
    made = Place(studies, tmp_path / "models")
    yield made
    made.end_all()


# -- to the end --------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_training_is_watched_and_its_model_is_published(place: Place) -> None:
    files = {path.name: path.stat().st_mtime_ns for path in place.studies.iterdir()}
    stats = place.train()
    json.dumps(stats, allow_nan=False)
    assert stats["state"] == "finished"
    assert (stats["step"], stats["steps"], stats["epoch"], stats["total_epochs"]) == (8, 8, 1, 1)
    assert 0 < stats["best_metric"] <= 1
    assert stats["best_metric"] == pytest.approx(stats["validation"]["ssim"])
    assert stats["total_time"]
    assert all(isinstance(value, float) for value in stats["terms"].values())
    assert any(name.startswith("cycle_") for name in stats["terms"])
    assert [row["step"] for row in stats["history"]] == [0, 2, 4, 6, 8]
    assert (stats["scans"]["LR"], stats["scans"]["HR"]) == (1, 1)
    assert "sub-c_T1w_sr.nii.gz" in stats["scans"]["left_out"], "results are never trained on"
    assert stats["published"] is True
    assert stats["model"] == "mine"
    assert "nothing was published there yet" in stats["message"]
    model = load_model(place.models / "mine.safetensors")
    assert model.card.name == "mine"
    assert model.card.network == model.network.config
    assert model.card.network.features == TINY_TRAINING["g_hr.features"]
    assert ModelShelf(place.models).default == "mine"
    now = {path.name: path.stat().st_mtime_ns for path in place.studies.iterdir()}
    assert now == files, "the training process writes nothing to the studies"

    again = place.train(mode="generator-only", steps=2)
    assert again["state"] == "finished"
    assert again["steps"] == 2
    kept = [path.name for path in place.run.parent.iterdir() if path.name != "mine"]
    assert len(kept) == 1, "the finished run is kept"
    assert kept[0].startswith("mine-")
    assert load_checkpoint(place.run.parent / kept[0] / "checkpoints" / "step-00000008.pt")


@pytest.mark.slow
def test_a_worse_model_than_the_one_in_use_is_not_published(place: Place) -> None:
    stats = place.train(with_packaged=True, steps=2)
    assert stats["state"] == "finished"
    assert stats["published"] is False
    assert "not better on the held-back scans" in stats["message"]
    assert DEFAULT_MODEL in stats["message"]
    assert not (place.models / "mine.safetensors").exists()
    assert load_model(place.run / "model.safetensors"), "it is kept, though"
    stats = place.train(with_packaged=True, steps=2, publish="always", run="new")
    assert stats["published"] is True
    assert ModelShelf(place.models).default == "mine"


@pytest.mark.slow
def test_training_starts_from_the_default_model_unless_told_otherwise(place: Place) -> None:
    stats = place.train(
        with_packaged=True, initial_model=[DEFAULT_MODEL, "none"], steps=1, mode="generator-only"
    )
    assert stats["state"] == "finished"
    card = load_model(place.run / "model.safetensors").card
    assert card.training is not None and card.training.started_from is not None
    assert card.training.started_from.model_dump() == {
        "name": DEFAULT_MODEL,
        "sha256": load_model(packaged_models()[DEFAULT_MODEL]).sha256,
    }


# -- interrupted -------------------------------------------------------------------------------------------------


@linux
@pytest.mark.slow
def test_stop_saves_and_the_same_request_goes_on_there(place: Place) -> None:
    process = place.start(steps="5000")
    place.reach(process, 4)
    stats = place.stats
    assert stats["state"] == "running"
    assert "total_time" not in stats
    assert stats["remaining"] > 0
    process.terminate()
    said = last_line(process)
    assert process.returncode == 143
    assert "stopped by SIGTERM" in said
    assert "start it again with run: continue" in said
    stopped = place.stats
    assert stopped["state"] == "stopped"
    assert stopped["message"] == said
    assert stopped["total_time"]
    assert not (place.models / "mine.safetensors").exists()
    saved = place.saved
    assert saved >= 4

    process = place.start(steps="5000")
    place.reach(process, saved + 8)
    steps = [row["step"] for row in read_history(place.run)]
    assert steps == sorted(set(steps)), "it went on where it was"
    assert place.stats["best_metric"] > 0
    process.kill()
    process.communicate()
    stats = place.stats
    assert stats["state"] == "interrupted"
    assert "start it again" in stats["message"]
    assert stats["total_time"]

    # Other steps are another run's; those that change no step may differ.
    refusal = place.refusal(steps=6000)
    assert refusal.status_code == 409
    assert "steps was 5000, now 6000" in str(refusal)
    assert "run: new" in str(refusal)
    place.check(steps=5000, more="checkpoint_every=2")

    saved = place.saved
    process = place.start(steps="5000")
    place.reach(process, saved + 4)
    process.send_signal(signal.SIGTERM)
    assert "stopped by SIGTERM" in last_line(process)
    assert place.stats["state"] == "stopped"

    stats = place.train(steps=2, run="new")
    assert stats["state"] == "finished"
    kept = [path for path in place.run.parent.iterdir() if path.name != "mine"]
    assert len(kept) == 1, "the unfinished run is put aside"
    assert not (kept[0] / "prepared-scans").exists(), "without the copies of the scans"


@linux
@pytest.mark.slow
def test_a_stopped_run_finishes_to_the_same_end(place: Place) -> None:
    straight = place.train(steps=40, name="straight")
    process = place.start(steps=40)
    place.reach(process, 4)
    process.terminate()
    process.communicate()
    assert 0 < place.saved < 40
    stats = place.train(steps=40)
    assert stats["state"] == "finished"
    for key in ("best_metric", "best_step", "validation", "terms"):
        assert stats[key] == straight[key]
    networks = [
        load_checkpoint(place.models / "runs" / name / "checkpoints" / "step-00000040.pt")["networks"]["g_hr"]
        for name in ("mine", "straight")
    ]
    assert all(networks[0][key].equal(networks[1][key]) for key in networks[0])


@linux
@pytest.mark.slow
def test_it_ends_with_its_server_and_saves(place: Place, tmp_path: Path) -> None:
    """The parent is killed, as a server can be; nobody else ends the training."""
    parent = "import subprocess, sys; subprocess.run(sys.argv[1:])"
    process = place.start(sys.executable, "-c", parent, steps=5000)
    place.reach(process, 4)
    pid = place.stats["pid"]
    assert pid != process.pid
    os.kill(process.pid, signal.SIGKILL)
    trainer = psutil.Process(pid)
    process.communicate(timeout=PATIENCE)
    wait_for(lambda: has_ended(trainer))
    stats = place.stats
    assert stats["state"] == "stopped"
    assert "SIGTERM" in stats["message"]
    assert place.saved >= stats["step"], "the step that it was in is saved"


@linux
@pytest.mark.slow
def test_a_second_training_waits_for_the_first_to_let_go(place: Place) -> None:
    first = place.start(steps=5000)
    place.reach(first, 4)
    second = place.start(steps=5000)
    time.sleep(1)
    first.kill()
    first.communicate()
    place.reach(second, place.saved + 4)
    assert place.stats["pid"] == second.pid


def test_one_that_waits_for_another_can_be_stopped(place: Place) -> None:
    before = signal.getsignal(signal.SIGTERM)

    def stop() -> None:
        # Not before it would be heard: it would end the tests.
        wait_for(lambda: signal.getsignal(signal.SIGTERM) is not before)
        os.kill(os.getpid(), signal.SIGTERM)

    with RunFolder(place.run).claimed(), ThreadPoolExecutor(1) as pool:
        stopping = pool.submit(stop)
        with pytest.raises(StoppedError, match="nothing had begun") as caught:
            place.train()
        stopping.result()
    assert caught.value.number == signal.SIGTERM
    assert place.stats["state"] == "none"


@linux
@pytest.mark.slow
def test_monai_labels_own_program_says_in_a_sentence_what_cannot_be_met(place: Place) -> None:
    """What it does with a request that can be: tests/contract/test_server_training.py."""
    import srcyc_app

    environment = {
        **os.environ,
        "MONAI_LABEL_APP_DIR": str(Path(srcyc_app.__file__).parent),
        "MONAI_LABEL_STUDIES": str(place.studies),
        "MONAI_LABEL_APP_CONF": json.dumps({"model_dir": str(place.models), "packaged_models": "false"}),
        "MONAI_LABEL_DATASTORE_AUTO_RELOAD": "false",
    }
    command = [sys.executable, "-m", "monailabel.interfaces.utils.app", "-m", "train", "-r"]
    process = subprocess.Popen(
        [*command, json.dumps(tiny(settings="data.size=true"))],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        cwd=place.models.parent,
    )
    place.started.append(process)
    out, _ = process.communicate(timeout=PATIENCE)
    assert process.returncode == 2, out
    assert "data.size" in out.strip().splitlines()[-1]
    assert "Traceback" not in out


# -- broken off --------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_training_that_collapses_says_so_and_keeps_what_it_had(place: Place) -> None:
    """The first time a cycle term grows counts as a collapse here."""
    often = "report_every=1 validate_every=2 checkpoint_every=1 stability.patience=1"
    with pytest.raises(CollapseError):
        place.train(steps=30, more=f"{often} stability.blow_up=1.000001")
    stats = place.stats
    assert stats["state"] == "failed"
    assert "times its best" in stats["message"]
    assert "are kept" in stats["message"]
    assert stats["total_time"]
    saved = place.saved
    assert saved > 0
    assert not (place.models / "mine.safetensors").exists()
    # How collapse is judged changes no step: the same run may go on.
    stats = place.train(steps=30, more=f"{often} stability.blow_up=0")
    assert (stats["state"], stats["step"]) == ("finished", 30)
    steps = [row["step"] for row in read_history(place.run)]
    assert steps == list(range(31))


def test_what_only_the_scans_themselves_tell_is_in_the_status(place: Place) -> None:
    """The header of this scan is fine, its voxels are cut off."""
    path = place.studies / "sub-b_T1w.nii.gz"
    whole = path.read_bytes()
    path.unlink()
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(SRCycError) as caught:
        place.train()
    stats = place.stats
    assert stats["state"] == "failed"
    assert stats["message"] == worded(caught.value)
    assert "1 person(s) with usable HR scans, 2 needed" in stats["message"]
    assert "sub-b_T1w.nii.gz" in stats["message"]
    assert "--" not in stats["message"], "no options of the command line"
    assert not (place.run / "config.yaml").exists()


def _small_disk() -> bool:
    try:
        mount = ["unshare", "-Urm", "sh", "-c", "mount -t tmpfs -o size=1m tmpfs /mnt"]
        return subprocess.run(mount, capture_output=True, check=False).returncode == 0
    except OSError:
        return False


@pytest.mark.slow
@pytest.mark.skipif(
    sys.platform != "linux" or not _small_disk(), reason="no tmpfs can be mounted by `unshare -Urm`"
)
def test_a_full_disk_loses_nothing(place: Place, tmp_path: Path) -> None:
    """The disk is a small one that only the training sees; a copy of it is looked at afterwards."""
    disk, copy = tmp_path / "models", tmp_path / "copy"
    disk.mkdir()
    script = f'mount -t tmpfs -o size=1600k tmpfs {disk}; "$@"; code=$?; cp -a {disk} {copy}; exit $code'
    process = place.start(
        *("unshare", "-Urm", "sh", "-c", script, "sh"), steps=400, more="keep_checkpoints=20"
    )
    said = last_line(process)
    assert process.returncode == 2
    assert "No space left" in said
    place = Place(place.studies, copy)
    stats = place.stats
    assert stats["state"] == "failed"
    assert stats["message"] == said
    assert place.saved >= 4
    saved = place.saved
    stats = place.train(steps=400, more="keep_checkpoints=2 early_stopping=1")
    assert stats["state"] == "finished"
    assert stats["step"] > saved


def test_a_folder_that_cannot_be_written_is_refused(place: Place) -> None:
    place.models.mkdir()
    (place.models / "runs").write_text("in the way")
    with pytest.raises(OutputError, match="cannot be written"):
        place.train()
    assert place.stats["state"] == "none"


# -- refused -----------------------------------------------------------------------------------------------------


def test_the_request_as_the_stock_client_and_as_slicer_send_it(place: Place) -> None:
    config = place.task().config()
    assert all(isinstance(value, str | list) for value in config.values())
    assert all(
        isinstance(item, str) for value in config.values() if isinstance(value, list) for item in value
    )
    assert config["preset"][0] == "default"
    assert config["initial_model"][-1] == "none"
    place.task().check(config, place.datastore())
    chosen = {key: value[0] if isinstance(value, list) else value for key, value in config.items()}
    place.task().check({**chosen, "model": "srcyc", "local_rank": 0, "gpus": "all"}, place.datastore())
    place.task().check({"model": "srcyc"}, place.datastore())


@pytest.mark.parametrize(
    ("request_", "status", "says"),
    [
        ({"preset": "nobody"}, 422, "preset"),
        ({"name": "../x"}, 422, "name"),
        ({"name": "/etc/x"}, 422, "name"),
        ({"name": ""}, 422, "name"),
        ({"name": {"a": 1}}, 422, "name"),
        ({"name": DEFAULT_MODEL}, 409, "comes with SRCyc"),
        ({"run": "again"}, 422, "run"),
        ({"initial_model": "nobody"}, 404, "nobody"),
        ({"initial_model": "/etc/passwd"}, 404, "not on this server"),
        ({"steps": "many"}, 422, "steps"),
        ({"steps": 0}, 422, "steps"),
        ({"steps": float("inf")}, 422, "steps"),
        ({"mode": "magic"}, 422, "mode"),
        ({"device": "cuda:99"}, 422, "cuda:99"),
        ({"device": "tpu"}, 422, "tpu"),
        ({"publish": "never"}, 422, "publish"),
        ({"settings": "nothing"}, 422, "settings"),
        ({"settings": "data.size=2"}, 422, "data.size"),
        ({"settings": "'data.size=2"}, 422, "settings"),
        ({"settings": "x" * 5000}, 422, "settings"),
        ({"settings": {"a": 1}}, 422, "settings"),
        ({"settings": "no.such.key=1"}, 422, "no"),
        ({"settings": "initial_model=/etc/passwd"}, 422, "initial_model"),
        ({"settings": "perceptual.weights=/etc/passwd"}, 422, "perceptual.weights"),
        ({"settings": 'perceptual={"w\\u0065ights":"/etc/passwd"}'}, 422, "perceptual"),
        ({"settings": "validation.lpips=/etc/passwd"}, 422, "validation.lpips"),
        ({"settings": "data.workers=100000"}, 422, "data.workers"),
        ({"settings": ["data.size=16", "data.workers=100000"]}, 422, "data.workers"),
    ],
)
def test_requests_that_cannot_be_met_are_refused_at_once(
    place: Place, request_: dict[str, Any], status: int, says: str
) -> None:
    refusal = place.refusal(with_packaged=True, **request_)
    assert refusal.status_code == status
    assert says in str(refusal)
    assert "--" not in str(refusal)
    assert not place.models.exists()


def test_scans_that_cannot_be_enough_are_refused_with_what_to_do(place: Place) -> None:
    store = place.datastore()
    store.update_image_info("sub-a_T1w", {"domain": "neither"})
    refusal = place.refusal()
    assert refusal.status_code == 422
    assert "1 person(s) (sub-b)" in str(refusal)
    assert "person" in str(refusal)
    place.check(settings="data.validation_fraction=0")
    store.update_image_info("sub-b_T1w", {"domain": "neither"})
    assert "no thin-slice (HR) scan" in str(place.refusal())
    assert '{"domain": "HR"}' in str(place.refusal())
    for scan, domain in (("a", ""), ("b", ""), ("c", "neither"), ("d", "neither")):
        store.update_image_info(f"sub-{scan}_T1w", {"domain": domain})
    assert "no thick-slice (LR) scan" in str(place.refusal())
    assert "generator-only" in str(place.refusal())
    place.check(mode="generator-only")
    store.update_image_info("sub-a_T1w", {"person": "sub-b"})
    assert "1 person(s) (sub-b)" in str(place.refusal(mode="generator-only"))
    with pytest.raises(Refusal) as caught:
        place.train()
    stats = place.stats
    assert (stats["state"], stats["message"]) == ("failed", str(caught.value))


def test_an_empty_studies_folder_is_refused(place: Place, tmp_path: Path) -> None:
    place.studies = tmp_path / "empty"
    assert "no thin-slice (HR) scan" in str(place.refusal())
