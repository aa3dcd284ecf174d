"""Commands that other packages add to `srcyc` through the entry-point group ``srcyc.commands``."""

from __future__ import annotations

from collections.abc import Callable
from importlib.metadata import EntryPoint, entry_points

import typer

from srcyc.errors import ConfigError

GROUP = "srcyc.commands"

#: Whatever follows the name of a command that cannot be run.
_ANYTHING = {"allow_extra_args": True, "ignore_unknown_options": True, "help_option_names": []}


def add_commands(app: typer.Typer, own: set[str]) -> None:
    """Add what is installed; a command that cannot be loaded says so when it is called.

    Args:
        app: gets the commands.
        own: names that are taken.
    """
    for entry in sorted(entry_points(group=GROUP), key=lambda entry: entry.name):
        if entry.name in own:
            continue
        own.add(entry.name)
        try:
            command = entry.load()
        except Exception as error:  # noqa: BLE001 - somebody else's package: whatever it is must not stop the others
            app.command(entry.name, help="(cannot be loaded)", context_settings=_ANYTHING)(
                _broken(entry, error)
            )
        else:
            app.command(entry.name)(command)


def _broken(entry: EntryPoint, error: Exception) -> Callable[[], None]:
    package = entry.dist.name if entry.dist is not None else entry.module
    reason = " ".join(str(error).split()) or type(error).__name__

    def say() -> None:
        raise ConfigError(f"srcyc {entry.name}: cannot be loaded ({reason}); install {package} again.")

    return say
