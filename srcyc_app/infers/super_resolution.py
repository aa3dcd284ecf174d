"""The inference task `srcyc`: a scan in, a scalar volume on the finer grid out."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import psutil
from monailabel.interfaces.tasks.infer_v2 import InferTask, InferType

from srcyc.image_files import volume_suffix
from srcyc.inference.output import fit_type
from srcyc.inference.super_resolver import Plan, SuperResolution, SuperResolver
from srcyc.volume import Volume, read_volume, write_volume
from srcyc_app.archives import unpack_zip
from srcyc_app.identifiers import is_plain_component
from srcyc_app.infers.options import Options, choices
from srcyc_app.models import ModelShelf
from srcyc_app.refusals import refusing, unusable

#: Bytes that a call needs at its peak per voxel of the output: measured 26 (2.19 GB for 512 x 512 x 320).
_BYTES_PER_VOXEL = 30


@dataclass(frozen=True)
class Result:
    """Files made for one request; whoever asked moves or removes them.

    Attributes:
        file: the volume.
        uncertainty: its map, if asked for.
        params: what the sidecar of ``srcyc infer`` holds.
    """

    file: Path
    uncertainty: Path | None
    params: dict[str, Any]


class SuperResolutionTask(InferTask):
    """Super-resolves a scan with one of the shelf's models.

    Args:
        shelf: the models.
        max_unpacked: bytes that a zip archive may unpack to.
    """

    def __init__(self, shelf: ModelShelf, max_unpacked: int) -> None:
        super().__init__(
            type=InferType.OTHERS,
            labels=None,
            dimension=3,
            description="Thin slices from thick ones: MR super-resolution (SRResCycGAN). Not for diagnostic use.",
        )
        self._shelf = shelf
        self._max_unpacked = max_unpacked

    def is_valid(self) -> bool:
        return True

    def get_path(self, validate: bool = True) -> str | None:
        name = self._shelf.default
        return None if name is None else str(self._shelf.find(name))

    def config(self) -> dict[str, Any]:
        return choices(self._shelf.names())

    def info(self) -> dict[str, Any]:
        """Add the models' cards to what MONAI Label tells of a task."""
        return {**super().info(), "cards": self._shelf.cards()}

    def __call__(self, request: Mapping[str, Any]) -> tuple[str | None, dict[str, Any]]:
        """Meet MONAI Label's contract: the path of the result and its parameters."""
        result = self.run(Path(request["image"]), Options.of(request))
        if result.uncertainty is not None:
            result.params["uncertainty_file"] = str(result.uncertainty)
        return str(result.file), result.params

    def run(
        self,
        source: Path,
        options: Options,
        *,
        shown: str | None = None,
        folder: Path | None = None,
        progress: Callable[[float], None] | None = None,
    ) -> Result:
        """Super-resolve one scan.

        Args:
            source: a volume, the folder of a DICOM series, or a zip archive of one.
            options: the request's wishes.
            shown: how the client calls the scan; default: the file's name.
            folder: where the files are made; default: the system's temporary folder.
            progress: told the share done; what it raises cancels the work.

        Raises:
            Refusal: the scan, the model or the options cannot be used.
            SRCycError: the network failed.
        """
        shown = shown or source.name
        with refusing(source, shown):
            resolver = self._shelf.resolver(
                options.weights, device=options.device, precision=options.precision
            )
            scan = self._read(source, shown, folder)
            _check_memory(scan, options, resolver, shown)
            made = resolver(
                scan,
                target_spacing=options.target_spacing,  # type: ignore[arg-type]  # checked by the geometry
                consistency=options.consistency,
                denoise=options.denoise,
                n4=options.n4,
                force=options.force,
                uncertainty=options.uncertainty,
                progress=progress,
            )
            return _write(made, scan, options, shown, folder)

    def _read(self, source: Path, shown: str, folder: Path | None) -> Volume:
        if source.suffix.lower() != ".zip":
            return read_volume(source)
        unpacked = Path(tempfile.mkdtemp(prefix="srcyc-", dir=folder))
        try:
            unpack_zip(source, unpacked, self._max_unpacked)
            files = [path for path in unpacked.iterdir() if not path.name.startswith(".")]
            with refusing(unpacked, shown):
                # An archive of a single volume is as good as the volume.
                return read_volume(files[0] if len(files) == 1 else unpacked)
        finally:
            shutil.rmtree(unpacked, ignore_errors=True)


def _check_memory(scan: Volume, options: Options, resolver: SuperResolver, shown: str) -> None:
    """Refuse what the machine has no room for: the system would end the whole server.

    Raises:
        Refusal: 422.
        InputError: the scan or the target spacing cannot be used at all.
    """
    target = options.target_spacing
    plan = Plan.of(scan, target, resolver.model.card, force=options.force)  # type: ignore[arg-type]
    # Python's integers: a grid that nobody can hold overflows numpy's.
    voxels = plan.fine_shape[0] * plan.fine_shape[1] * plan.fine_shape[2]
    needed, free = voxels * _BYTES_PER_VOXEL / 1e9, psutil.virtual_memory().available / 1e9
    if needed > free:
        size = " x ".join(map(str, plan.target.shape))
        raise unusable(
            f"{shown}: a result of {size} voxels needs about {needed:.1f} GB of memory, {free:.1f} GB are free; ask "
            "for a coarser target_spacing."
        )


def _write(made: SuperResolution, scan: Volume, options: Options, shown: str, folder: Path | None) -> Result:
    params = made.report.model_dump(mode="json")
    params["input"]["name"] = shown
    volume, dtype = made.volume, np.dtype(np.float32)
    wanted = scan.stored_dtype if options.result_dtype == "input" else np.dtype(options.result_dtype)
    if wanted.kind in "iu":
        dtype = wanted
        volume, warnings = fit_type(volume, dtype)
        params["warnings"] = [*params["warnings"], *warnings]
    params["output_type"] = str(dtype)
    written: list[Path] = []
    try:
        written.append(_temporary(shown, "sr", options.result_extension, folder))
        write_volume(volume, written[0], dtype=dtype, overwrite=True)
        if made.uncertainty is not None:
            written.append(_temporary(shown, "uncertainty", options.result_extension, folder))
            write_volume(made.uncertainty, written[1], overwrite=True)
    except BaseException:
        for path in written:
            path.unlink(missing_ok=True)
        raise
    params["output"] = f"{stem(shown)}_sr{options.result_extension}"
    return Result(written[0], written[1] if len(written) > 1 else None, params)


def stem(name: str) -> str:
    """Give a scan's name without its suffix; what cannot be part of a file name becomes ``scan``."""
    suffix = ".zip" if name.lower().endswith(".zip") else volume_suffix(Path(name)) or ""
    bare = name[: len(name) - len(suffix)]
    return bare if is_plain_component(bare) else "scan"


def _temporary(shown: str, kind: str, suffix: str, folder: Path | None) -> Path:
    """Make an empty file with a name of its own that tells what it is."""
    handle, path = tempfile.mkstemp(prefix=f"{stem(shown)[:60]}_{kind}_", suffix=suffix, dir=folder)
    os.close(handle)
    return Path(path)
