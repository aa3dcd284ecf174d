"""Super-resolution in pipelines of MONAI: a reader, transforms, and an inferer. Nothing else here imports MONAI.

All of them give the voxels that :class:`~srcyc.inference.super_resolver.SuperResolver` gives::

    from monai.transforms import Compose, EnsureChannelFirstd, LoadImaged, SaveImaged
    from srcyc.monai import SuperResolved, VolumeReader

    pipeline = Compose([
        LoadImaged("image", reader=VolumeReader),
        EnsureChannelFirstd("image"),
        SuperResolved("image", target_spacing="isotropic"),
        SaveImaged("image", output_dir="thin", output_postfix="sr"),
    ])
    pipeline({"image": "thick.nii.gz"})
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from srcyc.errors import ConfigError, SRCycError, VolumeError
from srcyc.inference.options import InferenceOptions
from srcyc.inference.super_resolver import SuperResolution, SuperResolver
from srcyc.models.model_file import DEFAULT_MODEL, PublishedModel, find_model, load_model
from srcyc.networks import Generator
from srcyc.volumes.formats.raw import LPS_TO_RAS
from srcyc.volumes.volume import Volume, is_volume_path, read_volume

try:
    from monai.config import KeysCollection
    from monai.data import ImageReader, MetaTensor, decollate_batch, list_data_collate
    from monai.inferers import Inferer
    from monai.transforms import MapTransform, Transform
    from monai.utils import MetaKeys, SpaceKeys
except ImportError as error:
    raise SRCycError(f"MONAI cannot be imported ({error})", remedy="install srcyc[monai]") from error

__all__ = [
    "SuperResolutionInferer",
    "SuperResolve",
    "SuperResolveD",
    "SuperResolveDict",
    "SuperResolved",
    "VolumeReader",
    "find_model",
    "load_model",
]

#: Keys of a MetaTensor's ``meta``: how thick the scan's slices are (mm); how a result was made (JSON).
SLICE_THICKNESS, REPORT = "slice_thickness", "srcyc_report"
#: What holds of a scan's grid and not of the result's: MONAI's writers and NIfTI's header fields.
_OF_THE_SCAN = ("pixdim", "original_pixdim", "dim", "srow_x", "srow_y", "srow_z", "spacing", SLICE_THICKNESS)

Model = str | os.PathLike[str] | PublishedModel

_log = logging.getLogger(__name__)


class VolumeReader(ImageReader):
    """Reads for ``LoadImage`` what ``srcyc`` reads, DICOM series too, and keeps the slice thickness.

    MONAI's own readers do as well, where nothing but the affine is wanted. Voxels become float32.

    Args:
        series: which DICOM series of a folder; None: the only scan.
        fill_gaps: interpolate slices that a series lacks.
    """

    def __init__(self, series: str | None = None, fill_gaps: bool = False) -> None:
        self._series, self._fill_gaps = series, fill_gaps

    def verify_suffix(self, filename: Sequence[str | os.PathLike[str]] | str | os.PathLike[str]) -> bool:
        """Tell whether all of these name volumes."""
        names = [filename] if isinstance(filename, str | os.PathLike) else filename
        return all(is_volume_path(name) for name in names)

    def read(
        self, data: Sequence[str | os.PathLike[str]] | str | os.PathLike[str], **kwargs: Any
    ) -> list[Volume]:
        """Read one or several.

        Raises:
            VolumeError: see :func:`~srcyc.volumes.volume.read_volume`.
        """
        names = [data] if isinstance(data, str | os.PathLike) else data
        return [read_volume(name, series=self._series, fill_gaps=self._fill_gaps) for name in names]

    def get_data(self, img: Volume | Sequence[Volume]) -> tuple[npt.NDArray[np.float32], dict[str, Any]]:
        """Give ``(I, J, K)`` voxels of one volume and its metadata, the affine in RAS mm.

        Raises:
            VolumeError: several volumes.
        """
        volumes = [img] if isinstance(img, Volume) else img
        if len(volumes) != 1:
            raise VolumeError(f"{len(volumes)} volumes for one image", remedy="load them one by one")
        volume = volumes[0]
        meta: dict[str, Any] = {
            MetaKeys.AFFINE: volume.affine,
            MetaKeys.ORIGINAL_AFFINE: volume.affine,
            MetaKeys.SPATIAL_SHAPE: np.array(volume.shape),
            MetaKeys.SPACE: SpaceKeys.RAS,
            MetaKeys.ORIGINAL_CHANNEL_DIM: float("nan"),  # MONAI's word for none
        }
        if volume.slice_thickness is not None:
            meta[SLICE_THICKNESS] = volume.slice_thickness
        return volume.data[0], meta


class SuperResolve(Transform):
    """Super-resolves a channel-first image ``(1, I, J, K)`` with an affine.

    The result is a ``MetaTensor`` on the thin grid: its affine, ``original_affine`` and ``spatial_shape`` are those
    of that grid, so that MONAI's writers keep it; earlier spatial transforms cannot be inverted from there, and their
    record is dropped. ``meta["srcyc_report"]`` is the report as JSON; its warnings are logged too.

    The slice thickness is what ``slice_thickness`` states, else ``meta["slice_thickness"]`` (mm), else estimated.

    Args:
        model: a packaged model's name, a file, or a model that was loaded.
        device: ``auto``, ``cpu``, ``cuda`` or ``cuda:N``.
        precision: ``auto``, ``fp32``, ``bf16`` or ``fp16``.
        max_memory: GB that a call may use.
        wishes: the fields of :class:`~srcyc.inference.options.InferenceOptions`; maps beside the image only from
            :class:`SuperResolved`.

    Raises:
        ModelError: no such model.
        ConfigError: an unusable option.
    """

    def __init__(
        self,
        model: Model = DEFAULT_MODEL,
        *,
        device: str = "auto",
        precision: str = "auto",
        max_memory: float | None = None,
        **wishes: Any,
    ) -> None:
        self._options = _image_alone(wishes)
        self._resolver = _resolver(model, device, precision, max_memory)

    def __call__(self, img: Tensor | npt.NDArray[Any]) -> MetaTensor:
        """Super-resolve one image.

        Raises:
            VolumeError: no affine, several channels, infinite voxels, or too thin.
            NothingToDoError: the image has the spacing already.
            ModelError: it is far outside the model's range.
        """
        image = _with_place(img)
        done = _resolved(image, self._resolver, self._options)
        return _meta_tensor(done.volume, image, done)


class SuperResolved(MapTransform):
    """:class:`SuperResolve` for dictionaries.

    With ``uncertainty=True`` and ``correction_map=True`` the maps come under ``KEY_uncertainty`` and
    ``KEY_correction``.

    Args:
        keys: of the images.
        model: see :class:`SuperResolve`, also for the rest.
        allow_missing_keys: pass over keys that are not there.

    Raises:
        ModelError: no such model.
        ConfigError: an unusable option.
    """

    def __init__(
        self,
        keys: KeysCollection,
        model: Model = DEFAULT_MODEL,
        *,
        device: str = "auto",
        precision: str = "auto",
        max_memory: float | None = None,
        allow_missing_keys: bool = False,
        **wishes: Any,
    ) -> None:
        super().__init__(keys, allow_missing_keys)
        self._options = InferenceOptions.of(wishes)
        self._resolver = _resolver(model, device, precision, max_memory)

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Super-resolve the images of an item; raises as :class:`SuperResolve` does."""
        item = dict(data)
        for key in self.key_iterator(item):
            image = _with_place(item[key])
            done = _resolved(image, self._resolver, self._options)
            item[key] = _meta_tensor(done.volume, image, done)
            for name, made in (("uncertainty", done.uncertainty), ("correction", done.correction)):
                if made is not None:
                    item[f"{key}_{name}"] = _meta_tensor(made, image, done)
        return item


