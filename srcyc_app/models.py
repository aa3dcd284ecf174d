"""The models that a server offers: those that come with SRCyc, and those retrained on it."""

from __future__ import annotations

import logging
import threading
from collections import OrderedDict
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from srcyc.errors import SRCycError
from srcyc.inference.model_file import (
    DEFAULT_MODEL,
    SUFFIX,
    PublishedModel,
    load_model,
    packaged_models,
)
from srcyc.inference.super_resolver import SuperResolver
from srcyc_app.identifiers import check_name, is_plain_component
from srcyc_app.refusals import conflict, not_found, refusing

_log = logging.getLogger(__name__)

#: Resolvers kept ready.
_READY = 4

#: A file as it is now: another content has another one.
_State = tuple[str, int, int]


@dataclass(frozen=True)
class Shelf:
    """What lies on the shelf at one moment, the default model first.

    Attributes:
        retrained: name -> file, newest first.
        packaged: name -> file, the package's default first.
        damaged: name -> file that cannot be read; nobody gets it who does not ask for it.
    """

    retrained: dict[str, Path]
    packaged: dict[str, Path]
    damaged: dict[str, Path]

    @property
    def all(self) -> dict[str, Path]:
        """Name -> file."""
        return {**self.retrained, **self.packaged, **self.damaged}


class ModelShelf:
    """Finds models by name; a file that appears, changes or goes is noticed at the next request.

    Retrained models come first: training publishes none that is worse than the default.

    Args:
        folder: where retrained models are published, ``NAME.safetensors`` each; need not exist.
        with_packaged: offer the models that come with SRCyc too.
    """

    def __init__(self, folder: Path, *, with_packaged: bool = True) -> None:
        self.folder = folder
        self._with_packaged = with_packaged
        self._lock = threading.Lock()
        self._cards: dict[_State, dict[str, Any]] = {}
        self._ready: OrderedDict[tuple[_State, str, str], SuperResolver] = OrderedDict()

    def look(self) -> Shelf:
        """See what is there now."""
        packaged = packaged_models() if self._with_packaged else {}
        first = {DEFAULT_MODEL: packaged[DEFAULT_MODEL]} if DEFAULT_MODEL in packaged else {}
        found: list[tuple[int, Path]] = []
        for path in self.folder.glob(f"*{SUFFIX}"):
            # A retrained model cannot pass for one that comes with SRCyc.
            if path.stem in packaged or not is_plain_component(path.stem):
                continue
            try:
                found.append((path.stat().st_mtime_ns, path))
            except OSError:
                continue
        newest_first = {path.stem: path for _, path in sorted(found, reverse=True)}
        damaged = {name: path for name, path in newest_first.items() if "error" in self._card(path)}
        retrained = {name: path for name, path in newest_first.items() if name not in damaged}
        return Shelf(retrained, {**first, **packaged}, damaged)

    def names(self) -> list[str]:
        """List the models, the default first."""
        return list(self.look().all)

    @property
    def default(self) -> str | None:
        """Name of the model that is used where none is asked for; None if there is none at all."""
        return next(iter(self.names()), None)

    def find(self, name: str | None = None) -> Path:
        """Give the file of a model; default: the default one.

        Raises:
            Refusal: 404, there is no such model, or none at all.
        """
        models = self.look().all
        if not models:
            raise not_found(
                f"no published model is on this server; train one, or put a {SUFFIX} file into its model folder."
            )
        chosen = name or next(iter(models))
        if chosen not in models:
            raise not_found(f"model {chosen!r} is not on this server; choose one of {', '.join(models)}.")
        return models[chosen]

    def target(self, name: str) -> Path:
        """Give the place where a retrained model of this name is published.

        Raises:
            Refusal: 422, not a name; 409, the name of a model that comes with SRCyc.
        """
        check_name(name, "model name")
        if name in packaged_models():
            raise conflict(f"model name {name!r}: a model that comes with SRCyc has it; choose another name.")
        return self.folder / f"{name}{SUFFIX}"

    def cards(self) -> dict[str, dict[str, Any]]:
        """Give the card of every model as JSON, with ``sha256`` and ``origin``; an unreadable one has an ``error``."""
        shelf = self.look()
        cards = {}
        for name, path in shelf.all.items():
            origin = "packaged" if name in shelf.packaged else "retrained"
            cards[name] = {**self._card(path), "origin": origin}
        return cards

    def resolver(self, name: str | None = None, *, device: str, precision: str) -> SuperResolver:
        """Give a model ready to use.

        Raises:
            Refusal: 404, see :meth:`find`; 422, a damaged file, or a device or precision that is not there.
        """
        path = self.find(name)
        key = (_state(path), device, precision)
        with self._lock:
            if key not in self._ready:
                with refusing(path, path.name):
                    self._ready[key] = SuperResolver.load(path, device=device, precision=precision)
            self._ready.move_to_end(key)
            while len(self._ready) > _READY:
                self._ready.popitem(last=False)
            return self._ready[key]

    def _card(self, path: Path) -> dict[str, Any]:
        try:
            state = _state(path)
            with self._lock:
                if state not in self._cards:
                    self._cards[state] = _describe(load_model(path))
                return self._cards[state]
        except (SRCycError, OSError) as error:
            _log.debug("%s", error)
            return {"error": str(error).replace(str(path), path.name)}


def _state(path: Path) -> _State:
    status = path.stat()
    return str(path), status.st_mtime_ns, status.st_size


def _describe(model: PublishedModel) -> dict[str, Any]:
    return {**model.card.model_dump(mode="json"), "sha256": model.sha256}
