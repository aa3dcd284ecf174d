"""The settings of a run: a preset, then a file, then single values, checked as a whole."""

from __future__ import annotations

import importlib.resources
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from srcyc.config import TrainingConfig
from srcyc.errors import ConfigError, extra

with extra("train"):
    import yaml

DEFAULT_PRESET = "default"
#: Settings that change nothing about the steps, so a run may be resumed with others.
FREE_SETTINGS = frozenset(
    {"checkpoint_every", "keep_checkpoints", "early_stopping", "stability", "card", "data.workers"}
)


def presets() -> list[str]:
    """List the names of the presets."""
    folder = importlib.resources.files("srcyc.training") / "presets"
    return sorted(
        entry.name.removesuffix(".yaml") for entry in folder.iterdir() if entry.name.endswith(".yaml")
    )


def load_settings(
    preset: str | None = None,
    file: Path | None = None,
    single: Sequence[str] = (),
    *,
    base: TrainingConfig | None = None,
) -> TrainingConfig:
    """Read the settings of a run, later ones before earlier ones.

    Args:
        preset: name of one of :func:`presets`; default: ``default``, unless there is a base.
        file: YAML, only what differs.
        single: ``key=value`` each, e.g. ``optimiser.learning_rate=1e-4``.
        base: settings of a run that is resumed, which all of these may change.

    Raises:
        ConfigError: names the preset, file or setting, the key and what is wrong with it.
    """
    values: dict[str, Any] = base.model_dump(mode="json") if base is not None else {}
    if preset is not None or base is None:
        values = _merged(values, _preset(preset or DEFAULT_PRESET))
    if file is not None:
        values = _merged(values, read_yaml(file))
    for setting in single:
        key, separator, text = setting.partition("=")
        if not separator or not key:
            raise ConfigError(
                f"set {setting!r}: write KEY=VALUE, e.g. optimiser.learning_rate=1e-4.", options=("set",)
            )
        _put(values, key.split("."), _number_or_yaml(text), setting)
    return checked(values, str(file) if file is not None else "the settings")


def checked(values: Mapping[str, Any], source: str) -> TrainingConfig:
    """Check settings against the schema.

    Raises:
        ConfigError: names the source, the key and what is wrong with it.
    """
    try:
        return TrainingConfig.model_validate(values)
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(part) for part in first["loc"])
        # What is wrong with a whole section is said in words.
        got = "" if not key or isinstance(first["input"], dict) else f" (got {first['input']!r})"
        reason = first["msg"].removeprefix("Value error, ")
        raise ConfigError(f"{source}: {key + ': ' if key else ''}{reason}{got}.") from error


def check_same_config(saved: dict[str, Any], config: TrainingConfig, folder: Path) -> None:
    """Refuse to go on with settings under which the steps would be others.

    Raises:
        ConfigError: names the setting and both values.
    """
    now, then = _flat(config.model_dump(mode="json")), _flat(saved)
    for key in sorted(now.keys() | then.keys()):
        if key in FREE_SETTINGS or key.split(".")[0] in FREE_SETTINGS:
            continue
        if now.get(key) != then.get(key):
            raise ConfigError(
                f"{folder}: was written with another configuration ({key} was "
                f"{then.get(key)!r}, now {now.get(key)!r})",
                remedy="resume with the same, or start a new run from this one's model (initial_model)",
            )


def read_yaml(path: Path) -> dict[str, Any]:
    """Read a mapping.

    Raises:
        ConfigError: missing, unreadable, or no mapping.
    """
    try:
        loaded = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ConfigError(f"{path}: not a readable YAML file ({' '.join(str(error).split())}).") from error
    if not isinstance(loaded, dict):
        raise ConfigError(f"{path}: a training file is a mapping of keys to values.")
    return loaded


def _preset(name: str) -> dict[str, Any]:
    if name not in presets():
        raise ConfigError(f"preset {name!r}: choose one of {', '.join(presets())}.")
    text = (importlib.resources.files("srcyc.training") / "presets" / f"{name}.yaml").read_text("utf-8")
    values: dict[str, Any] = yaml.safe_load(text)
    return values


def _merged(values: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(values)
    for key, change in changes.items():
        old = merged.get(key)
        merged[key] = _merged(old, change) if isinstance(old, dict) and isinstance(change, dict) else change
    return merged


def _number_or_yaml(text: str) -> Any:
    try:
        value = yaml.safe_load(text)
    except yaml.YAMLError:
        return text
    try:
        # YAML reads 1e-4 as a string.
        return float(value) if isinstance(value, str) else value
    except ValueError:
        return value


def _put(values: dict[str, Any], path: list[str], value: Any, setting: str) -> None:
    *parents, last = path
    for parent in parents:
        values = values.setdefault(parent, {})
        if not isinstance(values, dict):
            raise ConfigError(
                f"set {setting!r}: {parent} holds a value, not further settings.", options=("set",)
            )
    values[last] = value


def _flat(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in values.items():
        flat |= _flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {prefix + key: value}
    return flat
