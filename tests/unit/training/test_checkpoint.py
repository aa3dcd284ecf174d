from __future__ import annotations

import random
import resource
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from srcyc.errors import ModelError
from srcyc.training.checkpoint import Checkpoints, load_checkpoint, save_checkpoint


def test_a_checkpoint_comes_back(tmp_path: Path) -> None:
    state = {"step": 3, "weights": {"a": torch.arange(4.0)}, "config": "{}"}
    save_checkpoint(state, tmp_path / "checkpoint.pt")
    loaded = load_checkpoint(tmp_path / "checkpoint.pt")
    assert loaded["step"] == 3
    assert torch.equal(loaded["weights"]["a"], state["weights"]["a"])
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint.pt"]


@pytest.mark.parametrize("content", [b"", b"no checkpoint", b"PK\x03\x04 truncated"])
def test_an_unreadable_checkpoint_is_refused_by_name(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "checkpoint.pt"
    path.write_bytes(content)
    with pytest.raises(ModelError, match=r"checkpoint\.pt: not a readable checkpoint"):
        load_checkpoint(path)


def test_a_missing_checkpoint_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"checkpoint\.pt: not a readable checkpoint"):
        load_checkpoint(tmp_path / "checkpoint.pt")


def test_any_damage_is_noticed_or_harmless(tmp_path: Path) -> None:
    """Cut off anywhere, or with bytes changed: an error with a name, or the state as it was saved."""
    path, state = tmp_path / "checkpoint.pt", {"step": 3, "weights": torch.arange(300.0), "text": "abc"}
    save_checkpoint(state, path)
    whole = path.read_bytes()
    rng = random.Random(0)
    refused = 0
    for trial in range(300):
        damaged = bytearray(whole)
        if trial % 3 == 0:
            del damaged[rng.randrange(len(whole)) :]
        else:
            for _ in range(1 + trial % 20):
                damaged[rng.randrange(len(whole))] = rng.randrange(256)
        path.write_bytes(damaged)
        try:
            loaded = load_checkpoint(path)
        except ModelError:
            refused += 1
            continue
        assert loaded.keys() == state.keys()
        assert torch.equal(loaded["weights"], state["weights"]), trial
        assert (loaded["step"], loaded["text"]) == (3, "abc")
    assert refused > 150


def newest(checkpoints: Checkpoints, warn: Callable[[str], None]) -> int:
    found = checkpoints.latest(warn)
    assert found is not None
    step: int = found["step"]
    return step


def test_the_last_few_are_kept(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path / "checkpoints", keep=2)
    for step in (5, 10, 99_999_999, 15):
        assert checkpoints.save(step, {"step": step}).exists()
    assert [path.name for path in checkpoints.paths()] == ["step-00000015.pt", "step-99999999.pt"]


def test_the_newest_readable_one_is_taken_and_the_others_are_told(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path, keep=5)
    for step in (1, 2, 3):
        checkpoints.save(step, {"step": step})
    told: list[str] = []
    assert newest(checkpoints, told.append) == 3
    assert told == []
    checkpoints.paths()[-1].write_bytes(b"")
    assert newest(checkpoints, told.append) == 2
    assert len(told) == 1 and "step-00000003.pt" in told[0]


def test_without_a_readable_one_there_is_nothing_to_go_on_from(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path / "checkpoints", keep=5)
    told: list[str] = []
    assert checkpoints.latest(told.append) is None
    checkpoints.save(1, {}).write_bytes(b"damaged")
    with pytest.raises(ModelError, match="no checkpoint can be read"):
        checkpoints.latest(told.append)
    assert len(told) == 1


def test_what_a_killed_run_left_unfinished_is_removed(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path, keep=5)
    saved = checkpoints.save(1, {"step": 1})
    (tmp_path / ".step-00000002.pt.0123abcd.part").write_bytes(b"half")
    (tmp_path / "notes.part").write_text("somebody's own")
    checkpoints.latest(pytest.fail)
    assert {path.name for path in tmp_path.iterdir()} == {saved.name, "notes.part"}


def test_a_pickle_is_not_run(tmp_path: Path) -> None:
    class Bomb:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return (exec, ("raise SystemExit('run')",))

    torch.save({"step": Bomb()}, tmp_path / "checkpoint.pt")
    with pytest.raises(ModelError):
        load_checkpoint(tmp_path / "checkpoint.pt")


@pytest.mark.skipif(sys.platform == "win32", reason="file size limits are POSIX")
def test_a_full_disk_leaves_the_earlier_checkpoint(tmp_path: Path) -> None:
    """The write really fails: the kernel refuses bytes beyond the limit, as it does on a full disk."""
    path = tmp_path / "checkpoint.pt"
    save_checkpoint({"step": 1}, path)
    script = (
        "import signal, sys, torch; from pathlib import Path\n"
        "from srcyc.errors import OutputError; from srcyc.training.checkpoint import save_checkpoint\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "try: save_checkpoint({'step': 2, 'x': torch.zeros(1_000_000)}, Path(sys.argv[1]))\n"
        "except OutputError as error: print(error); sys.exit(7)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, str(path)],
        capture_output=True,
        text=True,
        check=False,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000)),
    )
    assert done.returncode == 7, done.stderr
    assert "free some space" in done.stdout
    assert load_checkpoint(path)["step"] == 1
    assert [p.name for p in tmp_path.iterdir()] == ["checkpoint.pt"]
