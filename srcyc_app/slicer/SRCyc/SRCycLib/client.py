"""A client of the server: HTTP, files and plain data; it knows nothing of Slicer."""

from __future__ import annotations

import json
import math
import threading
import time
import uuid
import zipfile
from collections.abc import Callable
from contextlib import closing, suppress
from pathlib import Path
from typing import Any
from urllib.parse import quote

import requests

from SRCycLib import VERSION, series
from SRCycLib.connection import LONG, Connection, ServerError, Unreachable
from SRCycLib.multipart import Form, Malformed, Reply
from SRCycLib.training import Watch, is_over
from SRCycLib.unpacking import unpack

__all__ = ["Client", "ServerError", "Unreachable"]

_NAME = "srcyc"
_APP = "SRCyc"

_SUFFIXES = (".nii.gz", ".nii", ".nrrd", ".mha", ".mhd", ".zip")
_DOMAINS = ("", "LR", "HR", "neither")
#: Maps that a result may have.
_MAPS = ("uncertainty", "correction")

#: Seconds between two questions how far an inference is, and after which it is taken to run if nobody can tell.
_POLL = 0.5
_UNTOLD = 3.0
#: Seconds between two questions to a server that is starting.
_KNOCK = 0.5
#: Watching a training, so many questions in a row may stay without an answer.
_LOST = 3

Progress = Callable[[str, float], None]


