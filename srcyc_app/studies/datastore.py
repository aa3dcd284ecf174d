"""The studies folder as MONAI Label's datastore: safe against odd names, half-copied files, crashes and company."""

from __future__ import annotations

import copy
import io
import os
import tempfile
import time
import zipfile
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from monailabel.interfaces.datastore import Datastore

from srcyc.errors import DataError
from srcyc.inference.results import LABELS as LABEL_MAP
from srcyc.inference.results import MAPS
from srcyc.pacs.remote import Search
from srcyc.volumes.image_files import volume_suffix
from srcyc.volumes.volume import read_grid, volume_stem
from srcyc_app.refusals import conflict, not_found, refusing, unusable
from srcyc_app.studies.archives import files_in, pack_files, refuse_detached
from srcyc_app.studies.decoding import Reading
from srcyc_app.studies.discovery import Discovery, label_stem, place_of
from srcyc_app.studies.domains import SR, TAGS, assigned_domain
from srcyc_app.studies.identifiers import OWNER, check_image_id
from srcyc_app.studies.image_info import checked_image_info, merged
from srcyc_app.studies.labels import FINAL, LabelledFolder
from srcyc_app.studies.placing import brought, clear_leftovers, is_there, put, remove_scan
from srcyc_app.studies.state import STATE_FILE, DataModel, ImageLabelModel, StudiesModel, file_name
from srcyc_app.studies.watching import LABELS, Poller, mark_of


