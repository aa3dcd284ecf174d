"""What the app does, whoever runs it: our server, MONAI Label's, their background processes, or a script."""

from __future__ import annotations

import copy
import logging
import os
import re
import sys
import tempfile
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from monailabel.config import settings
from monailabel.interfaces.datastore import Datastore

from srcyc._version import __version__
from srcyc.errors import ConfigError, OutputError
from srcyc.files import remove_unfinished
from srcyc.pacs.web import DicomWeb, Login
from srcyc_app.activation import COPIES
from srcyc_app.infers.batch import BatchSuperResolution
from srcyc_app.infers.options import Options
from srcyc_app.infers.super_resolution import Result, SuperResolutionTask
from srcyc_app.models import ModelShelf
from srcyc_app.refusals import forbidden, not_found, unusable
from srcyc_app.studies.archives import refuse_detached
from srcyc_app.studies.datastore import StudiesFolder
from srcyc_app.studies.decoding import Reading, reading
from srcyc_app.studies.identifiers import is_inside, is_plain_component
from srcyc_app.studies.pacs import ANSWER_SECONDS, Pacs
from srcyc_app.studies.sessions import ScanSessions
from srcyc_app.studies.strategies import RandomScan
from srcyc_app.trainers.task import UnpairedTraining

_log = logging.getLogger(__name__)

#: Both the inference task and the trainer bear this name.
NAME = "srcyc"

#: Seconds after which a model file that is still being written is nobody's: a training may be publishing one.
_ABANDONED = 3600
#: What Python calls the temporary files into which the stock server puts uploads: not to be guessed.
_UPLOADED = re.compile(r"tmp[a-z0-9_]{8}(\..*)?")