SuperResolveD = SuperResolveDict = SuperResolved


class SuperResolutionInferer(Inferer):
    """Lets a published model's network super-resolve batches in an engine of MONAI, such as ``SupervisedEvaluator``.

    The network is the engine's; what else a scan needs (scaling, grids, data consistency, the model's range) is done
    here. It runs where its weights are.

    Args:
        model: the network's card comes from it: a packaged model's name, a file, or a model that was loaded.
        precision: ``auto``, ``fp32``, ``bf16`` or ``fp16``.
        max_memory: GB that a call may use.
        wishes: the fields of :class:`~srcyc.inference.options.InferenceOptions` but for maps.

    Raises:
        ModelError: no such model.
        ConfigError: an unusable option.
    """

    def __init__(
        self,
        model: Model = DEFAULT_MODEL,
        *,
        precision: str = "auto",
        max_memory: float | None = None,
        **wishes: Any,
    ) -> None:
        self._options = _image_alone(wishes)
        self._model = _loaded(model)
        self._precision, self._max_memory = precision, max_memory

    def __call__(self, inputs: Tensor, network: Callable[..., Any], *args: Any, **kwargs: Any) -> MetaTensor:
        """Super-resolve a batch.

        Args:
            inputs: ``(B, 1, I, J, K)`` with an affine per item.
            network: of the model, as loaded or trained further.
            args: nothing; as for any inferer.
            kwargs: nothing.

        Returns:
            ``(B, 1, I', J', K')`` with an affine per item.

        Raises:
            ConfigError: a network of another kind.
            VolumeError: no affine, or items whose results differ in shape.
        """
        if not isinstance(network, Generator):
            raise ConfigError(
                f"a network of type {type(network).__name__}", remedy="give that of a published model"
            )
        model = PublishedModel(network, self._model.card, self._model.sha256, self._model.path)
        device = str(next(network.parameters()).device)
        resolver = _resolver(model, device, self._precision, self._max_memory)
        results = []
        for item in decollate_batch(_with_place(inputs)):
            done = _resolved(item, resolver, self._options)
            results.append(_meta_tensor(done.volume, item, done))
        if len({tuple(result.shape) for result in results}) > 1:
            raise VolumeError("results of several shapes in one batch", remedy="use a batch size of 1")
        return list_data_collate(results)  # type: ignore[return-value]


