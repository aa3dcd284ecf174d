"""Real server processes, the scans they serve, and what a client sees of them."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import http.client
import io
import json
import os
import shutil
import signal
import subprocess
import sys
import time
import uuid
import warnings
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np
import psutil
import pytest
import requests

from factories import (
    OBLIQUE_AXES,
    free_port,
    make_affine,
    make_blob,
    make_phantom,
    save_head,
    save_model,
    save_people,
    save_series,
    tiny_words,
)
from forks import MARK, Fork, program
from srcyc.cli import main
from srcyc.volumes.volume import Volume, read_volume, write_volume

with warnings.catch_warnings():
    # It needs `cgi`, which Python 3.13 lacks.
    warnings.simplefilter("ignore", DeprecationWarning)
    from monailabel.client import MONAILabelClient

#: Longer than any start, stop or small request takes on a busy machine.
PATIENCE = 120.0


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """MONAI Label's client closes neither its connections nor its files."""
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.filterwarnings("ignore:unclosed:ResourceWarning"))


# -- scans ---------------------------------------------------------------------------------------------------------


def zipped(folder: Path, archive: Path) -> Path:
    """Pack the files of a folder."""
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as file:
        for path in sorted(folder.iterdir()):
            file.write(path, f"{folder.name}/{path.name}")
    return archive


@dataclass(frozen=True)
class Scans:
    """Small heads, four times as thick as wide unless said otherwise, in every format.

    Attributes:
        folder: holds them all.
        nifti: int16.
        nrrd: float32, oblique, left-handed.
        mha: float32, oblique, with negative values.
        series: folder of a DICOM series, oblique.
        archive: the same, zipped.
        thin: 1 mm, int16.
        marker: a bright ball on an oblique grid.
        centre: of the ball, RAS mm.
        steep: int16 near its upper limit, so that the result overshoots it.
        corrupt: a truncated NIfTI file.
    """

    folder: Path
    nifti: Path
    nrrd: Path
    mha: Path
    series: Path
    archive: Path
    thin: Path
    marker: Path
    centre: np.ndarray
    steep: Path
    corrupt: Path


