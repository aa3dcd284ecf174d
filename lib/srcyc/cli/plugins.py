"""Commands that other packages add to `srcyc` through the entry-point group ``srcyc.commands``."""

from __future__ import annotations

from collections.abc import Callable
from importlib.metadata import EntryPoint, entry_points
from typing import Any

import typer
from typer.core import TyperGroup

from srcyc.errors import ConfigError

GROUP = "srcyc.commands"

#: Whatever follows the name of a command that cannot be run.
_ANYTHING = {"allow_extra_args": True, "ignore_unknown_options": True, "help_option_names": []}


class Commands(TyperGroup):
    """Our own commands, whose names nobody else can take, and those of plug-ins, imported when they are asked for."""

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        """Give a command; of a name that nobody has none, but all there are may be suggested then."""
        if cmd_name not in self.commands:
            found = entry_points(group=GROUP)
            for entry in [one for one in found if one.name == cmd_name] or found:
                self._add(entry)
        return super().get_command(ctx, cmd_name)

    def list_commands(self, ctx: Any) -> list[str]:
        """Name all commands, ours first."""
        for entry in sorted(entry_points(group=GROUP), key=lambda entry: entry.name):
            self._add(entry)
        return super().list_commands(ctx)

    def _add(self, entry: EntryPoint) -> None:
        """Add a plug-in's command; one that cannot be loaded, or is none, says so when it is called."""
        if entry.name in self.commands:
            return
        try:
            command = _command(entry.name, entry.load())
        except (Exception, SystemExit) as error:  # noqa: BLE001 - somebody else's: whatever it is must not stop the others
            settings = {"help": "(cannot be loaded)", "context_settings": _ANYTHING}
            command = _command(entry.name, _broken(entry, error), **settings)
        self.add_command(command, entry.name)


def _command(name: str, function: Callable[..., Any], **settings: Any) -> Any:
    alone = typer.Typer(add_completion=False, rich_markup_mode=None)
    alone.command(name, **settings)(function)
    return typer.main.get_command(alone)


def _broken(entry: EntryPoint, error: BaseException) -> Callable[[], None]:
    package = entry.dist.name if entry.dist is not None else entry.module
    reason = " ".join(str(error).split()) or type(error).__name__

    def say() -> None:
        raise ConfigError(
            f"srcyc {entry.name}: cannot be loaded ({reason}); install {package} again or remove it."
        )

    return say