class Client:
    """One server.

    Args:
        url: its address, such as ``http://127.0.0.1:8000``; ``user:password@`` for a proxy that asks for them.
        timeout: seconds for a connection, and for each answer that needs no computing.

    Raises:
        ServerError: no address of a server. All methods raise it, with a sentence for the user.
    """

    def __init__(self, url: str, *, timeout: float = 10.0) -> None:
        self._connection = Connection(url, timeout, f"SRCyc-Slicer/{VERSION}")
        self.url = self._connection.url

    # -- what is there ---------------------------------------------------------------------------------------------

    def info(self) -> dict[str, Any]:
        """Tell what the server is and offers.

        Returns:
            ``version``; ``models``: ``name`` and ``card`` of each (None, and an ``error``, where it is damaged), the
            default first; ``options`` and ``trainer``: what an inference and a training can be asked for; ``training``:
            see :meth:`training`; ``warning``: a sentence, or "".
        """
        info = self._info()
        model = info["models"][_NAME]
        options = model.get("config") or {}
        cards = model.get("cards") or {}
        models = [_model(name, cards.get(name)) for name in options.get("weights") or ()]
        return {
            "version": str(info["version"]),
            "models": models,
            "options": options,
            "trainer": ((info.get("trainers") or {}).get(_NAME) or {}).get("config") or {},
            "training": _training_of(info),
            "warning": ""
            if models
            else f"{self.url} has no model yet: train one, or have one put into its model folder.",
        }

    def wait(self, seconds: float) -> dict[str, Any]:
        """Give :meth:`info` as soon as a server that is starting answers, or say why it does not."""
        end = time.monotonic() + seconds
        while True:
            try:
                return self.info()
            except Unreachable as error:
                if time.monotonic() > end:
                    raise Unreachable(
                        f"The server at {self.url} did not answer within {seconds:g} s of its start: see its log, or "
                        "wait and connect again."
                    ) from error
            time.sleep(_KNOCK)

    def scans(self) -> list[dict[str, Any]]:
        """List the scans of the studies folder, sorted by their ``id``.

        ``domain`` (LR, HR, SR, neither), ``reason`` and ``tag`` of it, ``spacing`` and ``shape`` (None if unknown),
        ``error`` (a file that cannot be read), ``made_from`` (of a result), ``person``, ``description`` (of a PACS's
        series); "" where there is none.
        """
        listing = self._connection.json("GET", "/datastore/", params={"output": "all"})
        objects = listing.get("objects") or {}
        return [
            _scan(image, (objects[image].get("image") or {}).get("info") or {}) for image in sorted(objects)
        ]

    # -- inference ---------------------------------------------------------------------------------------------------

    def infer(
        self, file: str | Path, folder: str | Path, params: dict[str, Any], progress: Progress
    ) -> dict[str, Any]:
        """Super-resolve a scan.

        Args:
            file: the scan, a volume.
            folder: exists; the results are put there.
            params: ``options`` of :meth:`info`.
            progress: called with ``uploading``, ``queued``, ``running`` or ``downloading`` and a share from 0 to 1.

        Returns:
            ``volume``: path; ``maps``: paths by their names, ``uncertainty`` and ``correction``, as far as they were
            asked for; ``report``: what `srcyc infer` writes beside its output.
        """
        file, folder = Path(file), Path(folder)
        request_id = uuid.uuid4().hex
        watched = _Watched(self._connection.beside(), request_id, progress)
        form = _form(file, {"params": {**params, "request_id": request_id}}, watched.sent)
        every = {"output": "all"}
        with (
            closing(watched),
            closing(form),
            self._send("POST", f"/infer/{_NAME}", form, params=every) as response,
        ):
            watched.close()
            volume, report = self._result(response, folder, progress)
        return {"volume": str(volume), "maps": self._maps(report, folder), "report": report}

    def _result(
        self, response: requests.Response, folder: Path, progress: Progress
    ) -> tuple[Path, dict[str, Any]]:
        size = int(response.headers.get("content-length") or 0)
        taken = 0

        def counted() -> Any:
            nonlocal taken
            for block in self._connection.blocks(response):
                taken += len(block)
                progress("downloading", min(1.0, taken / size) if size else 0.0)
                yield block

        progress("downloading", 0.0)
        try:
            reply = Reply(response.headers.get("content-type", ""), folder, _suffix)
            reply.read(counted())
            if "image" not in reply.files or not isinstance(reply.fields.get("params"), dict):
                raise Malformed("the volume or the report is missing")
            return reply.files["image"], reply.fields["params"]
        except Malformed as error:
            raise ServerError(
                f"The reply of {self.url} is damaged ({error}): send the scan again, and look at its log if that does "
                "not help."
            ) from error

    def _maps(self, report: dict[str, Any], folder: Path) -> dict[str, str]:
        """Fetch the maps of a result; that one cannot be had is no reason to lose the result."""
        maps = {}
        for name in _MAPS:
            session = report.get(f"{name}_session")
            if not session:
                continue
            path = f"/session/{quote(str(session), safe='')}"
            try:
                maps[name] = str(self._fetch(path, {"image": "true"}, folder, name))
            except ServerError as error:
                report["warnings"] = [*report.get("warnings", ()), f"there is no {name} map: {error}"]
                continue
            with suppress(ServerError):  # it expires anyway
                self._connection.json("DELETE", path)
        return maps

    # -- scans -------------------------------------------------------------------------------------------------------

    def download(self, image: str, folder: str | Path) -> dict[str, Any]:
        """Fetch a scan of the server, or a result that it keeps, with all that belongs to it.

        Args:
            image: its id.
            folder: exists; the files are put there.

        Returns:
            ``path``: a file, or the folder of a DICOM series. Of a result also ``report`` and ``maps``, as of
            :meth:`infer`, and ``scan``: id and path of the scan that it was made from, if that is there.
        """
        folder = Path(folder)
        listing = self._connection.json("GET", "/datastore/", params={"output": "all"})
        objects = listing.get("objects") or {}
        known = objects.get(image) or {}
        info = (known.get("image") or {}).get("info") or {}
        answer: dict[str, Any] = {"path": self._volume(image, folder, "volume")}
        if not info.get("made_from"):
            return answer
        answer["report"] = info.get("report") or {}
        answer["maps"] = {
            name: str(self._fetch("/datastore/label", {"label": image, "tag": name}, folder, name))
            for name in _MAPS
            if name in (known.get("labels") or {})
        }
        scan = str(info["made_from"])
        if scan in objects:
            answer["scan"] = {"id": scan, "path": self._volume(scan, folder, "scan")}
        return answer

    def _volume(self, image: str, folder: Path, name: str) -> str:
        """Fetch a file, or a series as a folder."""
        path = self._fetch("/datastore/image", {"image": image}, folder, name)
        if path.suffix != ".zip":
            return str(path)
        try:
            return str(unpack(path, folder / f"{name}-series", _suffix))
        except (zipfile.BadZipFile, ValueError) as error:
            raise ServerError(
                f"{image}: the server's archive cannot be unpacked ({error}); try once more."
            ) from error
        finally:
            path.unlink()

    def upload(self, file: str | Path, image: str, domain: str, overwrite: bool = False) -> dict[str, Any]:
        """Put a scan into the studies folder.

        Args:
            file: a volume.
            image: its id there.
            domain: see :meth:`set_domain`.
            overwrite: replace a scan of this id.

        Returns:
            ``image``: its id.
        """
        info: dict[str, Any] = {"domain": _checked(domain), **({"overwrite": True} if overwrite else {})}
        form, where = _form(Path(file), {"params": info}, lambda share: None), {"image": image}
        with (
            closing(form),
            self._send("PUT", "/datastore/image", form, params=where, patience=LONG) as response,
        ):
            try:
                return {"image": str(response.json().get("image", image))}
            except (requests.RequestException, ValueError, AttributeError) as error:
                raise ServerError(
                    f"{image}: the server's answer cannot be understood; see in its list whether the scan is there."
                ) from error

    def set_domain(self, image: str, domain: str) -> dict[str, Any]:
        """Say what a scan is for.

        Args:
            image: its id.
            domain: LR, HR, neither, or "" for what its spacing says.

        Returns:
            the scan as in :meth:`scans`.
        """
        address, where = "/datastore/image/info", {"image": image}
        self._connection.json(
            "PUT", address, params=where, data={"info": json.dumps({"domain": _checked(domain)})}
        )
        return _scan(image, self._connection.json("GET", address, params=where))

    # -- training ----------------------------------------------------------------------------------------------------

    def train(self, request: dict[str, Any]) -> dict[str, Any]:
        """Begin a training, or go on with one; ``trainer`` of :meth:`info` has the options. Gives the server's task."""
        return dict(self._connection.json("POST", f"/train/{_NAME}", json=request) or {})

    def stop_training(self) -> dict[str, Any]:
        """Ask the training to save and end; gives the server's task, {} if there was none."""
        return dict(self._connection.json("DELETE", "/train/") or {})

    def training(self) -> dict[str, Any]:
        """Tell how the newest training stands: ``state``, ``message``, ``step`` of ``steps``, ``history`` and more."""
        return _training_of(self._info())

    def watch(self, news: Callable[[dict[str, Any]], None], interval: float = 2.0) -> dict[str, Any]:
        """Report a training until it is over.

        Args:
            news: called with :meth:`training` whenever it has changed.
            interval: seconds between two looks.

        Returns:
            the last report.
        """
        watch = Watch()
        told: dict[str, Any] | None = None
        lost = 0
        while True:
            try:
                # The task first: one that ends between the two questions has said its last word by then.
                task = self._task()
                stats = watch.look(self.training(), task)
                lost = 0
            except Unreachable:
                lost += 1
                if lost >= _LOST:
                    raise
                time.sleep(interval)
                continue
            if stats != told:
                news(stats)
                told = stats
            if is_over(stats, task):
                return stats
            time.sleep(interval)

    def _task(self) -> dict[str, Any]:
        """Give the newest task of training; {} if there was none since the server started."""
        try:
            return dict(self._connection.json("GET", "/train/") or {})
        except Unreachable:
            raise
        except ServerError:
            return {}  # 404: none was started

    # -- inside ------------------------------------------------------------------------------------------------------

    def _info(self) -> dict[str, Any]:
        """Give the server's /info/ if it is one that this module understands."""
        info = self._connection.json("GET", "/info/")
        if not isinstance(info, dict) or "models" not in info or "version" not in info:
            raise ServerError(
                f"{self.url} answers, but not as an SRCyc server does: check the address and the port."
            )
        if info.get("name") != _APP:
            raise ServerError(
                f"{self.url} runs MONAI Label with another app, {str(info.get('name'))[:60]!r}: start SRCyc's server "
                "and connect to that one."
            )
        _check_version(str(info["version"]), self.url)
        if _NAME not in (info["models"] or {}):
            raise ServerError(
                f"{self.url} publishes no model {_NAME!r}: have one put into its model folder, or start it anew with "
                "the models that come with SRCyc."
            )
        return info

    def _send(self, method: str, path: str, form: Form, **options: Any) -> requests.Response:
        """Send a form; waits for the answer as long as the connection lives, unless told otherwise."""
        options.setdefault("patience", math.inf)
        return self._connection.open(
            method, path, data=form, headers={"Content-Type": form.content_type}, **options
        )

    def _fetch(self, path: str, params: dict[str, str], folder: Path, name: str) -> Path:
        """Write a file of the server into a folder, under our name and its suffix."""
        with self._connection.open("GET", path, params=params, patience=LONG) as response:
            target = folder / (name + _suffix(_filename(response)))
            with target.open("wb") as stream:
                for block in self._connection.blocks(response):
                    stream.write(block)
            size = response.headers.get("content-length", "")
            whole = "content-encoding" in response.headers or not size.isdigit()
            if not whole and target.stat().st_size != int(size):
                raise Unreachable(f"The connection to {self.url} was lost while a file came: try once more.")
        return target


