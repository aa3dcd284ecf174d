"""Published models: one ``.safetensors`` file with the weights and, as metadata, the card that rebuilds the network."""

from __future__ import annotations

import contextlib
import hashlib
import importlib.resources
import os
import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, NoReturn

import torch
from pydantic import ValidationError
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor
from torch.nn.modules.module import (
    register_module_buffer_registration_hook,
    register_module_parameter_registration_hook,
)

from srcyc.documents import json_object
from srcyc.errors import ModelError, OutputError
from srcyc.files import written
from srcyc.models.card import SCHEMA_VERSION, ModelCard
from srcyc.networks import Generator, GeneratorConfig, build_generator

__all__ = [
    "DEFAULT_MODEL",
    "SUFFIX",
    "ModelCard",
    "PublishedModel",
    "find_model",
    "load_model",
    "packaged_models",
    "publish_model",
]

DEFAULT_MODEL = "srcyc-fidelity"
SUFFIX = ".safetensors"
#: Key of the card in the file's metadata.
_CARD_KEY = "srcyc"
#: Characters of what a card says that are shown back.
_SHOWN = 200
#: Arrays of weights that a file may lack and still be told which.
_SPARE = 1000
#: What a zip archive (``torch.save``) and a bare pickle begin with.
_PICKLE_STARTS = (b"PK\x03\x04", b"\x80")


@dataclass(frozen=True, eq=False)
class PublishedModel:
    """A model read from a file.

    Attributes:
        network: fp32, on the CPU, in evaluation mode.
        card: what it is.
        sha256: of the whole file, hexadecimal.
        path: the file.
    """

    network: Generator
    card: ModelCard
    sha256: str
    path: Path


def publish_model(
    network: Generator, card: ModelCard, path: str | os.PathLike[str], *, overwrite: bool = False
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
        raise OutputError(f"{path}: a model file's name ends in {SUFFIX}", remedy="choose such a name")
    if path.exists() and not overwrite:
        raise OutputError(f"{path}: exists already", remedy="choose another name or ask to overwrite it")
    weights = {
        name: value.detach().to("cpu", torch.float32, copy=True).contiguous()
        for name, value in network.state_dict().items()
    }
    _check_layout({name: _Layout.of(value) for name, value in weights.items()}, card.network, path)
    _check_numbers(weights, path)
    with written(path) as stream:
        stream.write(save(weights, metadata={_CARD_KEY: card.model_dump_json()}))
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
            # The card and the header first: what they say is checked before a network or a tensor is made of it.
            card = _read_card(path, file.metadata() or {})
            names = list(file.keys())
            layouts = {name: _Layout.in_file(file.get_slice(name)) for name in names}
            _check_layout(layouts, card.network, path)
            weights = {name: file.get_tensor(name) for name in names}
    except ModelError:
        raise
    except (SafetensorError, OSError, ValueError, KeyError, RuntimeError) as error:
        if content.startswith(_PICKLE_STARTS):
            _refuse(path, "is a Python pickle, which could run code", error)
        reason = " ".join(str(error).split())
        _refuse(path, f"is damaged or no safetensors file ({reason})", error)
    _check_numbers(weights, path)
    network = build_generator(card.network)
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
        f"{text}: neither a model file nor the name of a packaged model ({names})", remedy="give one of these"
    )


def _refuse(path: Path, what: str, cause: Exception | None = None) -> NoReturn:
    raise ModelError(f"{path}: {what}", remedy=f"give a {SUFFIX} file that srcyc has published") from cause


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
        version = json_object(metadata[_CARD_KEY])["schema_version"]
    except (ValueError, KeyError) as error:
        _refuse(path, "has an unreadable model card", error)
    if version != SCHEMA_VERSION:
        older = isinstance(version, int) and version < SCHEMA_VERSION
        remedy = "train it again with this release" if older else "install a newer release"
        raise ModelError(
            f"{path}: has a model card of version {version!r}, this software reads version {SCHEMA_VERSION}",
            remedy=f"{remedy}, or choose another model (`srcyc models`)",
        )
    try:
        # Strictly, as JSON: tuples are lists there.
        return ModelCard.model_validate_json(metadata[_CARD_KEY])
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        _refuse(path, f"has a wrong model card ({where}: {first['msg'][:_SHOWN]})", error)


class _Layout(NamedTuple):
    """What is known of a tensor before it is read."""

    shape: tuple[int, ...]
    is_fp32: bool

    @classmethod
    def of(cls, tensor: Tensor) -> _Layout:
        return cls(tuple(tensor.shape), tensor.dtype == torch.float32)

    @classmethod
    def in_file(cls, part: object) -> _Layout:
        """Read it from the header of a safetensors file."""
        return cls(tuple(part.get_shape()), part.get_dtype() == "F32")  # type: ignore[attr-defined]


def _check_layout(found: Mapping[str, _Layout], config: GeneratorConfig, path: Path) -> None:
    """Refuse weights that are not exactly those of the network described; nothing is allocated.

    A card may describe a network of a thousand million layers: not much more of it is built than there are weights.
    """
    try:
        with torch.device("meta"), _at_most(len(found) + _SPARE):
            expected = {
                name: _Layout.of(value) for name, value in build_generator(config).state_dict().items()
            }
    except _TooManyWeights:
        _refuse(path, f"has {len(found)} arrays of weights, far fewer than the network on its card")
    except (ArithmeticError, MemoryError, RecursionError, RuntimeError, TypeError, ValueError) as error:
        _refuse(path, "describes a network that cannot be built", error)
    for name in [*expected, *found]:
        if name not in found:
            _refuse(path, f"lacks the weights {name!r} of the network on its card")
        if name not in expected:
            _refuse(path, f"has weights {name!r} that the network on its card does not have")
        if found[name].shape != expected[name].shape:
            shapes = f"{found[name].shape} instead of {expected[name].shape}"
            _refuse(path, f"has weights {name!r} of shape {shapes}, so they do not fit its card")
        if not found[name].is_fp32:
            _refuse(path, f"has weights {name!r} that are not fp32 numbers")


class _TooManyWeights(Exception):
    """A network is larger than the file that is said to hold its weights."""


@contextlib.contextmanager
def _at_most(count: int) -> Iterator[None]:
    """Let this thread build modules with so many parameters and buffers.

    Raises:
        _TooManyWeights: at the first one too many.
    """
    thread, built = threading.get_ident(), 0

    def registered(module: torch.nn.Module, name: str, value: object) -> None:
        nonlocal built
        # The hooks are everybody's.
        if value is not None and threading.get_ident() == thread:
            built += 1
            if built > count:
                raise _TooManyWeights

    hooks = (
        register_module_parameter_registration_hook(registered),
        register_module_buffer_registration_hook(registered),
    )
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def _check_numbers(weights: Mapping[str, Tensor], path: Path) -> None:
    for name, value in weights.items():
        if not bool(torch.isfinite(value).all()):
            _refuse(path, f"has weights {name!r} that are not finite")
