"""The models that a server offers: those that come with SRCyc, and those retrained on it."""

from __future__ import annotations

import logging
import threading
from collections import OrderedDict
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

from srcyc.errors import SRCycError
from srcyc.inference.super_resolver import SuperResolver
from srcyc.models.model_file import (
    DEFAULT_MODEL,
    SUFFIX,
    load_model,
    packaged_models,
)
from srcyc_app.activation import Activation, Activations
from srcyc_app.refusals import conflict, not_found, refusing
from srcyc_app.studies.identifiers import check_name, is_plain_component

_log = logging.getLogger(__name__)

#: Resolvers kept ready.
_READY = 4

#: A file as it is now: another content has another one.
_State = tuple[str, int, int]


class ModelShelf:
    """Finds models by name; a file that appears, changes or goes is noticed at the next request.

    The model in use is the one that somebody chose (:mod:`srcyc_app.activation`), as it was then: another file
    of its name is another model, ``NAME@`` and the beginning of its SHA-256, or ``NAME@damaged``. Where nobody chose
    one, retrained models come first: training publishes none that is worse than the default.

    Args:
        folder: where retrained models are published, ``NAME.safetensors`` each; need not exist.
        with_packaged: offer the models that come with SRCyc too.
    """

    def __init__(self, folder: Path, *, with_packaged: bool = True) -> None:
        self.folder = folder
        self._with_packaged = with_packaged
        self.activations = Activations(folder)
        self._lock = threading.Lock()
        self._cards: dict[_State, dict[str, Any]] = {}
        self._ready: OrderedDict[tuple[_State, str, str], SuperResolver] = OrderedDict()

    def look(self) -> dict[str, Path]:
        """See what is there now.

        Returns:
            Name -> file: the default model first; retrained ones, the newest first, before those that come with SRCyc;
            damaged ones, which nobody gets who does not ask for them, last.
        """
        packaged = self._packaged()
        found: list[tuple[int, Path]] = []
        for path in self.folder.glob(f"*{SUFFIX}"):
            # A retrained model cannot pass for one that comes with SRCyc.
            if path.stem in packaged or not is_plain_component(path.stem):
                continue
            with suppress(OSError):
                found.append((path.stat().st_mtime_ns, path))
        retrained = {path.stem: path for _, path in sorted(found, reverse=True)}
        damaged = {name: path for name, path in retrained.items() if not self._digest(path)}
        whole = {name: path for name, path in retrained.items() if name not in damaged}
        models = {**whole, **packaged, **damaged}
        current = self.activations.current
        if current is None or current.name not in models:
            return models
        file, copy = models.pop(current.name), self.activations.copy_of(current)
        digest = self._digest(file)
        # The folder may be another machine's, without the copies.
        first = {current.name: file if digest == current.sha256 and not copy.exists() else copy}
        if digest != current.sha256:
            (first if digest else models)[f"{current.name}@{digest[:8] or 'damaged'}"] = file
        return {**first, **models}

    def activate(self, name: str, by: str | None) -> Activation:
        """Take a model into use, for whoever asks for none.

        Raises:
            Refusal: 404, there is no such model; 422, it is damaged.
            OutputError: the choice cannot be written.
        """
        path = self.find(name)
        with refusing(path, path.name):
            load_model(path)
        return self.activations.choose(name.partition("@")[0], path, by)

    def roll_back(self, by: str | None) -> Activation:
        """Take the model that was in use before into use again.

        Raises:
            Refusal: 409, there was none, or its copy is gone.
            OutputError: the choice cannot be written.
        """
        before = self.activations.previous()
        if before is None:
            raise conflict("no other model was in use before; name one to activate.")
        copy = self.activations.copy_of(before)
        if not copy.exists():
            raise conflict(f"model {before.name!r}: its copy is gone; name another one to activate.")
        return self.activations.choose(before.name, copy, by)

    def settle(self) -> None:
        """Write down which model is in use, if nobody chose one yet: from now on it changes only if somebody does.

        Raises:
            OutputError: the choice cannot be written.
        """
        if self.activations.current is None and (name := self.default) is not None:
            self.activations.choose(name, self.find(name), None)

    def activation_of(self, digest: str) -> dict[str, Any] | None:
        """Give the activation of a model by its SHA-256; None if it is not the one in use."""
        current = self.activations.current
        return asdict(current) if current is not None and current.sha256 == digest else None

    def incumbent(self) -> Path | None:
        """Give the model that a new one has to beat: the one in use, or what would be."""
        return next(iter(self.look().values()), None)

    def names(self) -> list[str]:
        """List the models, the default first."""
        return list(self.look())

    @property
    def default(self) -> str | None:
        """Name of the model that is used where none is asked for; None if there is none at all."""
        return next(iter(self.names()), None)

    def find(self, name: str | None = None) -> Path:
        """Give the file of a model; default: the default one.

        Raises:
            Refusal: 404, there is no such model, or none at all; 409, the one in use was taken away.
        """
        models = self.look()
        if not models:
            raise not_found(
                f"no published model is on this server; train one, or put a {SUFFIX} file into its model folder."
            )
        current = self.activations.current
        if name is None and current is not None and current.name not in models:
            raise conflict(
                f"model {current.name!r}, which is in use, was taken away; put it back, or activate another one."
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
        packaged, current = self._packaged(), self.activations.current
        cards = {}
        for name, path in self.look().items():
            origin = "packaged" if name.partition("@")[0] in packaged else "retrained"
            cards[name] = {**self._card(path), "origin": origin}
            if current is not None and name == current.name:
                cards[name]["activation"] = asdict(current)
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

    def _packaged(self) -> dict[str, Path]:
        """Give the models that come with SRCyc, their default first."""
        packaged = packaged_models() if self._with_packaged else {}
        return dict(sorted(packaged.items(), key=lambda item: item[0] != DEFAULT_MODEL))

    def _digest(self, path: Path) -> str:
        return str(self._card(path).get("sha256", ""))

    def _card(self, path: Path) -> dict[str, Any]:
        try:
            state = _state(path)
            with self._lock:
                if state not in self._cards:
                    model = load_model(path)
                    self._cards[state] = {**model.card.model_dump(mode="json"), "sha256": model.sha256}
                return self._cards[state]
        except (SRCycError, OSError) as error:
            _log.debug("%s", error)
            return {"error": str(error).replace(str(path), path.name)}


def _state(path: Path) -> _State:
    status = path.stat()
    return str(path), status.st_mtime_ns, status.st_size