def _image_alone(wishes: Mapping[str, Any]) -> InferenceOptions:
    options = InferenceOptions.of(wishes)
    for name in ("uncertainty", "correction_map"):
        if getattr(options, name):
            raise ConfigError(
                f"{name}: only one image is given here", remedy="use SuperResolved", options=(name,)
            )
    return options


def _loaded(model: Model) -> PublishedModel:
    return model if isinstance(model, PublishedModel) else load_model(find_model(model))


def _resolver(model: Model, device: str, precision: str, max_memory: float | None) -> SuperResolver:
    return SuperResolver(_loaded(model), device=device, precision=precision, max_memory=max_memory)


def _with_place(image: Tensor | npt.NDArray[Any]) -> MetaTensor:
    """Refuse what does not say where it lies: MONAI would make up a place and a spacing of 1 mm."""
    if not isinstance(image, MetaTensor):
        raise VolumeError("an image without an affine", remedy="give a MetaTensor, as LoadImage makes it")
    return image


def _to_ras(image: MetaTensor) -> npt.NDArray[np.float64]:
    """The world that the image's affine is in -> RAS, also the way back."""
    return LPS_TO_RAS if image.meta.get(MetaKeys.SPACE) == SpaceKeys.LPS else np.eye(4)


def _volume(image: MetaTensor) -> Volume:
    voxels = image.detach().cpu().numpy()
    affine = _to_ras(image) @ image.affine.detach().cpu().numpy().astype(np.float64)
    thickness = image.meta.get(SLICE_THICKNESS)
    return Volume(voxels, affine, slice_thickness=None if thickness is None else float(thickness))


def _resolved(image: MetaTensor, resolver: SuperResolver, options: InferenceOptions) -> SuperResolution:
    """Super-resolve an image; reasons for distrust go to the log too, for few look into a report."""
    done = resolver(_volume(image), options)
    for text in done.report.warnings:
        _log.warning("%s: %s", image.meta.get("filename_or_obj", "image"), text)
    return done


def _meta_tensor(volume: Volume, image: MetaTensor, done: SuperResolution) -> MetaTensor:
    """Give a result as the scan was given: its device, its world, what else its metadata says."""
    affine = torch.from_numpy(_to_ras(image) @ volume.affine)
    meta = {key: value for key, value in image.meta.items() if str(key) not in _OF_THE_SCAN}
    meta |= {
        MetaKeys.AFFINE: affine,
        MetaKeys.ORIGINAL_AFFINE: affine.clone(),
        MetaKeys.SPATIAL_SHAPE: np.array(volume.shape),
        REPORT: done.report.model_dump_json(),
    }
    return MetaTensor(torch.from_numpy(volume.data).to(image.device), meta=meta)
