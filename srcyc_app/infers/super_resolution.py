"""The inference task `srcyc`: a scan in, a scalar volume on the finer grid out."""

from __future__ import annotations

import tempfile
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from monailabel.interfaces.tasks.infer_v2 import InferTask, InferType

from srcyc.files import remove
from srcyc.inference.results import LABELS, Dicom, Written, write_result
from srcyc.inference.super_resolver import Plan, SuperResolver
from srcyc.volumes.dicom.source import DicomSource
from srcyc.volumes.labels import require_labels
from srcyc.volumes.volume import Volume, volume_stem
from srcyc_app.infers.options import Options, choices, descriptions
from srcyc_app.models import ModelShelf
from srcyc_app.refusals import refusing, unusable
from srcyc_app.studies.archives import pack_folder, unpack_scan
from srcyc_app.studies.decoding import Reading, free_memory
from srcyc_app.studies.identifiers import is_plain_component

#: Bytes that a call needs at its peak per voxel of the output: measured 26 (2.19 GB for 512 x 512 x 320).
_BYTES_PER_VOXEL = 30


@dataclass(frozen=True)
class Result:
    """Files made for one request; whoever asked moves or removes them.

    Attributes:
        file: the volume.
        maps: those asked for, by the names of :data:`srcyc.inference.results.MAPS`, and the labels.
        params: what the sidecar of ``srcyc infer`` holds.
        series: folder with folders of the same as DICOM series, if they are to go to a PACS.
    """

    file: Path
    maps: dict[str, Path]
    params: dict[str, Any]
    series: Path | None = None

    def remove(self) -> None:
        """Nobody wants it any more."""
        for path in (self.file, *self.maps.values()):
            remove(path)
        self.remove_series()

    def remove_series(self) -> None:
        """The series has been stored."""
        if self.series is not None:
            remove(self.series)


class SuperResolutionTask(InferTask):
    """Super-resolves a scan with one of the shelf's models.

    Args:
        shelf: the models.
        max_unpacked: bytes that a zip archive may unpack to.
        reading: how scans are read; default: in this process.
    """

    def __init__(self, shelf: ModelShelf, max_unpacked: int, reading: Reading | None = None) -> None:
        super().__init__(
            type=InferType.OTHERS,
            labels=None,
            dimension=3,
            description="Thin slices from thick ones: MR super-resolution (SRResCycGAN). Not for diagnostic use.",
        )
        self._shelf = shelf
        self._max_unpacked = max_unpacked
        self._reading = reading or Reading()

    def is_valid(self) -> bool:
        return True

    def config(self) -> dict[str, Any]:
        return choices(self._shelf.names())

    def info(self) -> dict[str, Any]:
        """Add the models' cards, and how the options are called, to what MONAI Label tells of a task."""
        return {**super().info(), "cards": self._shelf.cards(), "options": descriptions()}

    def __call__(self, request: Mapping[str, Any]) -> tuple[str | None, dict[str, Any]]:
        """Meet MONAI Label's contract: the path of the result and its parameters."""
        result = self.run(Path(request["image"]), Options.of(request))
        result.params.update({f"{name}_file": str(path) for name, path in result.maps.items()})
        return str(result.file), result.params

    def run(
        self,
        source: Path,
        options: Options,
        *,
        shown: str | None = None,
        folder: Path | None = None,
        progress: Callable[[float], None] | None = None,
        to_pacs: bool = False,
        labels: Path | None = None,
    ) -> Result:
        """Super-resolve one scan.

        Args:
            source: a volume, the folder of a DICOM series, or a zip archive of one.
            options: the request's wishes.
            shown: how the client calls the scan; default: the file's name.
            folder: where the files are made; default: the system's temporary folder.
            progress: told the share done; what it raises cancels the work.
            to_pacs: make the DICOM series too that a PACS can store.
            labels: a label map of the scan, to be brought to the result's grid.

        Raises:
            Refusal: the scan, the model or the options cannot be used.
            SRCycError: the network failed.
        """
        shown = shown or source.name
        if options.labels is not None and labels is None:
            raise unusable(
                f"labels {options.labels[:60]!r}: only a scan in the studies folder has saved ones; send the label map "
                "itself, as the form's file `label`."
            )
        with refusing(source, shown):
            resolver = self._shelf.resolver(
                options.weights, device=options.device, precision=options.precision
            )
            zipped = options.result_extension == ".zip"
            scan, headers = self._read(source, shown, folder, options, derived=zipped or to_pacs)
            marked = None if labels is None else self._labels(labels, folder)
            _check_memory(scan, options, resolver, shown)
            made = resolver(scan, options, progress=progress)
            name = f"{stem(shown)[:60]}_sr_{uuid.uuid4().hex}{options.result_extension}"
            place = Path(folder or tempfile.gettempdir()) / name
            asked = {"fill_gaps": options.fill_gaps, "labels": labels is not None}
            write = partial(
                write_result,
                made,
                scan,
                dtype=options.result_dtype,
                sidecar=False,
                # The system's temporary folder is everybody's.
                private=True,
                more={name: True for name, wanted in asked.items() if wanted},
                dicom=Dicom(headers, stable=True) if zipped or to_pacs else None,
            )
            written = write(place.with_suffix("") if zipped else place, labels=marked)
            if zipped:
                written = _zipped(written, place)
            maps = written.maps if written.labels is None else {**written.maps, LABELS: written.labels}
            series = None
            if to_pacs:
                series = Path(tempfile.mkdtemp(prefix="srcyc-", dir=folder))
                try:
                    written.sidecar["dicom"] = write(series / "volume").sidecar["dicom"]
                except BaseException:
                    Result(written.volume, maps, {}, series).remove()
                    raise
        params = written.sidecar
        params["input"]["name"] = shown
        # None: not the model in use, but one that was asked for by name.
        params["activation"] = self._shelf.activation_of(params["model"]["sha256"])
        params["output"] = f"{stem(shown)}_sr{options.result_extension}"
        for key in maps:
            # Where it can be had is said by whoever hands it over.
            del params[key]
        return Result(written.volume, maps, params, series)

    def _labels(self, path: Path, folder: Path | None) -> Volume:
        """Read a label map.

        Raises:
            Refusal: it is none.
        """
        with refusing(path, "label"):
            labels = self._reading.volume(path, folder)
            require_labels(labels)
            return replace(labels, source=Path("label"))

    def _read(
        self, source: Path, shown: str, folder: Path | None, options: Options, *, derived: bool
    ) -> tuple[Volume, DicomSource | None]:
        """Read a scan, and the headers that a DICOM series derived from it needs."""
        choice: dict[str, Any] = {"series": options.series, "fill_gaps": options.fill_gaps}
        if source.suffix.lower() != ".zip":
            scan = self._reading.volume(source, folder, **choice)
            return scan, DicomSource.of(scan) if derived else None
        with tempfile.TemporaryDirectory(prefix="srcyc-", dir=folder, ignore_cleanup_errors=True) as place:
            unpacked = unpack_scan(source, Path(place), self._max_unpacked)
            with refusing(unpacked, shown):
                scan = self._reading.volume(unpacked, folder, **choice)
                return scan, DicomSource.of(scan) if derived else None