class StudiesFolder(LabelledFolder):
    """Scans in a folder: .nii, .nii.gz, .nrrd, .mha, .mhd in any case, and direct subfolders with a DICOM series.

    Several threads and processes may use one folder at a time. An image id is the file's name without its suffix, or
    the whole name where that is taken; it stays as long as the file does.

    Args:
        folder: made if it is not there.
        watch: look for changes in a thread of its own.
        read_only: what is found stays in memory; whatever would change the folder is refused.
        interval: seconds between two looks, and for how long a new file must stay the same to count as complete.
        reading: how files are read; default: in this process.

    Raises:
        DataError: the folder cannot be used, or its state file is damaged.
        OutputError: the folder cannot be written.
    """

    def __init__(
        self,
        folder: str,
        *,
        watch: bool,
        read_only: bool = False,
        interval: float = 1.0,
        reading: Reading | None = None,
    ) -> None:
        place = Path(os.path.abspath(folder))
        try:
            if not read_only:
                place.mkdir(parents=True, exist_ok=True)
                clear_leftovers(place)
        except OSError as error:
            raise DataError(
                f"{place}: cannot be the studies folder ({error.strerror}); choose one that can be written."
            ) from error
        super().__init__(place, read_only=read_only)
        self._reading = reading or Reading()
        self._discovery = Discovery(self._folder, self._state, interval, self._reading)
        if self._discovery.look():
            # What was copied here just before the start shall not be missing.
            time.sleep(interval)
            self._discovery.look()
        self._poller = Poller(self._poll, interval) if watch else None

    def close(self) -> None:
        """Stop looking."""
        if self._poller is not None:
            self._poller.stop()

    def refresh(self) -> None:
        """Take up what appeared, changed or went.

        Raises:
            DataError: the folder cannot be listed, or its state file is damaged; what was known stays.
        """
        self._discovery.look()

    def _poll(self) -> bool:
        self.refresh()
        return self._discovery.found

    # -- the folder as a whole -----------------------------------------------------------------------------------

    def name(self) -> str:
        return self._now().name

    def set_name(self, name: str) -> None:
        with self._changing() as model:
            model.name = str(name)

    def description(self) -> str:
        return self._now().description

    def set_description(self, description: str) -> None:
        with self._changing() as model:
            model.description = str(description)

    def list_images(self) -> list[str]:
        with self._state.lock:
            return list(self._now().objects)

    def status(self) -> dict[str, Any]:
        """Count: ``completed`` are scans to train on (for the stock 3D Slicer module), ``domains`` says which."""
        domains: Counter[str] = Counter()
        tags: Counter[str] = Counter()
        usable = 0
        with self._state.lock:
            objects = self._now().objects
            for image in objects.values():
                domain, _ = assigned_domain(image.image.info)
                domains[domain] += 1
                usable += domain in ("LR", "HR") and not image.image.info.get("error")
                tags.update(image.labels.keys())
            return {
                "total": len(objects),
                "completed": usable,
                "label_tags": dict(tags),
                "domains": {domain: domains[domain] for domain in TAGS.values()},
            }

    def search(self, wanted: Search) -> dict[str, Any]:
        """List scans as :meth:`json` does, a page of them; ``more`` tells whether there are others behind it.

        Raises:
            Refusal: 422, a search for what a folder does not know.
        """
        for name in ("patient", "date"):
            if getattr(wanted, name):
                raise unusable(
                    f"{name}: of scans in a folder it is not known; search by description, a part of the id."
                )
        dumped = self.json()
        text = wanted.description.lower()
        found = [image for image in dumped["objects"] if text in image.lower()]
        page = found[wanted.offset : wanted.offset + wanted.limit]
        return {
            **dumped,
            "objects": {image: dumped["objects"][image] for image in page},
            "limit": wanted.limit,
            "offset": wanted.offset,
            "more": len(found) > wanted.offset + wanted.limit,
        }

    def json(self) -> dict[str, Any]:
        with self._state.lock:
            dumped: dict[str, Any] = copy.deepcopy(self._now().model_dump())
        for image in dumped["objects"].values():
            image["image"]["info"] = _shown(image["image"]["info"])
        return dumped

    def datalist(self, full_path: bool = True) -> list[dict[str, Any]]:
        """List the images that have a final label, with it."""
        pairs = []
        with self._state.lock:
            for image_id, image in self._now().objects.items():
                if FINAL in image.labels:
                    pairs.append((self._path(image_id, image), self._label_path(image_id, image, FINAL)))
        folder = self._folder
        return [
            {"image": str(i), "label": str(k)}
            if full_path
            else {"image": str(i.relative_to(folder)), "label": str(k.relative_to(folder))}
            for i, k in pairs
        ]

    def get_dataset_archive(self, limit_cases: int | None, folder: Path | None = None) -> str:
        """Pack the images that have a final label, with it and the state.

        Args:
            limit_cases: most images; None: all.
            folder: where the archive is made; default: the system's temporary folder.

        Raises:
            Refusal: 404, there are none.
        """
        pairs = self.datalist()
        if not pairs:
            raise not_found("no image has a final label: there is nothing to pack.")
        if limit_cases and 0 < limit_cases < len(pairs):
            pairs = pairs[:limit_cases]
        handle, path = tempfile.mkstemp(suffix=".zip", dir=folder)
        try:
            with os.fdopen(handle, "wb") as stream, zipfile.ZipFile(stream, "w") as archive:
                for pair in pairs:
                    for key, value in pair.items():
                        _pack(archive, Path(value), key, self._reading)
                with self._state.lock:
                    archive.writestr("metadata.json", self._now().model_dump_json())
        except BaseException:
            os.unlink(path)
            raise
        return path

    # -- images --------------------------------------------------------------------------------------------------

    def get_image(self, image_id: str, params: Any = None) -> io.BytesIO:
        """Give the bytes of an image's file; of a DICOM series, those of a zip archive.

        Raises:
            Refusal: 404.
        """
        path = Path(self.get_image_uri(image_id))
        if path.is_file():
            return io.BytesIO(path.read_bytes())
        packed = io.BytesIO()
        pack_files(files_of(path, self._reading), packed)
        packed.seek(0)
        return packed

    def get_image_uri(self, image_id: str) -> str:
        """Give the path of an image's file, or of the folder of a DICOM series.

        Raises:
            Refusal: 404.
        """
        with self._state.lock:
            path = self._path(image_id, self._find(image_id))
        if not is_there(path):
            raise not_found(f"image {image_id!r}: its file is not there any more.")
        return str(path)

    def get_image_info(self, image_id: str) -> dict[str, Any]:
        """Give what is known of an image: its tags, ``spacing`` or ``error``, and the ``domain`` it is in now.

        ``domain_tag`` is the tag, ``""`` if the domain was assigned by itself; ``domain_reason`` says why.

        Raises:
            Refusal: 404.
        """
        with self._state.lock:
            image = self._find(image_id)
            info = _shown(copy.deepcopy(image.image.info))
            return {**info, "path": str(self._path(image_id, image))}

    def update_image_info(self, image_id: str, info: dict[str, Any]) -> None:
        """Tag an image: ``domain`` LR, HR, SR, neither or ``""``; ``person``; and whatever a client wants to keep.

        Raises:
            Refusal: 404; 422 for info that cannot be kept; 409 where a result should become a scan to train on.
        """
        check_image_id(image_id)
        changes = checked_image_info(info)
        with self._changing() as model:
            image = self._find(image_id, model)
            if image.image.info.get("made_from") and changes.get("domain", SR) not in (SR, ""):
                raise conflict(f"image {image_id!r}: a result of super-resolution stays one (domain SR).")
            image.image.info = merged(image.image.info, changes)

    def add_image(self, image_id: str, image_filename: str, image_info: dict[str, Any] | None) -> str:
        """Copy a scan into the folder, after reading it completely.

        Args:
            image_id: default: the file's name without its suffix.
            image_filename: a volume, or the folder of a DICOM series.
            image_info: tags, see :meth:`update_image_info`; ``overwrite``: true replaces an image of this id.

        Returns:
            The id.

        Raises:
            Refusal: 409, the id or the file is there already; 422, not an id, not a usable scan, not usable tags.
            OutputError: the disk is full.
        """
        self._require_writable()
        wishes = dict(image_info) if isinstance(image_info, Mapping) else image_info or {}
        overwrite = str(wishes.pop("overwrite", False) if isinstance(wishes, dict) else False).lower()
        info = merged({}, checked_image_info(wishes))
        source = Path(image_filename)
        suffix = "" if source.is_dir() else volume_suffix(source) or ""
        stem = source.name if source.is_dir() else volume_stem(source)
        image_id = check_image_id(str(image_id) if image_id else stem)
        with refusing(source, image_id + suffix):
            refuse_detached(source, image_id + suffix)
            grid = self._reading.check(source)
        return self._add(image_id, source, suffix, {**info, **place_of(grid)}, overwrite in ("true", "1"))

    def set_owner(self, image_id: str, user: str) -> None:
        """Remember who added an image.

        Raises:
            Refusal: 404.
        """
        with self._changing() as model:
            self._find(image_id, model).image.info[OWNER] = user

    def of_owner(self, user: str) -> list[Path]:
        """List the files and folders of the images that somebody added."""
        with self._state.lock:
            objects = self._now().objects.items()
            return [self._path(key, image) for key, image in objects if image.image.info.get(OWNER) == user]

    def store_result(
        self, image_id: str, file: Path, report: dict[str, Any], maps: Mapping[str, Path] | None = None
    ) -> str:
        """Keep a copy of a result beside its scan, in the domain SR; an older one of the same scan is replaced.

        Args:
            image_id: the scan's.
            file: the volume.
            report: what the sidecar of ``srcyc infer`` holds.
            maps: made with it, by name; they are kept as its labels of these tags, and go with it.

        Returns:
            The new id: the scan's with ``_sr``.

        Raises:
            Refusal: 404; 409, another image has that id.
            OutputError: the disk is full.
        """
        self._require_writable()
        with self._state.lock:
            self._find(image_id)
            result = check_image_id(f"{image_id}_sr")
            there = self._now().objects.get(result)
        info = {
            "domain": SR,
            "made_from": image_id,
            "report": copy.deepcopy(report),
            **place_of(read_grid(file)),
        }
        mine = there is not None and there.image.info.get("made_from") == image_id
        if there is not None and mine:
            # Of another result they would be false.
            for tag in [tag for tag in there.labels if tag in (*MAPS, LABEL_MAP)]:
                self.remove_label(result, tag)
        added = self._add(result, Path(file), volume_suffix(Path(file)) or "", info, mine)
        for tag, path in (maps or {}).items():
            self.save_label(added, str(path), tag, None)
        return added

    def result_of(self, image_id: str) -> str | None:
        """Give the id of the kept result of a scan, None if there is none."""
        with self._state.lock:
            there = self._now().objects.get(f"{image_id}_sr")
            return f"{image_id}_sr" if there and there.image.info.get("made_from") == image_id else None

    def remove_image(self, image_id: str) -> None:
        """Remove an image and its labels from the disk; of a folder, its DICOM files, and itself if it is empty then.

        Raises:
            Refusal: 404.
        """
        with self._changing() as model:
            image = self._find(image_id, model)
            for tag in image.labels:
                self._label_path(image_id, image, tag).unlink(missing_ok=True)
            self._remove(self._path(image_id, image))
            del model.objects[image_id]

    # -- inside --------------------------------------------------------------------------------------------------

    def _add(self, image_id: str, source: Path, suffix: str, info: dict[str, Any], overwrite: bool) -> str:
        """Copy a checked scan to its place and write it into the state.

        Raises:
            Refusal: 409, its id or place is taken.
            OutputError: the disk is full.
        """
        name = f"{image_id}{suffix}"
        place = self._folder / name
        appeared = False
        with brought(source, self._folder, suffix) as copied:
            try:
                with self._changing() as model:
                    old = model.objects.get(image_id)
                    self._require_free(model, image_id, name, overwrite)
                    there = self._path(image_id, old) if old is not None else place
                    put(copied, place, there if there.exists() else None)
                    appeared = old is None
                    if there != place:
                        self._remove(there)
                    info = {**info, "ts": int(time.time()), "name": name, "seen": mark_of(place)[0]}
                    labels = old.labels if old is not None else {}
                    model.objects[image_id] = ImageLabelModel(
                        image=DataModel(ext=suffix, info=info), labels=labels
                    )
            except BaseException:
                if appeared:
                    remove_scan(place)
                raise
        return image_id

    def _remove(self, path: Path) -> None:
        if path.exists() or path.is_symlink():
            remove_scan(path)
            return
        for file in files_of(path, self._reading) if is_there(path) else ():
            file.unlink(missing_ok=True)

    def _require_free(self, model: StudiesModel, image_id: str, name: str, overwrite: bool) -> None:
        """Refuse an id or a file name that something else has, be it still on its way into the state.

        Raises:
            Refusal: 409.
        """
        old = model.objects.get(image_id)
        if old is not None and not overwrite:
            raise conflict(
                f"image {image_id!r} is there already; choose another id, or send overwrite: true."
            )
        mine = file_name(image_id, old) if old is not None else None
        known = {file_name(key, image) for key, image in model.objects.items()}
        taken = name in (LABELS, STATE_FILE) or (name != mine and (self._folder / name).exists())
        if taken or any(
            entry not in known and label_stem(entry) == image_id and volume_suffix(Path(entry))
            for entry in os.listdir(self._folder)
        ):
            raise conflict(f"image {image_id!r}: a file of that name is in the folder; choose another id.")