class AppCore:
    """The app without MONAI Label's own class, whose import takes longer than all else: for our server and scripts.

    It offers the inference task and the trainer ``srcyc``.

    Args:
        app_dir: the folder of ``main.py``.
        studies: the studies folder, or the address of a DICOMweb server.
        conf: MONAI Label's ``--conf``: ``model_dir`` (default: ``model`` in the app's folder) for retrained models,
            runs and logs; ``packaged_models`` (``false`` offers retrained ones only); ``max_upload_gb``;
            ``allow_model_files``; ``allowed_hosts`` (with commas between them), by which MONAI Label's own server may
            be called besides this machine's names; ``pacs_login``, a file with the login for a DICOMweb server;
            ``decode_apart`` (``false`` reads files in this process, as a script does with its own).

    Raises:
        ConfigError: a value in ``conf`` that cannot be used.
        DataError: the studies folder's state cannot be read.
    """

    name = "SRCyc"
    description = "Super-resolution of thick-slice MR scans. Research software, not for diagnostic use."
    version = __version__

    def __init__(self, app_dir: str, studies: str, conf: Mapping[str, str] | None = None) -> None:
        self.app_dir, self.studies, self.conf = app_dir, studies.rstrip("/") or studies, dict(conf or {})
        self.model_dir = Path(self.conf.get("model_dir") or Path(app_dir) / "model").absolute()
        self.max_upload = _gigabytes(self.conf.get("max_upload_gb", "4"))
        self.allow_model_files = _switch(self.conf, "allow_model_files", default=False)
        self.shelf = ModelShelf(
            self.model_dir, with_packaged=_switch(self.conf, "packaged_models", default=True)
        )
        apart = _switch(self.conf, "decode_apart", default=True)
        #: Reads what clients send and what lies in the studies folder.
        self.reading: Reading = reading(self.max_upload) if apart else Reading()
        #: Where results are made before they are sent; None: the system's temporary folder.
        self.scratch: Path | None = None
        self._datastore: Datastore = self._studies_folder() if self.folder is not None else self._pacs()
        self._infers = {NAME: SuperResolutionTask(self.shelf, self.max_upload, self.reading)}
        self._trainers = (
            {NAME: UnpairedTraining(self.model_dir, self.shelf)} if settings.MONAI_LABEL_TASKS_TRAIN else {}
        )
        self._strategies = {"random": RandomScan()} if settings.MONAI_LABEL_TASKS_STRATEGY else {}
        self._batch_infer = BatchSuperResolution()
        self._sessions = self._load_sessions() if settings.MONAI_LABEL_SESSIONS else None
        self._server_mode = False

    @property
    def folder(self) -> Path | None:
        """The studies folder; None: the scans are a DICOMweb server's."""
        return None if self.studies.startswith(("http://", "https://")) else Path(self.studies)

    # -- parts ---------------------------------------------------------------------------------------------------

    def _studies_folder(self) -> StudiesFolder:
        return StudiesFolder(
            self.studies,
            watch=settings.MONAI_LABEL_DATASTORE_AUTO_RELOAD,
            read_only=settings.MONAI_LABEL_DATASTORE_READ_ONLY,
            reading=self.reading,
        )

    def _pacs(self) -> Pacs:
        """Give the DICOMweb server's series.

        Raises:
            ConfigError: an address or a login that cannot be used.
        """
        login = self.conf.get("pacs_login")
        chosen = settings.model_fields_set
        # MONAI Label's default is CT.
        wanted = settings.MONAI_LABEL_DICOMWEB_SEARCH_FILTER
        place = settings.MONAI_LABEL_DICOMWEB_CACHE_PATH.strip()
        name, password = settings.MONAI_LABEL_DICOMWEB_USERNAME, settings.MONAI_LABEL_DICOMWEB_PASSWORD
        line = f"{name}:{password}" if name else ""
        return Pacs(
            DicomWeb(
                self.studies,
                Login(Path(login) if login else None, otherwise=line, anew=True),
                seconds=ANSWER_SECONDS,
                only=wanted if "MONAI_LABEL_DICOMWEB_SEARCH_FILTER" in chosen else {"Modality": "MR"},
                qido_prefix=settings.MONAI_LABEL_QIDO_PREFIX,
                wado_prefix=settings.MONAI_LABEL_WADO_PREFIX,
            ),
            Path(place) if place else Path.home() / ".cache" / "monailabel" / "dicom",
            expiry=settings.MONAI_LABEL_DICOMWEB_CACHE_EXPIRY,
            max_bytes=self.max_upload,
        )

    def _load_sessions(self) -> ScanSessions:
        place = settings.MONAI_LABEL_SESSION_PATH.strip()
        return ScanSessions(
            os.path.abspath(place) if place else "",
            settings.MONAI_LABEL_SESSION_EXPIRY,
            max_bytes=self.max_upload,
        )

    def datastore(self) -> Datastore:
        """Give the scans."""
        return self._datastore

    def sessions(self) -> ScanSessions | None:
        """Give what clients sent for some time; None: switched off."""
        return self._sessions

    def cleanup_sessions(self) -> None:
        """Remove what is over: sessions, and series of a DICOMweb server that nobody uses."""
        if self._sessions is not None:
            self._sessions.remove_expired()
        if isinstance(self._datastore, Pacs):
            self._datastore.remove_expired()

    def server_mode(self, mode: bool) -> None:
        """Tell whether clients ask, who may name no path; or a script."""
        self._server_mode = mode
        if mode:
            close_import_paths(self._client_folders())
            for folder in (self.model_dir, *(self.model_dir / COPIES).glob("*")):
                remove_unfinished(folder, age=_ABANDONED)
            try:
                self.shelf.settle()
            except OutputError as error:
                _log.warning("%s The model in use is the newest one until somebody chooses another.", error)
            self.reading.prepare()

    # -- requests ------------------------------------------------------------------------------------------------

    def info(self) -> dict[str, Any]:
        """Tell what there is, in MONAI Label's words."""
        return {
            "name": self.name,
            "description": self.description,
            "version": self.version,
            "labels": [],
            "models": {name: task.info() for name, task in self._infers.items() if task.is_valid()},
            "trainers": {name: task.info() for name, task in self._trainers.items()},
            "strategies": {name: strategy.info() for name, strategy in self._strategies.items()},
            "scoring": {},
            "train_stats": {name: task.stats() for name, task in self._trainers.items()},
            "datastore": self._datastore.status(),
        }

    def infer(
        self,
        request: dict[str, Any],
        datastore: Datastore | None = None,
        *,
        progress: Callable[[float], None] | None = None,
        source: Path | None = None,
        shown: str | None = None,
        labels: Path | None = None,
    ) -> dict[str, Any]:
        """Super-resolve one scan.

        Args:
            request: ``model``, ``image`` (an image id; without a server a path does too), and the options of
                :class:`~srcyc_app.infers.options.Options`.
            datastore: where ids are looked up; default: the app's.
            progress: told the share done; what it raises cancels the work.
            source: the scan's file, where the caller has it: an upload, or a session's.
            shown: how the client calls that file.
            labels: a label map of the scan that was sent along.

        Returns:
            ``file``: the result, to be removed by the caller; ``params``: the sidecar's content.

        Raises:
            Refusal: 4xx, what the request is to blame for.
            SRCycError: the network failed.
        """
        task = self._task(self._infers, request)
        options = Options.of(request)
        store = datastore or self.datastore()
        image = None
        if source is None:
            source, image = self.find_scan(request.get("image"), store)
            shown = source.name
        if image is None and self._server_mode:
            refuse_detached(source, shown)
        if options.store and (image is None or not isinstance(store, StudiesFolder | Pacs)):
            raise unusable(
                "store: only results of scans in the studies folder are kept; upload the scan first."
            )
        if options.store and options.result_extension == ".zip" and isinstance(store, StudiesFolder):
            raise unusable(
                "store: a studies folder keeps volumes; ask for another result_extension than .zip."
            )
        result = task.run(
            source,
            options,
            shown=shown,
            folder=self.scratch,
            progress=progress,
            to_pacs=options.store and isinstance(store, Pacs),
            labels=self._label_map(labels, options, request, store, image),
        )
        try:
            if result.series is not None and isinstance(store, Pacs):
                result.params["stored_as"] = store.store_series(result.series)
                result.remove_series()
            if options.store and image is not None and isinstance(store, StudiesFolder):
                result.params["stored_as"] = store.store_result(
                    image, result.file, dict(result.params), result.maps
                )
            self._hand_over_maps(result)
        except BaseException:
            result.remove()
            raise
        file = str(result.file)
        return {"file": file, "label": file, "tag": "", "params": result.params}

    def _label_map(
        self,
        sent: Path | None,
        options: Options,
        request: Mapping[str, Any],
        store: Datastore,
        image: str | None,
    ) -> Path | None:
        """Give the file of the label map that is wanted on the result's grid: one sent along, or a saved one.

        Raises:
            Refusal: 4xx, there is none, or two.
        """
        # MONAI Label's own server puts what was sent along into a file, and its path there.
        if sent is None and os.path.isabs(label := str(request.get("label") or "")):
            sent, _ = self.find_scan(label, store)
        if options.labels is not None and image is not None and isinstance(store, StudiesFolder):
            if sent is not None:
                raise unusable("labels: a label map was sent along too; leave one of them out.")
            sent = Path(store.get_label_uri(image, options.labels))
        if sent is not None and self._server_mode:
            refuse_detached(sent, "label")
        return sent

    def find_scan(self, image: Any, datastore: Datastore) -> tuple[Path, str | None]:
        """Give the file of a scan, and its id if it is one of the datastore's.

        Raises:
            Refusal: 404 for an unknown id, 403 for a path that is nobody's business, 422 for what is neither.
        """
        if not isinstance(image, str) or not image:
            raise unusable("image: give an image id, a session, or upload a file.")
        if is_plain_component(image) and _has(datastore, image):
            return Path(datastore.get_image_uri(image)), image
        path = Path(image)
        if not self._server_mode and path.exists():
            return path, None
        if not path.is_absolute():
            raise not_found(f"image {image[:60]!r} is unknown; /datastore/?output=all lists the images.")
        if "\0" in image or not self._may_read(path):
            raise forbidden("image: paths outside the studies folder are not read; upload the scan instead.")
        if not path.exists():
            raise not_found(f"image {path.name!r} is not there any more; send it again.")
        return path, None

    def train(self, request: dict[str, Any]) -> dict[str, Any]:
        """Train; see :class:`~srcyc_app.trainers.task.UnpairedTraining`.

        Raises:
            Refusal: 404, no such trainer; what the request is to blame for.
        """
        if self._server_mode:
            raise unusable("run_sync: a training takes hours and runs in the background; leave run_sync out.")
        task = self._task(self._trainers, request)
        stats: dict[str, Any] = task(copy.deepcopy(request), self.datastore())
        return stats

    def check_training(self, request: dict[str, Any]) -> None:
        """Refuse at once a training that could not begin.

        Raises:
            Refusal: 4xx, with the reason.
        """
        self._task(self._trainers, request).check(request, self.datastore())

    def batch_infer(self, request: dict[str, Any], datastore: Datastore | None = None) -> dict[str, Any]:
        """Super-resolve many scans; see :class:`~srcyc_app.infers.batch.BatchSuperResolution`.

        Raises:
            Refusal: 404, no such task; what the request is to blame for.
        """
        if self._server_mode:
            raise unusable("run_sync: a batch takes hours and runs in the background; leave run_sync out.")
        self._task(self._infers, request)
        return self._batch_infer(request, datastore or self.datastore(), self.infer)

    def next_sample(self, request: dict[str, Any]) -> dict[str, Any]:
        """Choose a scan; {} if there is none.

        Raises:
            Refusal: 404, no such strategy.
        """
        strategy = request.get("strategy") or "random"
        if strategy not in self._strategies:
            raise not_found(f"strategy {strategy!r} is unknown; choose one of {', '.join(self._strategies)}.")
        chosen = self._strategies[strategy]({**request, "strategy": strategy}, self.datastore())
        if not chosen or not chosen.get("id"):
            return {}
        return {**chosen, "path": self.datastore().get_image_uri(chosen["id"])}

    def on_save_label(self, image_id: str, label_id: str) -> dict[str, Any] | None:
        """Do nothing: no label is trained on."""
        return None

    # -- inside --------------------------------------------------------------------------------------------------

    @staticmethod
    def _task(tasks: Mapping[str, Any], request: Mapping[str, Any]) -> Any:
        name = str(request.get("model"))
        if name not in tasks:
            raise not_found(f"model {name[:60]!r} is unknown; there is {', '.join(tasks) or 'none'}.")
        return tasks[name]

    def _client_folders(self) -> list[Path]:
        """List the folders in which clients put files."""
        folders = [self.model_dir]
        if self.folder is not None:
            folders.append(self.folder)
        if self._sessions is not None:
            folders.append(Path(self._sessions.store_path))
        return folders

    def _may_read(self, path: Path) -> bool:
        """Tell whether a client may name a path: in the studies folder, of a session, or the stock server's upload."""
        studies = Path(self.studies)
        if studies.is_dir() and is_inside(path, studies):
            # All of the folder is no scan, also where a single series lies somewhere in it.
            return not studies.samefile(path) if path.exists() else True
        if self._sessions is not None and is_inside(path, Path(self._sessions.store_path)):
            return True
        uploads = Path(tempfile.gettempdir())
        return path.parent == uploads and bool(_UPLOADED.fullmatch(path.name)) and path.is_file()

    def _hand_over_maps(self, result: Result) -> None:
        """Keep maps as sessions, from which any client of MONAI Label can fetch them; a script gets their paths."""
        for name, path in result.maps.items():
            if self._sessions is None or not self._server_mode:
                result.params[f"{name}_file"] = str(path)
                continue
            try:
                session, _ = self._sessions.add_session(str(path))
            finally:
                path.unlink(missing_ok=True)
            result.params[f"{name}_session"] = session