def _zipped(written: Written, place: Path) -> Written:
    """Pack the series of a result into archives, which take their places; where one cannot be, nothing is left.

    Raises:
        OSError: the disk is full.
    """
    folders = [written.volume, *written.maps.values()]
    archives = [place, *(path.with_name(f"{path.name}.zip") for path in written.maps.values())]
    try:
        for folder, archive in zip(folders, archives, strict=True):
            archive.touch(0o600, exist_ok=False)
            with archive.open("wb") as stream:
                pack_folder(folder, stream)
    except BaseException:
        for path in (*archives, *([] if written.labels is None else [written.labels])):
            remove(path)
        raise
    finally:
        for folder in folders:
            remove(folder)
    return replace(written, volume=place, maps=dict(zip(written.maps, archives[1:], strict=True)))


def _check_memory(scan: Volume, options: Options, resolver: SuperResolver, shown: str) -> None:
    """Refuse what the machine has no room for: the system would end the whole server.

    Raises:
        Refusal: 422.
        InputError: the scan, or what is asked of it, cannot be used at all.
    """
    plan = Plan.of(scan, options, resolver.model.card)
    # Python's integers: a grid that nobody can hold overflows numpy's.
    voxels = plan.fine_shape[0] * plan.fine_shape[1] * plan.fine_shape[2]
    needed, free = voxels * _BYTES_PER_VOXEL / 1e9, free_memory() / 1e9
    if needed > free:
        size = " x ".join(map(str, plan.target.shape))
        raise unusable(
            f"{shown}: a result of {size} voxels needs about {needed:.1f} GB of memory, {free:.1f} GB are free; ask "
            "for a coarser target_spacing."
        )


def stem(name: str) -> str:
    """Give a scan's name without its suffix; what cannot be part of a file name becomes ``scan``."""
    bare = name[:-4] if name.lower().endswith(".zip") else volume_stem(Path(name))
    return bare if is_plain_component(bare) else "scan"
