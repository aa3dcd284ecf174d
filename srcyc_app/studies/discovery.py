"""Bringing the state of a studies folder in line with what lies on the disk."""

from __future__ import annotations

import logging
import threading
import time
from pathlib import Path
from typing import Any

from srcyc.errors import DataError, VolumeError
from srcyc.volumes.geometry import Grid
from srcyc.volumes.image_files import volume_suffix
from srcyc.volumes.volume import is_volume_path, volume_stem
from srcyc_app.studies.decoding import Reading
from srcyc_app.studies.identifiers import is_plain_component
from srcyc_app.studies.state import DataModel, ImageLabelModel, StateFile, StudiesModel, file_name
from srcyc_app.studies.watching import LABELS, FolderView, mark_of

_log = logging.getLogger(__name__)

#: What is read from a scan itself.
_READ = ("spacing", "shape", "error")

#: Tag -> names of the label files.
_LabelFiles = dict[str, set[str]]


class Discovery:
    """Looks at the folder and takes up what appeared, changed or went.

    Args:
        folder: the studies folder.
        state: its state.
        interval: see :class:`~srcyc_app.studies.watching.FolderView`.
        reading: how headers are read.

    Attributes:
        found: whether the last look found anything new, changed or gone.
    """

    def __init__(self, folder: Path, state: StateFile, interval: float, reading: Reading) -> None:
        self._folder = folder
        self._state = state
        self._reading = reading
        self._view = FolderView(folder, interval, self._list)
        #: What headers said when a tree was listed, until it is in the state.
        self._read: dict[str, dict[str, Any]] = {}
        self._one_at_a_time = threading.Lock()
        self.found = False
        #: File name -> id and info of scans that went: a share that was away for a while must not cost the tags.
        self._gone: dict[str, tuple[str, dict[str, Any]]] = {}

    def look(self) -> bool:
        """Look once.

        Headers are read without holding up anyone who asks the datastore.

        Returns:
            Whether there are files that have not settled yet.

        Raises:
            DataError: the folder cannot be listed, or its state is damaged; nothing is changed then.
        """
        with self._one_at_a_time:
            self._state.reload()
            with self._state.lock:
                known = self._known()
            try:
                scans, settled = self._view.look(known)
                labels = self._label_files()
            except OSError as error:
                raise DataError(
                    f"{self._folder}: cannot be listed ({error.strerror}); is the disk still there?"
                ) from error
            with self._state.lock:
                known = self._known()
                stale = any(name not in scans for name in known) or self._labels_differ(labels)
            new = [
                (name, mark) for name, mark in scans.items() if name in settled and known.get(name) != mark
            ]
            # Of a series in a tree what was read when the tree was listed.
            read = {
                name: (mark, self._read.pop(name, {}) or describe(self._folder / name, self._reading))
                for name, mark in new
            }
            self.found = bool(read or stale)
            if self.found:
                with self._state.changing() as model:
                    self._drop_gone(model, set(scans))
                    self._take_up(model, read)
                    self._align_labels(model, labels)
            return len(settled) < len(scans)

    def _known(self) -> dict[str, str]:
        """Give file name -> mark of what the state has."""
        objects = self._state.model.objects.items()
        return {file_name(key, image): str(image.image.info.get("seen")) for key, image in objects}

    def _list(self, folder: Path) -> list[str]:
        """List the series of a tree by their names below the studies folder, and keep what their headers say."""
        try:
            found = self._reading.tree(folder)
        except VolumeError as error:
            found = {"": error}
        except Exception:  # noqa: BLE001 - one strange file must not keep the others out
            _log.exception("%s: its series cannot be listed.", folder)
            found = {}
        if not found and is_volume_path(folder):
            return [folder.name]
        names = {f"{folder.name}/{name}" if name else folder.name: one for name, one in found.items()}
        for name, one in names.items():
            self._read[name] = _told(one, folder) if isinstance(one, VolumeError) else place_of(one)
        return list(names)

    def _drop_gone(self, model: StudiesModel, there: set[str]) -> None:
        for image_id, image in list(model.objects.items()):
            name = file_name(image_id, image)
            # Looked at again: it may have been uploaded since the folder was listed.
            path = self._folder / name
            if name not in there and (self._view.knows(name) or not (path.exists() and is_volume_path(path))):
                _log.info("%s: went.", name)
                self._gone[name] = image_id, dict(image.image.info)
                del model.objects[image_id]

    def _take_up(self, model: StudiesModel, read: dict[str, tuple[str, dict[str, Any]]]) -> None:
        ids = {file_name(key, image): key for key, image in model.objects.items()}
        for name, (mark, description) in read.items():
            try:
                if mark_of(self._folder / name.split("/")[0])[0] != mark:
                    continue  # changed meanwhile: the next look reads it again
            except OSError:
                continue
            image_id = ids.get(name)
            if image_id is None:
                image_id, info = self._gone.pop(name, ("", {}))
                if not image_id or image_id in model.objects:
                    image_id = free_id(model, name)
                info = {"ts": int(time.time()), **info, "name": name}
                ext = name[len(image_id) :] if name.startswith(image_id) else ""
                model.objects[image_id] = ImageLabelModel(image=DataModel(ext=ext, info=info))
                _log.info("%s: new, image id %r.", name, image_id)
            image = model.objects[image_id].image
            kept = {key: value for key, value in image.info.items() if key not in _READ}
            image.info = {**kept, **description, "name": name, "seen": mark}

    # -- labels --------------------------------------------------------------------------------------------------

    def _label_files(self) -> _LabelFiles:
        found: _LabelFiles = {}
        for path in (self._folder / LABELS).glob("[!.]*/[!.]*"):
            if is_plain_component(path.parent.name) and path.is_file():
                found.setdefault(path.parent.name, set()).add(path.name)
        return found

    def _labels_differ(self, files: _LabelFiles) -> bool:
        objects = self._state.model.objects
        gone = any(
            label_name(key, label) not in files.get(tag, ())
            for key, image in objects.items()
            for tag, label in image.labels.items()
        )
        return gone or any(
            label_stem(name) in objects and tag not in objects[label_stem(name)].labels
            for tag, names in files.items()
            for name in names
        )

    def _align_labels(self, model: StudiesModel, files: _LabelFiles) -> None:
        folder = self._folder / LABELS
        for image_id, image in model.objects.items():
            for tag, label in list(image.labels.items()):
                if not (folder / tag / label_name(image_id, label)).is_file():
                    del image.labels[tag]
        for tag, names in files.items():
            for name in sorted(names):
                stem = label_stem(name)
                owner = model.objects.get(stem)
                if owner is not None and tag not in owner.labels and (folder / tag / name).is_file():
                    info = {"ts": int(time.time()), "name": name}
                    owner.labels[tag] = DataModel(ext=name[len(stem) :], info=info)


