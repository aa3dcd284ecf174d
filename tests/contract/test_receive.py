"""`srcyc receive` between dcmtk's storescu and storescp: nothing is lost or doubled, whenever it is killed."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pydicom
import pytest
from documented import command
from pynetdicom.ae import ApplicationEntity

from factories import OBLIQUE_AXES, free_port, make_affine, make_head, save_series
from srcyc.cli import main
from srcyc.cli.console import EXIT_TERMINATED
from srcyc.errors import ArchiveError, ConfigError, OutputError
from srcyc.inference.options import InferenceOptions
from srcyc.inference.super_resolver import SuperResolver
from srcyc.pacs.network import Keep, Listener, Peer
from srcyc.pacs.queue import Entry, Queue, Status
from srcyc.pacs.receiver import Receiver
from srcyc.volumes.volume import read_volume

SLICES = 6
QUIET = 3.0  # a scanner that was cut off sends again within that time
SECRET = ("Verysecret", "4711", "20200101")
#: No computer of a test takes longer.
PATIENCE = 100


@dataclass
class Station:
    """A receiver with a PACS behind it, and a scanner that sends to it."""

    folder: Path
    model: Path
    scan: Path
    port: int = field(default_factory=free_port)
    pacs_port: int = field(default_factory=free_port)
    receiver: subprocess.Popen[bytes] | None = None
    pacs: subprocess.Popen[bytes] | None = None

    @property
    def queue(self) -> Path:
        return self.folder / "queue"

    @property
    def log(self) -> str:
        return (self.folder / "log").read_text()

    def start(self) -> None:
        documented = command(
            "dicom.md",
            "srcyc receive",
            {
                "/var/spool/srcyc": self.queue,
                "0.0.0.0": "127.0.0.1",
                "11112": self.port,
                "PACS@10.0.0.5:104": f"STORE@127.0.0.1:{self.pacs_port}",
            },
        )
        began = self.log.count("receives at") if (self.folder / "log").exists() else 0
        with (self.folder / "log").open("ab") as log:
            self.receiver = subprocess.Popen(
                [
                    *(sys.executable, "-m", "srcyc.cli", *documented[1:]),
                    *("--quiet", str(QUIET), "--model", self.model, "--precision", "fp32"),
                ],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env={**os.environ, "OMP_NUM_THREADS": "1"},
            )
        self.until(lambda: self.log.count("receives at") > began)

    def start_pacs(self) -> None:
        self.arrived.mkdir(exist_ok=True)
        self.pacs = subprocess.Popen(
            ["storescp", "-od", self.arrived, "-aet", "STORE", str(self.pacs_port)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )

    @property
    def arrived(self) -> Path:
        return self.folder / "arrived"

    def files(self) -> list[Path]:
        return [file for file in self.arrived.iterdir() if file.name.startswith("MR.")]

    def send(
        self, *given: str, called: str = "SRCYC", calling: str = "SCANNER"
    ) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [
                "storescu",
                "-aec",
                called,
                "-aet",
                calling,
                "127.0.0.1",
                str(self.port),
                *(given or self.slices),
            ],
            capture_output=True,
            text=True,
            timeout=PATIENCE,
        )

    @property
    def slices(self) -> list[str]:
        return [str(file) for file in sorted(self.scan.iterdir())]

    def until(self, happened: Callable[[], bool], pause: float = 0.05) -> None:
        give_up = time.monotonic() + PATIENCE
        while not happened():
            assert time.monotonic() < give_up, self.log
            assert self.receiver is None or self.receiver.poll() is None, self.log
            time.sleep(pause)

    def kill(self) -> None:
        assert self.receiver is not None
        self.receiver.send_signal(signal.SIGKILL)
        self.receiver.wait()
        self.receiver = None

    def settled(self) -> bool:
        """All that has come is sent, or refused."""
        entries = [Entry(path) for path in self.queue.glob("*/") if path.is_dir()]
        return bool(entries) and all(entry.status() is not None for entry in entries)

    def close(self) -> None:
        """End what still runs; the receiver as a service manager ends it: it lets go of its queue and says no more."""
        if self.pacs is not None:
            self.pacs.kill()
            self.pacs.wait()
        if self.receiver is not None:
            self.receiver.terminate()
            assert self.receiver.wait(PATIENCE) == EXIT_TERMINATED, self.log
            assert "Traceback" not in self.log
            Queue(self.queue).close()


@pytest.fixture(scope="module")
def scan(tmp_path_factory: pytest.TempPathFactory) -> Path:
    head = make_head((16, 18, SLICES), make_affine(OBLIQUE_AXES, (1.1, 0.9, 5.0)))
    folder = save_series(head, tmp_path_factory.mktemp("scan") / "series")
    for file in folder.iterdir():
        image = pydicom.dcmread(file)
        image.PatientName, image.PatientID, image.StudyDate = "Verysecret^Name", "ID-4711", "20200101"
        image.SeriesDescription = "t1 of Verysecret"
        image.save_as(file)
    return folder


@pytest.fixture
def station(tmp_path: Path, tiny_model: Path, scan: Path) -> Iterator[Station]:
    for program in ("storescu", "storescp"):
        if shutil.which(program) is None:
            pytest.skip(f"needs {program} (Debian: dcmtk)")
    made = Station(tmp_path, tiny_model, scan)
    with contextlib.closing(made):
        yield made


@pytest.fixture(scope="module")
def wanted(scan: Path, tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """Pixels of every instance of the result, by its UID, as the command line makes it."""
    out = tmp_path_factory.mktemp("wanted")
    given = ["infer", str(scan), "-o", str(out), "--model", str(tiny_model), "--precision", "fp32"]
    assert main([*given, "--format", "dicom", "--stable-uids"]) == 0
    return pixels(out / "series_sr")


def pixels(folder: Path) -> dict[str, bytes]:
    images = [pydicom.dcmread(file) for file in folder.iterdir()]
    found = {str(image.SOPInstanceUID): image.PixelData for image in images}
    assert len(found) == len(images)  # none twice
    return found


@pytest.mark.slow
def test_what_is_sent_comes_back(station: Station, wanted: dict[str, bytes]) -> None:
    station.start()
    refused = (station.send(called="OTHER"), station.send(calling="STRANGER"))
    assert all(one.returncode != 0 for one in refused)
    assert re.search(
        r"association of 'SCANNER' at \S+ refused: it calls 'OTHER', this is 'SRCYC'", station.log
    )
    assert re.search(r"association of 'STRANGER' at \S+ refused: it is not among those allowed", station.log)
    # A single slice is no scan; the reason, which may name a patient, stands where only the queue's user looks.
    assert station.send(station.slices[0]).returncode == 0
    station.until(station.settled)
    (state,) = station.queue.glob("*/state.json")
    assert "refused" in state.read_text() and "slice" in state.read_text()
    assert f"{state.parent.name}: refused" in station.log
    # The rest of it comes late, and makes it whole. The PACS is down, and comes back.
    assert station.send(*station.slices[1:]).returncode == 0
    station.until(lambda: "tried again" in station.log)
    assert not station.settled()
    station.start_pacs()
    station.until(station.settled)
    assert pixels(station.arrived) == wanted
    # A rule that sends everything on sends the result too.
    assert station.send(str(station.files()[0])).returncode == 0
    assert "not taken for a scan" in station.log
    # The same again is the same: nothing to do.
    assert station.send().returncode == 0
    (folder,) = (path for path in station.queue.iterdir() if path.is_dir())
    station.until(lambda: not (folder / "result").exists())
    assert sorted(path.name for path in folder.iterdir()) == ["scan", "state.json"]
    assert len(list((folder / "scan").iterdir())) == SLICES
    assert (station.queue.stat().st_mode & 0o777, (folder / "scan").is_dir()) == (0o700, True)
    assert not any(word in station.log for word in SECRET)
    found = read_volume(station.arrived)
    ends = np.array([[0, 0, 0, 1], [*(n - 1 for n in found.shape), 1]]).T
    source = read_volume(station.scan)
    np.testing.assert_allclose(found.grid.field_of_view, source.grid.field_of_view, atol=1e-3)
    assert np.isfinite(found.affine @ ends).all()


def _part(station: Station) -> int:
    return sum(1 for _ in station.queue.glob("*/made/**/*.dcm"))


#: When it is killed; what comes later counts too, since a moment may be missed.
MOMENTS: tuple[Callable[[Station], bool], ...] = (
    lambda s: len([*s.queue.glob("*/scan/*.dcm")]) >= 1,
    lambda s: len([*s.queue.glob("*/scan/*.dcm")]) >= SLICES // 2,
    lambda s: len([*s.queue.glob("*/scan/*.dcm")]) >= SLICES,
    lambda s: any(s.queue.glob("*/made")) or any(s.queue.glob("*/result")) or s.settled(),
    lambda s: _part(s) > 0 or any(s.queue.glob("*/result")) or s.settled(),
    lambda s: _part(s) > 10 or any(s.queue.glob("*/result")) or s.settled(),
    lambda s: any(s.queue.glob("*/result")) or s.settled(),
    lambda s: len(s.files()) >= 1,
    lambda s: len(s.files()) >= 10,
    lambda s: s.settled(),
)


@pytest.mark.slow
@pytest.mark.parametrize(
    "moment",
    [pytest.param(n, marks=[] if n == 8 else [pytest.mark.exhaustive]) for n in range(len(MOMENTS))],
)
def test_killed_at_any_moment(station: Station, wanted: dict[str, bytes], moment: int) -> None:
    station.start_pacs()
    station.start()
    sender = subprocess.Popen(
        ["storescu", "-aec", "SRCYC", "-aet", "SCANNER", "127.0.0.1", str(station.port), *station.slices],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    station.until(lambda: MOMENTS[moment](station), pause=0.001)
    station.kill()
    acknowledged = sender.wait(PATIENCE) == 0
    kept = len([*station.queue.glob("*/scan/*.dcm")])
    assert kept == SLICES or not acknowledged  # what was acknowledged is there
    station.start()
    if not acknowledged:  # then a scanner sends it again
        assert station.send().returncode == 0
    station.until(station.settled)
    assert pixels(station.arrived) == wanted
    assert not any(station.queue.glob("*/scan/.*"))
    station.until(lambda: not any(station.queue.glob("*/result")))


# -- the network by itself ---------------------------------------------------------------------------------------------


@contextlib.contextmanager
def listening(keep: Keep) -> Iterator[Listener]:
    listener = Listener("SRCYC", "127.0.0.1", 0, [], keep)
    try:
        yield listener
    finally:
        listener.close()


def test_what_is_refused_is_told_to_both_sides(
    scan: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    def full(series: str, instance: str, data: bytes) -> Entry:
        raise OutputError("the disk of the queue is full")

    with listening(full) as listener:
        peer = Peer("SRCYC", "127.0.0.1", listener.port)
        with pytest.raises(ArchiveError, match="answers A700 to instance 1 of 1"):
            peer.send([Path(next(scan.iterdir()))], "SCANNER")
        assert "no room" in caplog.text
        image = pydicom.dcmread(next(scan.iterdir()))
        image.SeriesInstanceUID = ""
        image.save_as(tmp_path / "odd.dcm")
        with pytest.raises(ArchiveError, match="answers A900"):
            peer.send([tmp_path / "odd.dcm"], "SCANNER")
        assert "cannot be read" in caplog.text
        image.SOPClassUID = image.file_meta.MediaStorageSOPClassUID = "1.2.840.10008.5.1.4.1.1.2"  # CT
        image.save_as(tmp_path / "ct.dcm")
        with pytest.raises(ArchiveError, match="does not take MR images"):
            peer.send([tmp_path / "ct.dcm"], "SCANNER")
        other = ApplicationEntity(ae_title="SCANNER")
        other.add_requested_context("1.2.840.10008.5.1.4.1.1.2")
        other.associate("127.0.0.1", listener.port, ae_title="SRCYC").abort()
        while "offers nothing that is received" not in caplog.text:  # by a thread of the listener's
            time.sleep(0.01)
        with pytest.raises(ConfigError, match="cannot listen there"):
            Listener("SRCYC", "127.0.0.1", listener.port, [], full)
        with pytest.raises(ArchiveError, match="refuses the association"):
            Peer("OTHER", "127.0.0.1", listener.port).send([], "SCANNER")
    with pytest.raises(ArchiveError, match="cannot be reached"):
        peer.send([], "SCANNER")


def test_a_full_disk_is_no_fault_of_the_scan(
    scan: Path,
    tmp_path: Path,
    tiny_model: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    file_size_limit: Callable[[int], AbstractContextManager[None]],
) -> None:
    monkeypatch.setattr("srcyc.pacs.receiver._FIRST_WAIT", 0.0)
    queue = Queue(tmp_path / "queue", spare=0)
    for file in scan.iterdir():
        entry = queue.put("1.2", file.name, file.read_bytes())
    sent: list[Path] = []
    resolver = SuperResolver.load(tiny_model, precision="fp32")
    receiver = Receiver(queue, resolver, InferenceOptions(), [sent.extend], quiet=0, keep=3600)
    with file_size_limit(600):
        assert receiver.work()
    assert entry.status() is None and "the disk is full" in caplog.text and "Verysecret" not in caplog.text
    assert receiver.work()
    assert entry.status() is Status.SENT and len(sent) > SLICES
    queue.close()


# -- the queue by itself ---------------------------------------------------------------------------------------------


def test_a_queue_keeps_what_it_acknowledged_once(tmp_path: Path) -> None:
    queue = Queue(tmp_path / "queue", spare=0)
    entry = queue.put("1.2", "1.2.1", b"a")
    assert queue.put("1.2", "1.2.1", b"a") == entry
    queue.put("1.2", "1.2.2", b"bb")
    assert queue.put("1.3", "1.3.1", b"c") != entry
    assert [len([*one.scan.iterdir()]) for one in sorted(queue.entries(), key=lambda one: one != entry)] == [
        2,
        1,
    ]
    assert not any("1.2" in path.name for path in (tmp_path / "queue").rglob("*"))
    with pytest.raises(ConfigError, match="another"):
        Queue(tmp_path / "queue")
    assert list(queue.due(3600)) == []
    assert [one != entry for one in queue.due(0, coming=[entry.key])] == [True]
    before = entry.digest()
    entry.settle(before, Status.SENT)
    assert [one != entry for one in queue.due(0)] == [True]
    queue.put("1.2", "1.2.3", b"late")
    assert entry.status() is None and entry.digest() != before
    queue.close()
    (entry.scan / ".x.dcm.0123abcd.part").write_bytes(b"half")
    again = Queue(tmp_path / "queue", spare=0)
    assert sorted(path.name[0] != "." for path in entry.scan.iterdir()) == [True] * 3
    entry.settle(entry.digest(), Status.SENT)
    again.clear(keep=3600)
    assert entry.scan.exists()
    again.clear(keep=0)
    assert not entry.folder.exists()
    again.close()


def test_a_queue_without_room_says_so(tmp_path: Path) -> None:
    queue = Queue(tmp_path / "queue", spare=2**62)
    with pytest.raises(OutputError, match="full"):
        queue.put("1.2", "1.2.1", b"a")
    queue.close()


@pytest.mark.parametrize(
    "text", ["", "PACS", "PACS@host", "PACS@host:0", "PACS@host:99999", "x" * 17 + "@h:1", "@h:1"]
)
def test_what_is_no_station(text: str) -> None:
    with pytest.raises(ConfigError, match="AET@HOST:PORT"):
        Peer.of(text)


def test_what_makes_no_sense(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def said(*given: str) -> str:
        assert main(["receive", str(tmp_path / "queue"), *given]) == 2
        return capsys.readouterr().err

    assert "--send-to" in said()
    assert "--allow" in said("--send-to", "A@b:1", "--host", "0.0.0.0")
    assert "AE title" in said("--send-to", "A@b:1", "--ae-title", "x" * 17)
    monkeypatch.setitem(sys.modules, "srcyc.pacs.network", None)
    assert "srcyc[server]" in said("--send-to", "A@b:1")
    assert not (tmp_path / "queue").exists()
