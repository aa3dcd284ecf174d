"""What a client may ask of a training, as MONAI Label's clients send it, and the settings that come of it."""

from __future__ import annotations

import os
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import torch
from pydantic import Field, field_validator

from srcyc.config import CardConfig, TrainingConfig
from srcyc.errors import ConfigError
from srcyc.schema import Schema
from srcyc.training.settings import DEFAULT_PRESET, check_same_config, load_settings, presets
from srcyc_app.models import ModelShelf
from srcyc_app.refusals import conflict, unusable, validated

#: As the preset has it.
PRESETS_OWN = "as in the preset"
#: Start from random weights.
NO_MODEL = "none"

_LONGEST = 4000


class Wishes(Schema):
    """One request's wishes.

    Attributes:
        preset: settings to begin with; None: the default ones, or those of the run that goes on.
        name: of the run, and of the model that it publishes.
        run: go on with an unfinished run of that name, or begin another.
        initial_model: model that training starts from, or ``none``; None: the server's default model.
        steps: in all; None: the preset's.
        mode: None: the preset's.
        device: ``auto``, ``cpu``, ``cuda`` or ``cuda:N``.
        publish: only a model that is better than the one in use, or whatever comes of it.
        settings: ``key=value`` each, as ``srcyc train --set`` takes them.
    """

    preset: str | None = Field(default=None, max_length=100)
    name: str = Field(default="retrained", max_length=_LONGEST)
    run: Literal["continue", "new"] = "continue"
    initial_model: str | None = Field(default=None, max_length=_LONGEST)
    steps: int | None = Field(default=None, ge=1, le=10**9)
    mode: Literal["unpaired", "generator-only", "paired"] | None = None
    device: str = Field(default="auto", max_length=_LONGEST)
    publish: Literal["if better", "always"] = "if better"
    settings: tuple[str, ...] = ()

    @field_validator("preset", "initial_model", "steps", "mode", mode="before")
    @classmethod
    def _empty_is_none(cls, value: Any) -> Any:
        return None if value in ("", PRESETS_OWN) else value

    @field_validator("name", mode="before")
    @classmethod
    def _numbers_are_names(cls, value: Any) -> Any:
        return str(value) if isinstance(value, int) and not isinstance(value, bool) else value

    @field_validator("settings", mode="before")
    @classmethod
    def _words(cls, value: Any) -> Any:
        if isinstance(value, list | tuple):
            value = " ".join(map(str, value))
        if isinstance(value, str):
            if len(value) > _LONGEST:
                raise ValueError(f"at most {_LONGEST} characters")
            try:
                return tuple(shlex.split(value))
            except ValueError as error:
                raise ValueError(f"write KEY=VALUE KEY=VALUE ({error})") from None
        return value

    @classmethod
    def of(cls, request: Mapping[str, Any]) -> Wishes:
        """Read a request.

        Raises:
            Refusal: 422, names the key and what is wrong with its value.
        """
        return validated(cls, request, lambda key, value: key == "settings")

    def config(self, shelf: ModelShelf) -> TrainingConfig:
        """Give the settings of a new run.

        Raises:
            Refusal: 404, no such model.
            ConfigError: names the setting and what is wrong with it.
        """
        config = self._settled(None)
        _check(config, TrainingConfig())
        card = config.card
        if card.name == CardConfig().name:
            card = card.model_copy(update={"name": self.name})
        return config.model_copy(update={"initial_model": self._initial(shelf), "card": card})

    def config_to_go_on(self, base: TrainingConfig, folder: Path, shelf: ModelShelf) -> TrainingConfig:
        """Give the settings of a run that goes on, of which only some may differ.

        Args:
            base: as the run was begun.
            folder: of the run.
            shelf: the models there are.

        Raises:
            Refusal: 409, it was begun with others.
            ConfigError: names the setting and what is wrong with it.
        """
        config = self._settled(base)
        _check(config, base)
        kept: dict[str, Any] = {"card": base.card, "initial_model": base.initial_model}
        if base.initial_model is not None:
            # Whatever the settings say of the network, it is that of the model it started from.
            kept["g_hr"] = base.g_hr
        # The default changes with every model that is published, and the stock clients send it back as a wish.
        if self.initial_model not in (None, shelf.default):
            kept["initial_model"] = self._initial(shelf)
        config = config.model_copy(update=kept)
        try:
            check_same_config(base.model_dump(mode="json"), config, folder)
        except ConfigError as error:
            fact = error.fact.replace(str(folder), f"run {self.name!r}")
            raise conflict(
                f"{fact}; send the same to go on, or run: new to put that run aside and begin another."
            ) from error
        return config

    def _settled(self, base: TrainingConfig | None) -> TrainingConfig:
        single = [f"{key}={value}" for key in ("steps", "mode") if (value := getattr(self, key)) is not None]
        return load_settings(self.preset, None, [*single, *self.settings], base=base)

    def _initial(self, shelf: ModelShelf) -> str | None:
        if self.initial_model == NO_MODEL or (self.initial_model is None and shelf.default is None):
            return None
        return str(shelf.find(self.initial_model))


def choices(models: list[str]) -> dict[str, Any]:
    """Give the options as MONAI Label's clients show them: lists to choose from (first: the default), and text.

    Args:
        models: names of the models, the default first.
    """
    gpus = [f"cuda:{number}" for number in range(torch.cuda.device_count())]
    return {
        "preset": sorted(presets(), key=lambda name: (name != DEFAULT_PRESET, name)),
        "name": "retrained",
        "run": ["continue", "new"],
        "initial_model": [*models, NO_MODEL],
        "steps": "",
        "mode": [PRESETS_OWN, "unpaired", "generator-only", "paired"],
        "device": ["auto", "cpu", *gpus],
        "publish": ["if better", "always"],
        "settings": "",
    }


def _check(config: TrainingConfig, base: TrainingConfig) -> None:
    """Refuse settings that read files of the server's, or take more than its processors.

    Args:
        config: as wished.
        base: what is fine in any case.

    Raises:
        Refusal: 422.
    """
    files = {
        "initial_model": (config.initial_model, base.initial_model),
        "perceptual.weights": (config.perceptual.weights, base.perceptual.weights),
        "validation.lpips": (config.validation.lpips, base.validation.lpips),
    }
    for name, (wished, fine) in files.items():
        if wished not in (None, fine) and (name, wished) != ("validation.lpips", "torchvision"):
            other = "send it beside the settings" if name == "initial_model" else "leave it out"
            raise unusable(
                f"settings: {name} names a file of the server's, which nobody sets from here; {other}."
            )
    most = max(os.cpu_count() or 1, base.data.workers)
    if config.data.workers > most:
        raise unusable(
            f"settings: data.workers={config.data.workers}; give at most {most}, the server's processors."
        )
