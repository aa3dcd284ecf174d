"""`srcyc train`: train on one's own scans, no pairs needed."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from srcyc.cli.console import Console
from srcyc.cli.domains import Manifest, domain_table
from srcyc.cli.options import Device
from srcyc.errors import ConfigError

if TYPE_CHECKING:
    from srcyc.config import TrainingConfig
    from srcyc.training.trainer import Progress


def train(
    hr: Annotated[
        list[Path],
        typer.Option("--hr", metavar="PATH", help="Thin-slice scans, or folders of them (repeatable)."),
    ],
    output: Annotated[Path, typer.Option("--output", "-o", metavar="DIR", help="Folder of this run.")],
    lr: Annotated[
        list[Path] | None,
        typer.Option(
            "--lr", metavar="PATH", help="Thick-slice scans of anybody, or folders of them (repeatable)."
        ),
    ] = None,
    config: Annotated[
        Path | None,
        typer.Option(metavar="FILE.yaml", help="Settings; see docs/training.md.", show_default=False),
    ] = None,
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="One setting, e.g. optimiser.learning_rate=1e-4."),
    ] = None,
    manifest: Manifest = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on from the folder's checkpoint.")] = False,
    device: Device = "auto",
) -> None:
    """Train the networks on unpaired scans and publish the best model in the run's folder."""
    from srcyc.data.domains import read_manifest
    from srcyc.device import resolve_device
    from srcyc.training.run import gather
    from srcyc.training.run import train as run

    console = Console()
    chosen = load_config(config, settings or [])
    place = resolve_device(device)
    scans = gather(chosen, lr or [], hr, read_manifest(manifest) if manifest else None)
    console.table(domain_table([*scans.lr, *scans.hr]))
    for title, some in (("held back for validation", scans.validation), ("left out", scans.left_out)):
        if some:
            console.say(f"\n{title}:")
            console.table(domain_table(some))

    def report(progress: Progress) -> None:
        console.say(progress_line(progress))

    console.say(f"\n{chosen.mode} training, {chosen.steps} steps on {place}:")
    model = run(chosen, scans, output, device=place, resume=resume, report=report)
    console.say(f"\npublished: {model} (use it with: srcyc infer SCAN -o OUT --model {model})")


def progress_line(progress: Progress) -> str:
    """Say in one line how training goes."""
    terms = "  ".join(f"{name} {value:.4g}" for name, value in progress.terms.items())
    line = f"step {progress.step}/{progress.steps}  {progress.seconds:.0f} s  {terms}"
    if progress.score is not None:
        line += f"  | held back: {progress.score.psnr:.2f} dB, {progress.score.gain:+.2f} dB against cubic"
    return line + ("  best so far" if progress.best else "")


def load_config(path: Path | None, settings: list[str]) -> TrainingConfig:
    """Read the settings of a run: defaults, then the file, then ``key=value`` each.

    Raises:
        ConfigError: names the file or setting, the key and what is wrong with it.
    """
    import yaml
    from pydantic import ValidationError

    from srcyc.config import TrainingConfig

    values: dict[str, Any] = {}
    source = "the settings"
    if path is not None:
        source = str(path)
        try:
            loaded = yaml.safe_load(path.read_text(encoding="utf-8"))
        except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
            raise ConfigError(
                f"{path}: not a readable YAML file ({' '.join(str(error).split())})."
            ) from error
        if not isinstance(loaded, dict):
            raise ConfigError(f"{path}: a training file is a mapping of keys to values.")
        values = loaded
    for setting in settings:
        key, separator, text = setting.partition("=")
        if not separator or not key:
            raise ConfigError(f"--set {setting!r}: write KEY=VALUE, e.g. optimiser.learning_rate=1e-4.")
        _put(values, key.split("."), _number_or_yaml(text), setting)
    try:
        return TrainingConfig.model_validate(values)
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(part) for part in first["loc"])
        raise ConfigError(f"{source}: {key}: {first['msg']} (got {first['input']!r}).") from error


def _number_or_yaml(text: str) -> Any:
    import yaml

    try:
        # YAML reads 1e-4 as a string.
        return float(text) if "e" in text.lower() else yaml.safe_load(text)
    except (ValueError, yaml.YAMLError):
        return text


def _put(values: dict[str, Any], path: list[str], value: Any, setting: str) -> None:
    *parents, last = path
    for parent in parents:
        values = values.setdefault(parent, {})
        if not isinstance(values, dict):
            raise ConfigError(f"--set {setting!r}: {parent} holds a value, not further settings.")
    values[last] = value
