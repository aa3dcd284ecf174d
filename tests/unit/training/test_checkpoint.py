from __future__ import annotations

import resource
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from srcyc.errors import ModelError
from srcyc.training.checkpoint import load_checkpoint, save_checkpoint


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
    with pytest.raises(ModelError, match="without --resume"):
        load_checkpoint(tmp_path / "checkpoint.pt")


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
