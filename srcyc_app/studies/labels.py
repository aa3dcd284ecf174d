"""The part of the studies folder that holds labels, as MONAI Label's clients save them, and access to its state."""

from __future__ import annotations

import copy
import io
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from monailabel.interfaces.datastore import Datastore, DefaultLabelTag

from srcyc.errors import DataError
from srcyc.volumes.image_files import volume_suffix
from srcyc_app.refusals import forbidden, not_found
from srcyc_app.studies.discovery import label_name
from srcyc_app.studies.identifiers import check_image_id, check_tag
from srcyc_app.studies.image_info import checked_label_info, merged
from srcyc_app.studies.placing import brought
from srcyc_app.studies.state import DataModel, ImageLabelModel, StateFile, StudiesModel, file_name
from srcyc_app.studies.watching import LABELS

#: The tag of a finished label.
FINAL = DefaultLabelTag.FINAL.value


class LabelledFolder(Datastore):
    """Labels of the images in a folder, and what every method of a datastore needs: ids checked, state locked.

    Args:
        folder: the studies folder.
        read_only: refuse whatever would change it.

    Raises:
        DataError: its state file is damaged.
    """

    def __init__(self, folder: Path, *, read_only: bool) -> None:
        self._folder = folder
        self._read_only = read_only
        self._state = StateFile(folder, read_only=read_only)

    def get_labeled_images(self, label_tag: str | None = None, labels: list[str] | None = None) -> list[str]:
        with self._state.lock:
            return [key for key, image in self._now().objects.items() if FINAL in image.labels]

    def get_unlabeled_images(
        self, label_tag: str | None = None, labels: list[str] | None = None
    ) -> list[str]:
        with self._state.lock:
            return [key for key, image in self._now().objects.items() if FINAL not in image.labels]

    def get_labels_by_image_id(self, image_id: str) -> dict[str, str]:
        with self._state.lock:
            return dict.fromkeys(self._find(image_id).labels, image_id)

    def get_label_by_image_id(self, image_id: str, tag: str) -> str:
        return self.get_labels_by_image_id(image_id).get(check_tag(tag), "")

    def get_label(self, label_id: str, label_tag: str, params: Any = None) -> io.BytesIO:
        return io.BytesIO(Path(self.get_label_uri(label_id, label_tag)).read_bytes())

    def get_label_uri(self, label_id: str, label_tag: str) -> str:
        with self._state.lock:
            self._find_label(label_id, label_tag)
            path = self._label_path(label_id, self._find(label_id), label_tag)
        if not path.exists():
            raise not_found(f"label {label_tag!r} of image {label_id!r}: its file is not there any more.")
        return str(path)

    def get_label_info(self, label_id: str, label_tag: str) -> dict[str, Any]:
        with self._state.lock:
            return copy.deepcopy(self._find_label(label_id, label_tag).info)

    def update_label_info(self, label_id: str, label_tag: str, info: dict[str, Any]) -> None:
        changes = checked_label_info(info)
        with self._changing() as model:
            label = self._find_label(label_id, label_tag, model)
            label.info = merged(label.info, changes)

    def save_label(
        self, image_id: str, label_filename: str, label_tag: str, label_info: dict[str, Any] | None
    ) -> str:
        """Copy a label of an image into the folder; one of the same tag is replaced.

        Raises:
            Refusal: 404; 422, not an id, a tag, or info that can be kept.
        """
        check_tag(label_tag)
        info = merged({}, checked_label_info(label_info))
        source = Path(label_filename)
        suffix = volume_suffix(source) or source.suffix
        with brought(source, self._folder, suffix) as copied, self._changing() as model:
            image = self._find(image_id, model)
            name = check_tag(f"{image_id}{suffix}")
            folder = self._folder / LABELS / label_tag
            folder.mkdir(parents=True, exist_ok=True)
            if label_tag in image.labels:
                self._label_path(image_id, image, label_tag).unlink(missing_ok=True)
            os.replace(copied, folder / name)
            image.labels[label_tag] = DataModel(
                ext=suffix, info={**info, "ts": int(time.time()), "name": name}
            )
        return image_id

    def remove_label(self, label_id: str, label_tag: str) -> None:
        with self._changing() as model:
            self._find_label(label_id, label_tag, model)
            image = self._find(label_id, model)
            self._label_path(label_id, image, label_tag).unlink(missing_ok=True)
            del image.labels[label_tag]

    # -- inside --------------------------------------------------------------------------------------------------

    def _now(self) -> StudiesModel:
        """Give the newest state; what another process damaged is complained of by the poller and by changes."""
        if not self._read_only:
            with suppress(DataError):
                self._state.reload()
        return self._state.model

    @contextmanager
    def _changing(self) -> Iterator[StudiesModel]:
        self._require_writable()
        with self._state.changing() as model:
            yield model

    def _require_writable(self) -> None:
        if self._read_only:
            raise forbidden("the studies folder is open for reading only.")

    def _find(self, image_id: str, model: StudiesModel | None = None) -> ImageLabelModel:
        image = (model or self._now()).objects.get(check_image_id(str(image_id)))
        if image is None:
            raise not_found(f"image {image_id!r} is unknown; /datastore/?output=all lists the images.")
        return image

    def _find_label(self, image_id: str, tag: str, model: StudiesModel | None = None) -> DataModel:
        label = self._find(image_id, model).labels.get(check_tag(str(tag)))
        if label is None:
            raise not_found(f"image {image_id!r} has no label {tag!r}.")
        return label

    def _path(self, image_id: str, image: ImageLabelModel) -> Path:
        return self._folder / file_name(image_id, image)

    def _label_path(self, image_id: str, image: ImageLabelModel, tag: str) -> Path:
        return self._folder / LABELS / tag / label_name(image_id, image.labels[tag])
