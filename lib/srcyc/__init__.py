"""SRCyc: unpaired super-resolution of MR volumes with cycle-consistent adversarial networks."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from srcyc._version import __version__

if TYPE_CHECKING:
    from srcyc.inference.super_resolver import SuperResolution, SuperResolver
    from srcyc.volumes.dicom import write_dicom_series
    from srcyc.volumes.itk_images import from_itk, from_sitk, to_itk, to_sitk
    from srcyc.volumes.volume import Volume, read_volume, write_volume

__all__ = [
    "SuperResolution",
    "SuperResolver",
    "Volume",
    "__version__",
    "from_itk",
    "from_sitk",
    "read_volume",
    "to_itk",
    "to_sitk",
    "write_dicom_series",
    "write_volume",
]

_HOMES = {
    "SuperResolution": "srcyc.inference.super_resolver",
    "SuperResolver": "srcyc.inference.super_resolver",
    "Volume": "srcyc.volumes.volume",
    "from_itk": "srcyc.volumes.itk_images",
    "from_sitk": "srcyc.volumes.itk_images",
    "read_volume": "srcyc.volumes.volume",
    "to_itk": "srcyc.volumes.itk_images",
    "to_sitk": "srcyc.volumes.itk_images",
    "write_dicom_series": "srcyc.volumes.dicom",
    "write_volume": "srcyc.volumes.volume",
}


def __getattr__(name: str) -> Any:
    # PyTorch takes seconds to import: `srcyc --help` must not wait for it.
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)