@pytest.fixture(scope="session")
def scans(tmp_path_factory: pytest.TempPathFactory) -> Scans:
    """The scans that requests are about."""
    folder = tmp_path_factory.mktemp("scans")
    straight, oblique = np.diag([1.0, 1.0, 4.0, 1.0]), make_affine(OBLIQUE_AXES, (0.9, 0.9, 3.6))

    def head(seed: int, affine: np.ndarray, below: float = 0.0) -> Volume:
        return Volume(1000 * np.clip(make_phantom((24, 26, 8), seed), 0, None) - below, affine)

    nifti = save_head(folder / "head.nii.gz")
    nrrd = write_volume(head(1, oblique), folder / "oblique.nrrd")
    mha = write_volume(head(2, oblique, 300), folder / "signed.mha")
    series = save_series(head(3, oblique), folder / "series")
    thin = save_head(folder / "thin.nii.gz", (30, 32, 34), (1, 1, 1), 4)
    empty = Volume(np.zeros((1, 25, 28, 9)), oblique)
    centre = empty.grid.index_to_world(np.array([11.6, 12.1, 4.4]))
    marker = write_volume(Volume(make_blob(empty.grid, centre, 4.4), oblique), folder / "marker.nrrd")
    checks = np.where(np.indices((24, 26, 8)).sum(0) // 4 % 2, 32767.0, -32768.0)[None]
    # A little noise towards the middle: two values would be a label map.
    checks *= 1 - 0.01 * np.random.default_rng(0).uniform(size=checks.shape)
    steep = write_volume(Volume(checks, straight), folder / "steep.nii.gz", dtype=np.int16)
    corrupt = folder / "corrupt.nii.gz"
    corrupt.write_bytes(nifti.read_bytes()[:-2000])
    archive = zipped(series, folder / "series.zip")
    return Scans(folder, nifti, nrrd, mha, series, archive, thin, marker, centre, steep, corrupt)


@pytest.fixture(scope="session")
def patient(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A scan and a model that together take some seconds on any processor: ``(scan, model)``."""
    folder = tmp_path_factory.mktemp("patient")
    return (
        save_head(folder / "larger.nii.gz", (128, 128, 32)),
        save_model(folder / "patient.safetensors", features=80, depth=7),
    )


@pytest.fixture(scope="session")
def endless(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A scan that takes that model minutes: for those who do not wait for the end."""
    return save_head(tmp_path_factory.mktemp("endless") / "endless.nii.gz", (640, 128, 32))


@pytest.fixture(scope="session")
def studies_of(scans: Scans, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """Make a studies folder with copies of scans: ``studies_of("nifti", "series") -> Path``."""

    def make(*names: str) -> Path:
        folder = tmp_path_factory.mktemp("studies")
        for name in names:
            source = getattr(scans, name)
            (shutil.copytree if source.is_dir() else shutil.copy)(source, folder / source.name)
        return folder

    return make


@pytest.fixture(scope="session")
def training_studies(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """Make a studies folder with two thin and two thick heads of four persons, or only some of them."""

    def make(hr: str = "ab", lr: str = "cd") -> Path:
        return save_people(tmp_path_factory.mktemp("training-studies"), {"hr": hr, "lr": lr})

    return make


# -- server processes ----------------------------------------------------------------------------------------------


@pytest.fixture(scope="session")
def new_port() -> Callable[[], int]:
    """``new_port()`` gives a port that nobody listens on."""
    return free_port


def _marked(mark: str) -> list[psutil.Process]:
    """Every living process that has the mark in its environment."""
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error, OSError):
            if process.status() != psutil.STATUS_ZOMBIE and process.environ().get(MARK) == mark:
                found.append(process)
    return found


def is_decoder(process: psutil.Process) -> bool:
    """Tell whether a process is the one in which a server decodes files of strangers."""
    with contextlib.suppress(psutil.Error, OSError):
        return "srcyc_app.studies.decoding" in " ".join(process.cmdline())
    return False


@dataclass
class Server:
    """One server process with a home, a temporary folder and a working directory of its own.

    Attributes:
        kind: ``srcyc`` (``srcyc serve``) or ``stock`` (``python -m monailabel.main start_server``).
        studies: its studies folder.
        folder: everything else of it lies here.
        arguments: more of its command line.
        environment: more environment variables.
        real: started as a user does; otherwise a fork of a process that has imported everything, which takes a second
            instead of ten.
        dies: at which change of a folder a fork is killed, once it has got a SIGUSR1: `forks.die_at_change`.
        memory: bytes of data that each process of a fork may have.
    """

    kind: str
    studies: Path
    folder: Path
    arguments: tuple[str, ...] = ()
    environment: Mapping[str, str] = field(default_factory=dict)
    port: int = field(default_factory=free_port)
    process: subprocess.Popen[bytes] | Fork | None = None
    real: bool = False
    dies: tuple[str, int] | None = None
    memory: int | None = None

    def __post_init__(self) -> None:
        self.mark = uuid.uuid4().hex
        self.model_dir = self.folder / "models"
        self.temporary = self.folder / "tmp"
        self.answers = self.folder / "answers"
        self.cwd = self.folder / "cwd"
        self.sessions = self.folder / "home" / ".cache" / "monailabel" / "sessions"
        self.log_file = self.folder / "log.txt"
        for folder in (self.model_dir, self.temporary, self.answers, self.cwd, self.sessions):
            folder.mkdir(parents=True, exist_ok=True)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def client(self) -> MONAILabelClient:
        return MONAILabelClient(self.url, tmpdir=str(self.answers))

    @property
    def log(self) -> str:
        return self.log_file.read_text(errors="replace") if self.log_file.exists() else ""

    @property
    def audit(self) -> list[str]:
        """The lines of our server's audit log; each is there before the client has the reply that it is about."""
        return (self.model_dir / "logs" / "audit.log").read_text().splitlines()

    # -- life ------------------------------------------------------------------------------------------------------

    def command(self) -> list[str]:
        where = ["--studies", str(self.studies), "--host", "127.0.0.1", "--port", str(self.port)]
        if self.kind == "srcyc":
            return [
                *(sys.executable, "-m", "srcyc.cli", "serve", *where),
                *("--model-dir", str(self.model_dir), *self.arguments),
            ]
        app = self.folder / "app"
        if not app.exists():
            # MONAI Label writes into the app's folder; main.py alone is the app, the rest is installed.
            import srcyc_app

            app.mkdir()
            shutil.copy(Path(srcyc_app.__file__).with_name("main.py"), app)
        return [
            *(sys.executable, "-m", "monailabel.main", "start_server", "--app", str(app), *where),
            *("--conf", "model_dir", str(self.model_dir), *self.arguments),
        ]

    def launch(self) -> subprocess.Popen[bytes] | Fork:
        """Start the process without waiting for it to answer."""
        command = self.command()
        environment = {
            **os.environ,
            MARK: self.mark,
            "HOME": str(self.folder / "home"),
            "TMPDIR": str(self.temporary),
            "MPLCONFIGDIR": os.environ.get("MPLCONFIGDIR", str(Path.home() / ".cache" / "matplotlib")),
            "OMP_NUM_THREADS": "1",
            "COLUMNS": "200",
            **self.environment,
        }
        if command[:2] == [sys.executable, "-m"] and not self.real and sys.platform == "linux":
            self.process = Fork(
                *(program, command[2:], str(self.cwd)),
                environment=environment,
                output=self.log_file,
                nursery=self.kind == "srcyc",
                dies=self.dies or (),
                memory=self.memory,
            )
            return self.process
        with self.log_file.open("ab") as log:
            self.process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                cwd=self.cwd,
                env=environment,
                start_new_session=True,
            )
        return self.process

    def start(self) -> Server:
        """Start it and wait until it answers."""
        process = self.launch()

        def ready() -> bool:
            assert process.poll() is None, f"the server ended with {process.returncode}:\n{self.log[-1500:]}"
            with contextlib.suppress(requests.ConnectionError, requests.Timeout):
                return requests.get(f"{self.url}/info/", timeout=10).ok
            return False

        self.wait_for(ready, "answer /info/")
        return self

    def kill(self) -> None:
        """SIGKILL to the server alone, as the system's out-of-memory killer does it."""
        self.running.kill()
        self.running.wait(PATIENCE)

    def terminate(self, number: signal.Signals = signal.SIGTERM) -> int:
        """Ask the server alone to end, wait until it has, and give its exit code."""
        self.running.send_signal(number)
        return self.running.wait(PATIENCE)

    def restart(self) -> Server:
        """Start it again after its end, with the same folders."""
        assert self.running.poll() is not None, "end it first"
        self.port = free_port()
        return self.start()

    def end(self) -> None:
        """Leave nothing running, whatever happened."""
        if self.process is not None and self.process.poll() is None:
            self.process.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.process.wait(15)
        for process in _marked(self.mark):
            with contextlib.suppress(psutil.Error):
                process.kill()
        if self.process is not None:
            self.process.wait(PATIENCE)

    @property
    def running(self) -> subprocess.Popen[bytes] | Fork:
        assert self.process is not None, "start it first"
        return self.process

    # -- looking at it -----------------------------------------------------------------------------------------------

    def processes(self) -> list[psutil.Process]:
        """The server's process and all that it started, parents dead or alive."""
        return _marked(self.mark)

    def children(self) -> list[psutil.Process]:
        """The same without the server itself, and while it lives without the process that decodes files for it."""
        lives = self.running.poll() is None
        others = [process for process in self.processes() if process.pid != self.running.pid]
        return [process for process in others if not (lives and is_decoder(process))]

    def decoders(self) -> list[psutil.Process]:
        """The processes that decode files for the server, without those that these fork for each file."""
        found = []
        for process in self.processes():
            with contextlib.suppress(psutil.Error):
                if is_decoder(process) and process.ppid() == self.running.pid:
                    found.append(process)
        return found

    def processor_seconds(self) -> float:
        """Seconds of a processor that the server's own process has had: how long others made it wait is not in it."""
        times = psutil.Process(self.running.pid).cpu_times()
        return float(times.user + times.system)

    def rss(self) -> int:
        """Bytes of memory that the server's own process holds."""
        return int(psutil.Process(self.running.pid).memory_info().rss)

    def temporary_files(self) -> set[str]:
        """Files in its temporary folder, relative."""
        root = self.temporary
        return {str(path.relative_to(root)) for path in root.rglob("*") if not path.is_dir()}

    def session_files(self) -> set[str]:
        """Files of sessions that are kept for their client."""
        root = self.sessions
        return {str(path.relative_to(root)) for path in root.rglob("*") if path.is_file()}

    def wait_for(self, happened: Callable[[], Any], what: str, within: float = PATIENCE) -> Any:
        """Wait until something is true, and give it."""
        end = time.monotonic() + within
        while time.monotonic() < end:
            if result := happened():
                return result
            time.sleep(0.05)
        raise AssertionError(f"did not {what} within {within:g} s; its log ends:\n{self.log[-1500:]}")

    def soon(self, ask: Callable[[], requests.Response], seconds: float) -> requests.Response:
        """Give the reply to what is answered within a time, in one of three attempts: others use the machine too."""
        took = []
        for _ in range(3):
            start = time.monotonic()
            reply = ask()
            took.append(time.monotonic() - start)
            if took[-1] < seconds:
                return reply
        raise AssertionError(f"answered after {took} s: {reply.text[:200]}")

    # -- talking to it -----------------------------------------------------------------------------------------------

    def request(self, method: str, path: str, **options: Any) -> requests.Response:
        """Send one request; ``path`` goes out exactly as it is written, dots and all."""
        prepared = requests.Request(method, self.url, **{k: options.pop(k) for k in _BODY & options.keys()})
        with requests.Session() as session:
            session.trust_env = False
            ready = session.prepare_request(prepared)
            query = ready.url.partition("?")[2] if ready.url else ""
            joint = "&" if "?" in path else "?"
            ready.url = f"{self.url}{path}{joint + query if query else ''}"
            return session.send(ready, timeout=options.pop("timeout", PATIENCE), **options)

    def get(self, path: str, **options: Any) -> requests.Response:
        return self.request("GET", path, **options)

    def post(self, path: str, **options: Any) -> requests.Response:
        return self.request("POST", path, **options)

    def put(self, path: str, **options: Any) -> requests.Response:
        return self.request("PUT", path, **options)

    def delete(self, path: str, **options: Any) -> requests.Response:
        return self.request("DELETE", path, **options)

    def infer(
        self,
        image: str | None = None,
        *,
        file: Path | None = None,
        session: str | None = None,
        output: str | None = "image",
        **params: Any,
    ) -> requests.Response:
        """POST /infer/srcyc as plain HTTP."""
        query = {"image": image, "session_id": session, "output": output}
        options: dict[str, Any] = {"params": {k: v for k, v in query.items() if v is not None}}
        options["data"] = {"params": json.dumps(params)}
        if file is not None:
            options["files"] = {"file": (file.name, file.read_bytes())}
        return self.post("/infer/srcyc", **options)

    @contextlib.contextmanager
    def asking(
        self, wanted: Mapping[str, Any], state: str, *, url: str | None = None, **options: Any
    ) -> Iterator[str]:
        """Ask for an inference, wait until it has come to a state, and hang up when the block ends.

        Args:
            wanted: its parameters.
            state: ``queued`` or ``running``.
            url: where to ask; default: the server itself.
            options: ``params``, ``files``, ``headers``, ``auth``; ``context`` for TLS.

        Yields:
            the request's id.
        """
        identity = f"test-{uuid.uuid4().hex}"
        context = options.pop("context", None)
        data = {"params": json.dumps({**wanted, "request_id": identity})}
        ready = requests.Request("POST", f"{url or self.url}/infer/srcyc", data=data, **options).prepare()
        place = urlsplit(ready.url)
        connection = (
            http.client.HTTPSConnection(place.netloc, timeout=PATIENCE, context=context)
            if context is not None
            else http.client.HTTPConnection(place.netloc, timeout=PATIENCE)
        )
        with contextlib.closing(connection):
            connection.request("POST", ready.path_url, ready.body, dict(ready.headers))
            self.wait_for(lambda: self.progress(identity)["state"] == state, f"be {state}")
            yield identity

    def progress(self, identity: str) -> dict[str, Any]:
        """Give how far an inference is."""
        reply = self.get(f"/progress/{identity}")
        return reply.json() if reply.ok else {"state": "unknown", "share": 0.0}

    def gives_up(self, identity: str) -> None:
        """Wait until an inference is given up."""
        self.wait_for(lambda: self.progress(identity)["state"] == "cancelled", "give it up")

    def volume(self, response: requests.Response, suffix: str = ".nrrd") -> Volume:
        """Read the volume in a reply."""
        assert response.status_code == 200, response.text[:500]
        path = self.answers / f"{uuid.uuid4().hex}{suffix}"
        path.write_bytes(response.content)
        return read_volume(path)


#: What `requests` puts into a request's body, head or query; everything else is about how it is sent.
_BODY = {"params", "data", "json", "files", "headers", "auth", "cookies"}


@pytest.fixture(scope="session")
def serve(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., Server]]:
    """Start servers: ``serve(kind, studies, *arguments, model=path) -> Server``; all end with the session.

    Of several models, ``model`` is the default one.
    """
    started: list[Server] = []

    def start(
        kind: str,
        studies: Path,
        *arguments: str,
        model: Path | None = None,
        more_models: Sequence[Path] = (),
        environment: Mapping[str, str] | None = None,
        wait: bool = True,
        real: bool = False,
        memory: int | None = None,
    ) -> Server:
        if sys.platform == "win32":
            pytest.skip("looks at processes in ways that Windows does not offer")
        folder = tmp_path_factory.mktemp(kind)
        server = Server(kind, studies, folder, arguments, environment or {}, real=real, memory=memory)
        for path in (model, *more_models):
            if path is not None:
                shutil.copy(path, server.model_dir)
        for path in more_models:
            # The newest model is the default.
            os.utime(server.model_dir / path.name, (1_700_000_000,) * 2)
        started.append(server)
        if wait:
            server.start()
        return server

    yield start
    for server in started:
        server.end()


#: Ids of the scans that the shared servers serve.
IDS = ("head", "oblique", "signed", "series", "thin", "marker", "steep")


_STUDIES = ("nifti", "nrrd", "mha", "series", "thin", "marker", "steep")


def _shared(
    kind: str, serve: Callable[..., Server], studies: Path, model: Path, memory: int | None = None
) -> Server:
    # Little enough that a test can exceed it.
    arguments: tuple[str, ...] = ("--max-upload", "0.05", "--trusted-proxy", "127.0.0.1")
    if kind == "stock":
        arguments = ("--conf", "packaged_models", "false", "--conf", "max_upload_gb", "0.05")
    server = serve(kind, studies, *arguments, model=model, memory=memory)
    # MONAI Label takes an id that is a path seen from the server's working directory for that path.
    shutil.copy(studies / "head.nii.gz", server.cwd / "outside.nii.gz")
    server.wait_for(lambda: set(IDS) <= set(server.client.datastore()["objects"]), "notice the scans")
    return server


@pytest.fixture(scope="session")
def limited_server(
    serve: Callable[..., Server], studies_of: Callable[..., Path], tiny_model: Path
) -> Callable[[str], Server]:
    """Give one more of each kind, with 2 GB of memory: ``limited_server("stock") -> Server``."""
    start = functools.cache(
        lambda kind: _shared(kind, serve, studies_of(*_STUDIES), tiny_model, memory=2_000_000_000)
    )
    return lambda kind: start(kind)


@pytest.fixture(scope="session")
def srcyc_server(serve: Callable[..., Server], studies_of: Callable[..., Path], tiny_model: Path) -> Server:
    """``srcyc serve`` with the scans of every format; tests leave it as they found it."""
    return _shared("srcyc", serve, studies_of(*_STUDIES), tiny_model)


@pytest.fixture(scope="session")
def stock_server(serve: Callable[..., Server], studies_of: Callable[..., Path], tiny_model: Path) -> Server:
    """MONAI Label's own server with the same, without the models that come with SRCyc."""
    return _shared("stock", serve, studies_of(*_STUDIES), tiny_model)


@pytest.fixture(params=["srcyc", "stock"])
def server(request: pytest.FixtureRequest) -> Server:
    """Each of the two in turn."""
    return request.getfixturevalue(f"{request.param}_server")


# -- what tests ask --------------------------------------------------------------------------------------------------


def tree(*folders: Path) -> dict[str, str]:
    """Give every file below some folders with the hash of its content; locks are no content."""
    found = {}
    for folder in folders:
        for path in sorted(folder.rglob("*")):
            if path.is_file() and path.suffix != ".lock" and path.name != ".lock":
                found[str(path)] = hashlib.sha256(path.read_bytes()).hexdigest()
            elif not path.is_file():
                found[str(path)] = "folder"
    return found


@pytest.fixture(scope="session")
def hash_tree() -> Callable[..., dict[str, str]]:
    """``hash_tree(folder, …) -> {path: sha256}``."""
    return tree


@pytest.fixture(scope="session")
def refused() -> Callable[..., str]:
    """Check that a reply is a refusal with one sentence, and give the sentence."""

    def check(response: requests.Response, *statuses: int, says: str = "") -> str:
        shown = f"{response.status_code} {response.text[:400]}"
        assert response.status_code in (statuses or range(400, 500)), shown
        assert response.headers["content-type"].startswith("application/json"), shown
        sentence = response.json()["detail"]
        assert isinstance(sentence, str), shown
        assert len(sentence) > 12, shown
        assert len(sentence) < 1000, shown
        assert "Traceback" not in sentence and "\n" not in sentence.strip(), shown
        assert says.lower() in sentence.lower(), shown
        return sentence

    return check


@pytest.fixture(scope="session")
def command_line(
    tiny_model: Path, tmp_path_factory: pytest.TempPathFactory
) -> Callable[..., tuple[Volume, dict[str, Any]]]:
    """What ``srcyc infer`` makes of a scan, made once: ``command_line(path, "--n4") -> (volume, sidecar)``."""

    @functools.cache
    def run(scan: Path, *options: str, model: str | Path | None = None) -> tuple[Volume, dict[str, Any]]:
        out = tmp_path_factory.mktemp("command-line") / "out.nrrd"
        said = io.StringIO()
        with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
            code = main(["infer", str(scan), "-o", str(out), "--model", str(model or tiny_model), *options])
        assert code == 0, said.getvalue()
        return read_volume(out), json.loads(out.with_name("out.json").read_text())

    return run


@pytest.fixture(scope="session")
def blob() -> Callable[[Volume, np.ndarray, float], np.ndarray]:
    """``blob(volume, centre, sigma)``: a bright ball on a volume's grid."""
    return lambda volume, centre, sigma: make_blob(volume.grid, centre, sigma)


@pytest.fixture(scope="session")
def tiny_training() -> Callable[..., dict[str, Any]]:
    """Make the request of a tiny training: ``tiny_training(steps=40, name="mine") -> dict``."""

    def request(steps: int, settings: Mapping[str, Any] | None = None, **more: Any) -> dict[str, Any]:
        text = tiny_words(**(settings or {}))
        return {"steps": str(steps), "initial_model": "none", "device": "cpu", "settings": text, **more}

    return request


# -- a browser -----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def chromium(request: pytest.FixtureRequest) -> Iterator[Any]:
    """Chromium, with the flags that its module names in `FLAGS`; it wants nothing from the network for itself."""
    playwright = pytest.importorskip(
        "playwright.sync_api", reason="drives the browser; comes with the test extra"
    )
    program = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if program is None:
        pytest.skip("needs Chromium: apt-get install chromium")
    flags = [
        *("--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--disable-background-networking"),
        *("--disable-component-update", "--disable-sync", "--no-first-run", "--no-default-browser-check"),
        *request.module.FLAGS,
    ]
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=program, args=flags, timeout=1000 * PATIENCE)
        yield browser
        browser.close()
