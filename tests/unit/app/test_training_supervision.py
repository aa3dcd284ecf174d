"""How a background process ends: with its parent, when it is asked to, and with a sentence."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from srcyc.errors import ConfigError
from srcyc.training.watch.signals import StopRequest
from srcyc_app.trainers.supervision import (
    Asked,
    background_process,
    is_background_process,
    once,
    unwinding,
)

linux = pytest.mark.skipif(sys.platform != "linux", reason="needs Linux's processes")


def test_only_what_a_server_started_is_its_process() -> None:
    assert not is_background_process()
    with pytest.raises(ConfigError), background_process(supervised=False):
        raise ConfigError("a sentence")


def test_a_servers_process_fails_with_a_sentence(caplog: pytest.LogCaptureFixture) -> None:
    with pytest.raises(SystemExit) as caught, background_process(supervised=True):
        raise ConfigError("data.size: too small.")
    assert caught.value.code == 2
    assert caplog.messages[-1] == "data.size: too small."
    assert caught.value.__cause__ is None


def test_being_asked_unwinds_once() -> None:
    before = signal.getsignal(signal.SIGTERM)
    request = StopRequest()
    unwound = False
    with pytest.raises(Asked), unwinding(request):
        try:
            signal.raise_signal(signal.SIGTERM)
        finally:
            # Whoever is asked again while it saves goes on saving.
            signal.raise_signal(signal.SIGTERM)
            unwound = True
    assert unwound
    assert request.number == signal.SIGTERM
    assert signal.getsignal(signal.SIGTERM) is before


def test_something_that_happened_is_acted_on_once() -> None:
    acts: list[int] = []
    happened = False
    with once(lambda: happened, lambda: acts.append(1), interval=0.005):
        time.sleep(0.05)
        assert not acts
        happened = True
        wait_for(lambda: bool(acts))
        time.sleep(0.05)
    assert acts == [1]


PROGRAM = """
import signal, sys, time
from srcyc_app.trainers.supervision import ending_with_parent
if "stubborn" in sys.argv:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
with ending_with_parent(interval=0.05, last_seconds=0.2):
    open(sys.argv[1], "w").close()
    time.sleep(60)
"""


@linux
@pytest.mark.parametrize("how", ["parent", "output"])
@pytest.mark.parametrize("kind", ["obedient", "stubborn"])
def test_a_process_ends_with_its_parent(tmp_path: Path, how: str, kind: str) -> None:
    """The parent is gone, or was gone before anybody looked, which the closed pipe tells."""
    begun = tmp_path / "begun"
    command = [sys.executable, "-c", PROGRAM, str(begun), kind]
    if how == "parent":
        parent = (
            "import os, subprocess, sys, time; p = subprocess.Popen(sys.argv[1:]); print(p.pid, flush=True); "
        )
        parent += "time.sleep(60)"
        command = [sys.executable, "-c", parent, *command]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    pid = int(process.stdout.readline()) if how == "parent" else process.pid
    try:
        wait_for(begun.exists)
        time.sleep(0.2)
        assert is_there(pid)
        if how == "parent":
            process.kill()
        else:
            process.stdout.close()
        wait_for(lambda: not is_there(pid))
    finally:
        if is_there(pid):
            os.kill(pid, signal.SIGKILL)
        process.kill()
        process.wait()
        process.stdout.close()


def is_there(pid: int) -> bool:
    try:
        return ") Z " not in Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return False


def wait_for(happened, seconds: float = 60.0) -> None:
    end = time.monotonic() + seconds
    while not happened():
        assert time.monotonic() < end
        time.sleep(0.01)