class _Watched:
    """Tells how far an inference is; asks in a thread, for the request itself waits for its answer.

    Args:
        connection: of its own.
        request_id: of the inference.
        progress: is told.
    """

    def __init__(self, connection: Connection, request_id: str, progress: Progress) -> None:
        self._connection = connection
        self._path = f"/progress/{request_id}"
        self._progress = progress
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._ask, daemon=True)
        self._told = -1.0

    def sent(self, share: float) -> None:
        """Hear how much of the scan is sent; once all of it is, the server is asked."""
        if share - self._told >= 0.01 or share == 1.0 > self._told:
            self._told = share
            self._progress("uploading", share)
            if share == 1.0:
                self._thread.start()

    def close(self) -> None:
        """Ask no more."""
        self._over.set()
        if self._thread.is_alive():
            # Nothing may be told after the end; an answer that does not come is not waited for.
            self._thread.join(2 * _POLL)

    def _ask(self) -> None:
        begin, known = time.monotonic(), False
        while not self._over.wait(_POLL):
            try:
                answer = self._connection.json("GET", self._path)
                state, share = str(answer["state"]), float(answer["share"])
                known = True
            except (ServerError, KeyError, TypeError, ValueError):
                # MONAI Label's own server does not tell; ours knows the request when all of it has arrived.
                if known or time.monotonic() - begin < _UNTOLD:
                    continue
                state, share, known = "running", 0.0, True
            if state in ("queued", "running") and not self._over.is_set():
                self._progress(state, share)
        self._connection.close()


