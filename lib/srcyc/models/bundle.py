"""A published model as a bundle of MONAI, which ``python -m monai.bundle run`` runs where srcyc is installed."""

from __future__ import annotations

import importlib.metadata
import importlib.resources
import os
from pathlib import Path
from typing import Any

from srcyc._version import __version__
from srcyc.documents import write_json
from srcyc.errors import OutputError, SRCycError
from srcyc.files import copied, publish, staging, write_text
from srcyc.models.card import ModelCard, gains
from srcyc.models.card_page import card_page
from srcyc.models.model_file import PublishedModel

_SCHEMA = (
    "https://github.com/Project-MONAI/MONAI-extra-test-data/releases/download/0.8.1/meta_schema_20240725.json"
)
_PAPER = (
    "Umer, Micheloni: Deep Cyclic Generative Adversarial Residual Convolutional Networks for Real Image "
    "Super-Resolution, ECCV Workshops 2020, https://arxiv.org/abs/2009.03693"
)
_HOW_TO_RUN = """
## As a MONAI bundle

In this folder, with `pip install "srcyc[monai]"`:

```bash
python -m monai.bundle run --config_file configs/inference.json --dataset_dir SCANS --output_dir RESULTS
```

`SCANS` is a folder with volumes (NIfTI, NRRD, MetaImage, MGZ, DICOM series). The other wishes are keys at the top of
`configs/inference.json`: `--target_spacing 1.0`, `--slice_thickness 4.5`, `--correct_slices False`.
"""


def export_bundle(model: PublishedModel, folder: str | os.PathLike[str]) -> Path:
    """Write a model as a bundle of MONAI; the folder appears when it is complete.

    It holds ``configs/inference.json``, ``configs/metadata.json`` (MONAI's schema), ``models/model.safetensors`` (the
    file as published, same SHA-256), ``docs/README.md`` (the card) and ``LICENSE``.

    Args:
        model: as read from its file.
        folder: of the bundle; not there yet.

    Returns:
        the folder.

    Raises:
        OutputError: the folder is there already, or cannot be written.
        SRCycError: MONAI is not installed: a bundle says for which releases it was made.
    """
    folder = Path(folder)
    if folder.exists():
        raise OutputError(f"{folder}: exists already", remedy="choose another folder")
    metadata = _metadata(model.card)
    configuration = (
        importlib.resources.files("srcyc.models").joinpath("bundle_inference.json").read_text("utf-8")
    )
    with staging(folder.parent) as place:
        bundle = place / folder.name
        write_text(bundle / "configs" / "inference.json", configuration)
        write_json(bundle / "configs" / "metadata.json", metadata)
        write_text(bundle / "docs" / "README.md", card_page(model) + _HOW_TO_RUN)
        write_text(bundle / "LICENSE", _licence(model.card))
        copied(model.path, bundle / "models" / "model.safetensors")
        publish([bundle], folder.parent)
    return folder


def _metadata(card: ModelCard) -> dict[str, Any]:
    image = {
        "type": "image",
        "format": "magnitude",
        "modality": "MR",
        "num_channels": 1,
        "spatial_shape": ["*", "*", "*"],
        "dtype": "float32",
        "value_range": [],
        "is_patch_data": False,
        "channel_def": {"0": "image"},
    }
    low, high = card.factor_range
    finest, coarsest = card.spacing_range
    return {
        "schema": _SCHEMA,
        "version": __version__,
        "changelog": {__version__: f"exported by srcyc {__version__}"},
        "monai_version": _installed("monai"),
        "pytorch_version": _installed("torch"),
        "numpy_version": _installed("numpy"),
        "required_packages_version": {
            "srcyc": __version__,
            **{name: _installed(name) for name in ("pytorch-ignite", "nibabel")},
        },
        "supported_apps": {},
        "name": card.name,
        "task": "Super-resolution of thick-slice MR volumes",
        "description": f"{card.title.rstrip('.')}. Brings slices {low:g} to {high:g} times thicker than wide to voxels "
        f"of {finest:g} to {coarsest:g} mm.",
        "authors": "The SRCyc developers",
        "copyright": f"Weights: {card.licence}",
        "data_source": card.trained_on,
        "data_type": "nibabel",
        "image_classes": "MR magnitude, any unit, in world coordinates",
        "pred_classes": "the same on a grid of thinner slices, in the same unit",
        "eval_metrics": {
            f"{gain.contrast or 'any'}_{gain.thickness:g}mm{'_spoiled' if gain.spoiled else ''}"
            "_psnr_over_classical_dB": round(gain.psnr_over_classical, 3)
            for gain in gains(card.scores)
        },
        "intended_use": "Research. Not for diagnostic use.",
        "references": [_PAPER],
        "network_data_format": {"inputs": {"image": image}, "outputs": {"pred": image}},
    }


def _licence(card: ModelCard) -> str:
    """Give the text where it is that of the software itself, else its name."""
    told = f"The weights in models/ are licensed under {card.licence}.\n"
    # A working copy may have been described twice, once without its licence.
    installed = importlib.metadata.distributions(name="srcyc")
    text = next(filter(None, (found.read_text("licenses/LICENSE") for found in installed)), None)
    return f"{told}\n{text}" if card.licence == "Apache-2.0" and text else told


def _installed(name: str) -> str:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError as error:
        raise SRCycError(
            f"{name} is not installed, which a MONAI bundle needs", remedy="install srcyc[monai]"
        ) from error
