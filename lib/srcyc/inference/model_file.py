"""Published models: one ``.safetensors`` file with the weights and, as metadata, the card that rebuilds the network."""

from __future__ import annotations

import hashlib
import importlib.resources
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any, Literal, NoReturn

import torch
from pydantic import Field, ValidationError, field_validator
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from srcyc.config import Schema, SRResDNetConfig
from srcyc.errors import ModelError, OutputError
from srcyc.files import written
from srcyc.networks import SRResDNet

DEFAULT_MODEL = "srcyc-t1"
SUFFIX = ".safetensors"
SCHEMA_VERSION: Literal[1] = 1
#: Key of the card in the file's metadata.
_CARD_KEY = "srcyc"
#: What a zip archive (``torch.save``) and a bare pickle begin with.
_PICKLE_STARTS = (b"PK\x03\x04", b"\x80")

Range = tuple[float, float]


class ModelCard(Schema):
    """What a published model is, and what it may be used for.

    Attributes:
        schema_version: of this schema.
        name: short name, as in ``--model``.
        title: one line for lists.
        network: arguments that rebuild the network.
        spacing_range: voxel size in mm of the HR grids it was trained on, finest and coarsest.
        factor_range: spacing of the thick axis over the HR spacing, least and most.
        contrasts: MR contrasts it was trained on.
        trained_on: data, in words.
        metrics: scores on held-back scans.
        licence: SPDX identifier of the weights.
        created: ISO date.
        software: name and version that trained it.
    """

    schema_version: Literal[1] = SCHEMA_VERSION
    name: str = Field(min_length=1)
    title: str
    network: SRResDNetConfig
    spacing_range: Range
    factor_range: Range
    contrasts: tuple[str, ...]
    trained_on: str
    metrics: dict[str, Any]
    licence: str
    created: str
    software: str

    @field_validator("spacing_range", "factor_range")
    @classmethod
    def _ordered(cls, value: Range) -> Range:
        low, high = value
        if not 0 < low <= high < float("inf"):
            raise ValueError("give a positive lower and an upper end")
        return value

    @field_validator("created")
    @classmethod
    def _iso_date(cls, value: str) -> str:
        date.fromisoformat(value[:10])
        return value


@dataclass(frozen=True, eq=False)
class PublishedModel:
    """A model read from a file.

    Attributes:
        network: fp32, on the CPU, in evaluation mode.
        card: what it is.
        sha256: of the whole file, hexadecimal.
        path: the file.
    """

    network: SRResDNet
    card: ModelCard
    sha256: str
    path: Path


def publish_model(
    network: SRResDNet, card: ModelCard, path: str | os.PathLike[str], *, overwrite: bool = False
) -> Path:
    """Write one model file; it appears under its name only when complete, and then also survives a power cut.

    Args:
        network: weights of any floating-point type and device; stored as fp32.
        card: its ``network`` must describe ``network``.
        path: ends in ``.safetensors``.
        overwrite: replace what is there.

    Returns:
        the path written.

    Raises:
        ModelError: the card describes another network, or weights are not finite.
        OutputError: a wrong suffix, an existing file, a place that cannot be written.
    """
    path = Path(path)
    if path.suffix != SUFFIX:
        raise OutputError(f"{path}: a model file's name ends in {SUFFIX}; choose such a name.")
    if path.exists() and not overwrite:
        raise OutputError(f"{path}: exists already; choose another name or ask to overwrite it.")
    weights = {
        name: value.detach().to("cpu", torch.float32, copy=True).contiguous()
        for name, value in network.state_dict().items()
    }
    _check_weights(weights, card.network, path)
    content = save(weights, metadata={_CARD_KEY: card.model_dump_json()})
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(
            f"{path}: cannot be written ({error.strerror or error}); choose another place."
        ) from error
    with written(path) as stream:
        stream.write(content)
    return path


def load_model(path: str | os.PathLike[str]) -> PublishedModel:
    """Read a model file; nothing in it is executed.

    Raises:
        ModelError: missing, unreadable, not of this kind, of another version, or incomplete.
    """
    path = Path(path)
    content = _read(path)
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            weights = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a dict
    except (SafetensorError, OSError, ValueError, KeyError, RuntimeError) as error:
        if content.startswith(_PICKLE_STARTS):
            _refuse(path, "is a Python pickle, which could run code", error)
        reason = " ".join(str(error).split())
        _refuse(path, f"is damaged or no safetensors file ({reason})", error)
    card = _read_card(path, metadata)
    _check_weights(weights, card.network, path)
    network = SRResDNet.from_config(card.network)
    network.load_state_dict(weights)
    network.eval().requires_grad_(False)
    return PublishedModel(network, card, hashlib.sha256(content).hexdigest(), path)


def packaged_models() -> dict[str, Path]:
    """Give the models that come with the package: name -> file."""
    folder = Path(str(importlib.resources.files("srcyc"))) / "models"
    return {path.stem: path for path in sorted(folder.glob(f"*{SUFFIX}"))}


def find_model(name_or_path: str | os.PathLike[str]) -> Path:
    """Find a model by the name of a packaged one, or by path.

    Raises:
        ModelError: neither.
    """
    known = packaged_models()
    text = os.fspath(name_or_path)
    if text in known:
        return known[text]
    if Path(text).is_file():
        return Path(text)
    names = ", ".join(known) if known else "none is installed"
    raise ModelError(
        f"{text}: neither a model file nor the name of a packaged model ({names}); give one of these."
    )


def _refuse(path: Path, what: str, cause: Exception | None = None) -> NoReturn:
    raise ModelError(f"{path}: {what}; give a {SUFFIX} file that srcyc has published.") from cause


def _read(path: Path) -> bytes:
    try:
        content = path.read_bytes()
    except OSError as error:
        _refuse(path, f"cannot be read ({error.strerror or error})", error)
    if not content:
        _refuse(path, "is empty")
    return content


def _read_card(path: Path, metadata: Mapping[str, str]) -> ModelCard:
    if _CARD_KEY not in metadata:
        _refuse(path, "holds no srcyc model card")
    try:
        raw = json.loads(metadata[_CARD_KEY])
        version = raw["schema_version"]
    except (ValueError, KeyError, TypeError) as error:
        _refuse(path, "has an unreadable model card", error)
    if version != SCHEMA_VERSION:
        raise ModelError(
            f"{path}: has a model card of version {version!r}, this software reads version {SCHEMA_VERSION}; "
            "install the srcyc release that the model was published with, or publish it again."
        )
    try:
        # Strictly, as JSON: tuples are lists there.
        return ModelCard.model_validate_json(metadata[_CARD_KEY])
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        _refuse(path, f"has a wrong model card ({where}: {first['msg']})", error)


def _check_weights(weights: Mapping[str, Tensor], config: SRResDNetConfig, path: Path) -> None:
    """Refuse weights that are not exactly those of the network described."""
    with torch.device("meta"):
        expected = SRResDNet.from_config(config).state_dict()
    for name in [*expected, *weights]:
        if name not in weights:
            _refuse(path, f"lacks the weights {name!r} of the network on its card")
        if name not in expected:
            _refuse(path, f"has weights {name!r} that the network on its card does not have")
        if weights[name].shape != expected[name].shape:
            shapes = f"{tuple(weights[name].shape)} instead of {tuple(expected[name].shape)}"
            _refuse(path, f"has weights {name!r} of shape {shapes}, so they do not fit its card")
        if weights[name].dtype != torch.float32 or not bool(torch.isfinite(weights[name]).all()):
            _refuse(path, f"has weights {name!r} that are not finite fp32 numbers")
