"""What does not fit is refused before it is tried."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from srcyc import memory
from srcyc.errors import VolumeError


@pytest.mark.skipif(sys.platform == "win32", reason="Windows is not asked")
def test_there_is_some_memory() -> None:
    available = memory.available_memory()
    assert available is not None and available > 1e6


def test_the_tightest_limit_of_a_container_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of all groups that the process is in: the job of a batch system is limited, the group of its task is not."""
    task = tmp_path / "job_7" / "task_0"
    task.mkdir(parents=True)
    (tmp_path / "own").write_text("0::/job_7/task_0\n")
    monkeypatch.setattr(memory, "_CGROUP", tmp_path)
    monkeypatch.setattr(memory, "_OWN_CGROUP", tmp_path / "own")
    for folder, limit in ((tmp_path, "900000"), (tmp_path / "job_7", "1000000"), (task, "max")):
        (folder / "memory.max").write_text(f"{limit}\n")
        (folder / "memory.current").write_text("700000\n")
        (folder / "memory.stat").write_text("anon 1\ninactive_file 200000\n")
    for tightest, left in ((tmp_path, 400_000), (tmp_path / "job_7", 500_000)):
        assert memory.available_memory() == left
        (tightest / "memory.max").write_text("max\n")
    assert memory.available_memory() != 500_000


def test_a_machine_that_tells_less(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """macOS tells what there is, not what is free; Windows nothing."""
    monkeypatch.setattr(memory, "_OWN_CGROUP", tmp_path / "no groups")
    monkeypatch.setattr(memory, "_MEMINFO", tmp_path / "none")
    if hasattr(os, "sysconf"):
        assert memory.available_memory() == os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    (tmp_path / "none").write_text("MemTotal: 9 kB\n")
    monkeypatch.delattr(os, "sysconf", raising=False)
    assert memory.available_memory() is None


def test_too_much_is_a_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "available_memory", lambda: 10**9)
    memory.require_memory(10**9, "scan.nii")
    with pytest.raises(VolumeError, match=r"scan\.nii: its voxels need 2 GB of memory and 1 GB are free"):
        memory.require_memory(2 * 10**9, "scan.nii")
    monkeypatch.setattr(memory, "available_memory", lambda: None)
    memory.require_memory(10**18, "scan.nii")