def describe(path: Path, reading: Reading) -> dict[str, Any]:
    """Give what a scan's header says: ``spacing`` (mm) and ``shape`` (voxels), or an ``error``, a sentence."""
    try:
        return place_of(reading.grid(path))
    except VolumeError as error:
        return _told(error, path)
    except Exception:  # noqa: BLE001 - one strange file must not keep the others out
        _log.exception("%s: its header cannot be read.", path)
        return {"error": f"{path.name}: its header cannot be read; convert or copy the file again."}


def _told(error: VolumeError, path: Path) -> dict[str, Any]:
    return {"error": str(error).replace(str(path), path.name)}


def place_of(grid: Grid) -> dict[str, Any]:
    """Give spacing (mm) and shape of a grid as image info."""
    return {"spacing": [round(value, 6) for value in grid.spacing], "shape": list(grid.shape)}


def free_id(model: StudiesModel, name: str) -> str:
    """Choose the id of a new file: its stem, else its name, else its name with a number; of a tree's, its path."""
    name = name.replace("/", "_")
    stem = volume_stem(Path(name))
    for candidate in (stem, name):
        if candidate not in model.objects and is_plain_component(candidate):
            return candidate
    number = 2
    while f"{stem}-{number}" in model.objects:
        number += 1
    return f"{stem}-{number}"


def label_stem(name: str) -> str:
    """Give the image id that a label file's name stands for."""
    return volume_stem(Path(name)) if volume_suffix(Path(name)) else Path(name).stem


def label_name(image_id: str, label: DataModel) -> str:
    """Give the name of a label's file."""
    return str(label.info.get("name") or f"{image_id}{label.ext}")
