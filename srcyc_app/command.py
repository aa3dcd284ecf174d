"""`srcyc serve`: the server for MONAI Label's clients. Imports little: `srcyc --help` shows it too."""

from __future__ import annotations

import importlib.util
import inspect
import sys
from typing import Any

from srcyc.cli.console import Console
from srcyc.errors import ConfigError
from srcyc_app.server.options import Options


def serve(**given: Any) -> None:
    """Serve scans, super-resolution and training to MONAI Label's clients.

    Nobody is asked who they are, so the server listens on this machine only; for other addresses it wants --users or
    --trusted-proxy. Each option can be given in the environment too: SRCYC_MAX_UPLOAD for --max-upload.
    """
    options = Options(**given)
    if not 0 < options.max_upload < float("inf"):
        raise ConfigError(f"--max-upload {options.max_upload:g}: give a positive number of GB.")
    if importlib.util.find_spec("monailabel") is None:
        where = " in an environment of Python 3.10, 3.11 or 3.12" if sys.version_info >= (3, 13) else ""
        raise ConfigError(
            f'srcyc serve: MONAI Label is not installed; run pip install "srcyc[server]"{where}.'
        )
    from srcyc_app.server.launch import run

    console = Console()
    run(options, console.say, console.warn)


def _signature() -> inspect.Signature:
    """Give the options as typer wants them, each with its variable of the environment."""
    signature = inspect.signature(Options, eval_str=True)
    for each in signature.parameters.values():
        (option,) = each.annotation.__metadata__
        option.envvar = option.envvar or f"SRCYC_{each.name.upper()}"
    return signature


serve.__signature__ = _signature()  # type: ignore[attr-defined]