def _model(name: str, card: dict[str, Any] | None) -> dict[str, Any]:
    if card and "error" in card:
        return {"name": name, "card": None, "error": str(card["error"])}
    return {"name": name, "card": card}


def _scan(image: str, info: dict[str, Any]) -> dict[str, Any]:
    texts = {"domain": "domain", "reason": "domain_reason", "tag": "domain_tag"}
    texts.update({key: key for key in ("error", "made_from", "person", "description")})
    return {
        "id": image,
        **{key: str(info.get(name) or "") for key, name in texts.items()},
        "spacing": info.get("spacing"),
        "shape": info.get("shape"),
    }


def _training_of(info: dict[str, Any]) -> dict[str, Any]:
    return dict((info.get("train_stats") or {}).get(_NAME) or {})


def _checked(domain: str) -> str:
    if domain not in _DOMAINS:
        raise ServerError(f"{domain!r} is no domain: choose LR, HR or neither.")
    return domain


def _check_version(server: str, url: str) -> None:
    """Refuse a server of another series."""
    own, its = (series(version) for version in (VERSION, server))
    if own == its:
        return
    older = "server" if its < own else "module"
    shown = ".".join(map(str, own))
    raise ServerError(
        f"The server at {url} runs SRCyc {server[:40]}, this module is made for {shown}: update the {older}, so that "
        "both are of one version."
    )


def _form(file: Path, fields: dict[str, Any], sent: Callable[[float], None]) -> Form:
    try:
        return Form(file, fields, sent)
    except OSError as error:
        raise ServerError(
            f"{file}: cannot be read ({error.strerror or error}); check that the disk is not full, and try once more."
        ) from error


def _filename(response: requests.Response) -> str:
    """Give the file name of a reply as far as its suffix is concerned."""
    return response.headers.get("content-disposition", "").rstrip('"; ')


def _suffix(name: str) -> str:
    """Give the suffix of a volume's name; of another name, ".nrrd"."""
    return next((suffix for suffix in _SUFFIXES if name.lower().endswith(suffix)), ".nrrd")
