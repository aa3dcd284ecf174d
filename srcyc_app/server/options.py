"""What `srcyc serve` can be asked for: declared once, as the command's options and as what the server is given."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Annotated

import typer


class AuditFormat(str, Enum):
    """How the audit log is written."""

    TEXT = "text"
    JSON = "json"


@dataclass(frozen=True)
class Options:
    """Each field is an option of the command, and a variable of its environment: SRCYC_HOST for --host."""

    studies: Annotated[
        str,
        typer.Option(
            metavar="DIR|URL",
            help="Folder of the scans; may be empty. Or the address of a DICOMweb server.",
            show_default=False,
        ),
    ]
    host: Annotated[str, typer.Option(metavar="ADDRESS", help="Address to listen on.")] = "127.0.0.1"
    port: Annotated[int, typer.Option(min=0, max=65535, metavar="N", help="0: any that is free.")] = 8000
    model_dir: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            help="Retrained models, training runs and the log; default: `model` in the app's own folder.",
        ),
    ] = None
    allowed_host: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME", help="Another name by which the server may be called; may be repeated."),
    ] = None
    cors_origin: Annotated[
        list[str] | None,
        typer.Option(
            metavar="URL", help="Web pages from elsewhere that may use the server; may be repeated."
        ),
    ] = None
    allow_model_files: Annotated[
        bool, typer.Option("--allow-model-files", help="Send, take and remove model files too.")
    ] = False
    max_upload: Annotated[float, typer.Option(metavar="GB", help="Largest upload.")] = 4.0
    users: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", help="Who may use the server, as what, by which token; default: everybody."
        ),
    ] = None
    trusted_proxy: Annotated[
        list[str] | None,
        typer.Option(
            metavar="ADDRESS", help="Reverse proxy that says for whom a request is; may be repeated."
        ),
    ] = None
    user_header: Annotated[str, typer.Option(metavar="NAME", help="Header in which the proxy says so.")] = (
        "X-Remote-User"
    )
    audit_log: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Who did what; default: logs/audit.log in the model folder."),
    ] = None
    audit_format: Annotated[AuditFormat, typer.Option(help="Of its lines.")] = AuditFormat.TEXT
    audit_keep: Annotated[
        int,
        typer.Option(min=1, max=10_000, metavar="N", help="Older files of it, of 10 MB each, that are kept."),
    ] = 50
    pacs_login: Annotated[
        Path | None,
        typer.Option(
            envvar="SRCYC_PACS_LOGIN_FILE",
            metavar="FILE",
            help="NAME:PASSWORD or Bearer TOKEN for the DICOMweb server, in one line; default: $SRCYC_PACS_LOGIN.",
        ),
    ] = None
    user_queue: Annotated[
        int,
        typer.Option(min=1, metavar="N", help="Inferences that one user may have waiting or running."),
    ] = 4
    user_sessions: Annotated[
        int, typer.Option(min=1, metavar="N", help="Scans that one user may send for some time.")
    ] = 20
    user_storage: Annotated[
        float,
        typer.Option(min=0.001, metavar="GB", help="Those, and the scans that one user may add."),
    ] = 100.0