def _has(datastore: Datastore, image: str) -> bool:
    return datastore.has(image) if isinstance(datastore, Pacs) else image in datastore.list_images()


def _switch(conf: Mapping[str, str], key: str, *, default: bool) -> bool:
    text = str(conf.get(key, default)).lower()
    if text not in ("true", "false"):
        raise ConfigError(f"{key} {text!r}: give true or false.")
    return text == "true"


def close_import_paths(writable: Iterable[Path]) -> None:
    """Let Python find no module where clients put files: not in this process, and not in those that it starts.

    An empty entry of ``PYTHONPATH``, as MONAI Label makes one, is the working directory, and that may be the studies
    folder.

    Args:
        writable: folders whose content clients choose.
    """
    folders = [folder for folder in writable if folder.is_dir()]

    def is_open(entry: str) -> bool:
        return any(is_inside(Path(entry or "."), folder) for folder in folders)

    if is_open("."):
        place = Path(Path.cwd().anchor)
        _log.warning("%s: clients put files there; the server works in %s instead.", Path.cwd(), place)
        os.chdir(place)
    sys.path[:] = [entry for entry in sys.path if not is_open(entry)]
    entries = os.environ.get("PYTHONPATH", "").split(os.pathsep)
    # MONAI Label's background tasks fail without the variable.
    os.environ["PYTHONPATH"] = os.pathsep.join(entry for entry in entries if entry and not is_open(entry))


def _gigabytes(text: str) -> int:
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value < float("inf"):
        raise ConfigError(f"max_upload_gb {text!r}: give a positive number of GB.")
    return int(value * 1e9)
