"""Super-resolution of whole volumes with a published model."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from srcyc.inference.options import InferenceOptions

if TYPE_CHECKING:
    from srcyc.inference.report import Report
    from srcyc.inference.super_resolver import SuperResolution, SuperResolver
    from srcyc.models.model_file import (
        DEFAULT_MODEL,
        ModelCard,
        PublishedModel,
        find_model,
        load_model,
        packaged_models,
        publish_model,
    )

__all__ = [
    "DEFAULT_MODEL",
    "InferenceOptions",
    "ModelCard",
    "PublishedModel",
    "Report",
    "SuperResolution",
    "SuperResolver",
    "find_model",
    "load_model",
    "packaged_models",
    "publish_model",
]

_HOMES = {
    "Report": "srcyc.inference.report",
    "SuperResolution": "srcyc.inference.super_resolver",
    "SuperResolver": "srcyc.inference.super_resolver",
}


def __getattr__(name: str) -> Any:
    # PyTorch takes seconds to import: whoever wants the options only must not wait for it.
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES.get(name, "srcyc.models.model_file")), name)