def studies_folder(datastore: Datastore, what: str) -> StudiesFolder:
    """Give a datastore back if it is a studies folder.

    Args:
        datastore: any.
        what: needs one, in a sentence.

    Raises:
        Refusal: 422, it is a DICOMweb server.
    """
    if isinstance(datastore, StudiesFolder):
        return datastore
    raise unusable(
        f"{what} needs the scans in a folder, and these are on a DICOMweb server: fetch the series wanted (GET "
        "/datastore/image?image=UID gives a zip archive), unpack them into a folder, and serve that."
    )


def _shown(info: dict[str, Any]) -> dict[str, Any]:
    """Give an image's info as clients see it: with the domain that it is in now."""
    domain, reason = assigned_domain(info)
    shown = {key: value for key, value in info.items() if key != "seen"}
    return {**shown, "domain": domain, "domain_reason": reason, "domain_tag": info.get("domain", "")}


def _pack(archive: zipfile.ZipFile, path: Path, key: str, reading: Reading) -> None:
    """Add a scan to an archive, in a folder called ``key``."""
    if path.is_file():
        archive.write(path, f"{key}/{path.name}")
        return
    for file in files_of(path, reading):
        archive.write(file, f"{key}/{path.name}/{file.name}")


def files_of(path: Path, reading: Reading) -> list[Path]:
    """List the files of a series: a folder's, or one of several in it.

    Raises:
        Refusal: 422, the series cannot be read.
    """
    if path.is_dir():
        return files_in(path)
    with refusing(path, path.name):
        return reading.files(path)
