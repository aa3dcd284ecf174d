"""Super-resolution of whole volumes with a published model."""

from srcyc.inference.model_file import (
    DEFAULT_MODEL,
    ModelCard,
    PublishedModel,
    find_model,
    load_model,
    packaged_models,
    publish_model,
)
from srcyc.inference.report import Report
from srcyc.inference.super_resolver import SuperResolution, SuperResolver

__all__ = [
    "DEFAULT_MODEL",
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
