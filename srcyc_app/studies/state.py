"""The state of a studies folder: one JSON file, as MONAI Label writes it, shared by threads and processes."""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout
from pydantic import BaseModel

from srcyc.errors import DataError
from srcyc.files import LOCK, remove_unfinished, write_text, writing
from srcyc_app.refusals import conflict
from srcyc_app.studies.identifiers import is_plain_component
from srcyc_app.studies.watching import LABELS

_log = logging.getLogger(__name__)

STATE_FILE = "datastore_v2.json"
_LOCK_SECONDS = 30


class DataModel(BaseModel):
    """What is known of an image, or of a label of it.

    Attributes:
        info: by key; ``name`` is its file's.
        ext: of that file.
    """

    info: dict[str, Any] = {}
    ext: str = ""


class ImageLabelModel(BaseModel):
    """An image, and its labels by tag."""

    image: DataModel
    labels: dict[str, DataModel] = {}


class StudiesModel(BaseModel):
    """The state as MONAI Label writes it (its ``LocalDatastoreModel``, whose import would load all of MONAI).

    Attributes:
        name, description: of the folder.
        images_dir, labels_dir: relative.
        objects: images by id.
    """

    name: str
    description: str
    images_dir: str = ""
    labels_dir: str = "labels"
    objects: dict[str, ImageLabelModel] = {}


_EMPTY = StudiesModel(name="SRCyc studies", description="Scans for super-resolution").model_dump_json()


class StateFile:
    """Reads, locks and replaces the state file of a folder.

    Args:
        folder: the studies folder.
        read_only: changes stay in memory, nothing is locked or written.

    Raises:
        DataError: the file is there and cannot be read; it is left as it is.
    """

    def __init__(self, folder: Path, *, read_only: bool = False) -> None:
        self.path = folder / STATE_FILE
        #: Guards :attr:`model` between threads.
        self.lock = threading.RLock()
        self._file_lock = FileLock(folder / LOCK)
        self._read_only = read_only
        self._stamp: tuple[int, int, int] | None = None
        self._text = _EMPTY
        self.model = self._parsed(_EMPTY.encode())
        self.reload()
        if not read_only:
            with self._locked():
                remove_unfinished(folder, STATE_FILE)

    def reload(self) -> None:
        """Take over what another process has written meanwhile.

        Raises:
            DataError: the file cannot be read.
        """
        with self.lock:
            try:
                stamp = self._stamp_now()
                if stamp is None or stamp == self._stamp:
                    return
                raw = self.path.read_bytes()
            except OSError as error:
                raise DataError(
                    f"{self.path}: cannot be read ({error.strerror}); check its permissions."
                ) from error
            self.model = self._parsed(raw)
            self._text = self._dumped()
            self._stamp = stamp

    @contextmanager
    def changing(self) -> Iterator[StudiesModel]:
        """Hold the newest state for a change, which is on the disk at the end of the block, or not made at all.

        Raises:
            Refusal: 409, the file was damaged meanwhile, or another process does not let go of it.
            OutputError: the disk is full or not writable.
        """
        with self.lock, self._locked():
            try:
                self.reload()
            except DataError as error:
                raise conflict(str(error).replace(str(self.path), self.path.name)) from error
            before = self._text
            try:
                yield self.model
                text = self._dumped()
                if text != before:
                    if not self._read_only:
                        write_text(self.path, text)
                        self._stamp = self._stamp_now()
                    self._text = text
            except BaseException:
                # Half a change in memory would be written with the next one.
                self.model = self._parsed(before.encode())
                raise

    @contextmanager
    def _locked(self) -> Iterator[None]:
        if self._read_only:
            yield
            return
        with writing(self.path.parent):
            try:
                self._file_lock.acquire(timeout=_LOCK_SECONDS)
            except Timeout as error:
                raise conflict("the studies folder is locked by another process; try again later.") from error
        try:
            yield
        finally:
            self._file_lock.release()

    def _stamp_now(self) -> tuple[int, int, int] | None:
        try:
            status = self.path.stat()
        except FileNotFoundError:
            return None
        return status.st_mtime_ns, status.st_size, status.st_ino

    def _dumped(self) -> str:
        return self.model.model_dump_json(indent=2)

    def _parsed(self, raw: bytes) -> StudiesModel:
        try:
            model = StudiesModel.model_validate_json(raw)
        except ValueError as error:
            reason = " ".join(str(error).split())[:160]
            raise DataError(
                f"{self.path}: the state of the studies folder is damaged ({reason}); restore the file "
                "from a copy, or move it away to begin anew without tags."
            ) from error
        model.images_dir, model.labels_dir = ".", LABELS
        _drop_unusable(model)
        return model


def file_name(image_id: str, image: ImageLabelModel) -> str:
    """Give the name of an image's file or folder."""
    return str(image.image.info.get("name") or f"{image_id}{image.image.ext}")


def _drop_unusable(model: StudiesModel) -> None:
    """Forget images and labels whose names would lead out of the folder: the file may have been edited."""
    names: set[str] = set()
    for image_id, image in list(model.objects.items()):
        name = file_name(image_id, image)
        if (
            not is_plain_component(image_id)
            or any(part in ("", ".", "..") or part != os.path.basename(part) for part in name.split("/"))
            or name in names
        ):
            _log.warning(
                "%s: image %r is left out, its id or file name is not a plain one.", STATE_FILE, image_id
            )
            del model.objects[image_id]
            continue
        names.add(name)
        for tag in [tag for tag in image.labels if not is_plain_component(tag)]:
            del image.labels[tag]
