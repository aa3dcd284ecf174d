"""`srcyc serve`: the server for MONAI Label's clients. Imports little: `srcyc --help` shows it too."""

from __future__ import annotations

import importlib.util
import sys
from enum import Enum
from pathlib import Path
from typing import Annotated

import typer

from srcyc.cli.console import Console
from srcyc.errors import ConfigError


class AuditFormat(str, Enum):
    """How the audit log is written."""

    TEXT = "text"
    JSON = "json"


def serve(
    studies: Annotated[
        str,
        typer.Option(
            envvar="SRCYC_STUDIES",
            metavar="DIR|URL",
            help="Folder of the scans; may be empty. Or the address of a DICOMweb server.",
            show_default=False,
        ),
    ],
    host: Annotated[
        str, typer.Option(envvar="SRCYC_HOST", metavar="ADDRESS", help="Address to listen on.")
    ] = "127.0.0.1",
    port: Annotated[
        int, typer.Option(envvar="SRCYC_PORT", min=0, max=65535, metavar="N", help="0: any that is free.")
    ] = 8000,
    model_dir: Annotated[
        Path | None,
        typer.Option(
            envvar="SRCYC_MODEL_DIR",
            metavar="DIR",
            help="Retrained models, training runs and the log; default: `model` in the app's own folder.",
        ),
    ] = None,
    allowed_host: Annotated[
        list[str] | None,
        typer.Option(
            envvar="SRCYC_ALLOWED_HOST",
            metavar="NAME",
            help="Another name by which the server may be called; may be repeated.",
        ),
    ] = None,
    cors_origin: Annotated[
        list[str] | None,
        typer.Option(
            envvar="SRCYC_CORS_ORIGIN",
            metavar="URL",
            help="Web pages from elsewhere that may use the server; may be repeated.",
        ),
    ] = None,
    allow_model_files: Annotated[
        bool,
        typer.Option(
            "--allow-model-files",
            envvar="SRCYC_ALLOW_MODEL_FILES",
            help="Send, take and remove model files too.",
        ),
    ] = False,
    max_upload: Annotated[
        float, typer.Option(envvar="SRCYC_MAX_UPLOAD", metavar="GB", help="Largest upload.")
    ] = 4.0,
    users: Annotated[
        Path | None,
        typer.Option(
            envvar="SRCYC_USERS",
            metavar="FILE",
            help="Who may use the server, as what, by which token; default: everybody.",
        ),
    ] = None,
    trusted_proxy: Annotated[
        list[str] | None,
        typer.Option(
            envvar="SRCYC_TRUSTED_PROXY",
            metavar="ADDRESS",
            help="Reverse proxy that says for whom a request is; may be repeated.",
        ),
    ] = None,
    user_header: Annotated[
        str,
        typer.Option(envvar="SRCYC_USER_HEADER", metavar="NAME", help="Header in which the proxy says so."),
    ] = "X-Remote-User",
    audit_log: Annotated[
        Path | None,
        typer.Option(
            envvar="SRCYC_AUDIT_LOG",
            metavar="FILE",
            help="Who did what; default: logs/audit.log in the model folder.",
        ),
    ] = None,
    audit_format: Annotated[
        AuditFormat, typer.Option(envvar="SRCYC_AUDIT_FORMAT", help="Of its lines.")
    ] = AuditFormat.TEXT,
    audit_keep: Annotated[
        int,
        typer.Option(
            envvar="SRCYC_AUDIT_KEEP",
            min=1,
            max=10_000,
            metavar="N",
            help="Older files of it, of 10 MB each, that are kept.",
        ),
    ] = 50,
    pacs_login: Annotated[
        Path | None,
        typer.Option(
            envvar="SRCYC_PACS_LOGIN_FILE",
            metavar="FILE",
            help="NAME:PASSWORD or Bearer TOKEN for the DICOMweb server, in one line; default: $SRCYC_PACS_LOGIN.",
        ),
    ] = None,
    user_queue: Annotated[
        int,
        typer.Option(
            envvar="SRCYC_USER_QUEUE",
            min=1,
            metavar="N",
            help="Inferences that one user may have waiting or running.",
        ),
    ] = 4,
    user_sessions: Annotated[
        int,
        typer.Option(
            envvar="SRCYC_USER_SESSIONS",
            min=1,
            metavar="N",
            help="Scans that one user may send for some time.",
        ),
    ] = 20,
    user_storage: Annotated[
        float,
        typer.Option(
            envvar="SRCYC_USER_STORAGE",
            min=0.001,
            metavar="GB",
            help="Those, and the scans that one user may add.",
        ),
    ] = 100.0,
) -> None:
    """Serve scans, super-resolution and training to MONAI Label's clients.

    Nobody is asked who they are, so the server listens on this machine only; for other addresses it wants --users or
    --trusted-proxy. Each option can be given in the environment too: SRCYC_MAX_UPLOAD for --max-upload.
    """
    if not 0 < max_upload < float("inf"):
        raise ConfigError(f"--max-upload {max_upload:g}: give a positive number of GB.")
    if importlib.util.find_spec("monailabel") is None:
        where = " in an environment of Python 3.10, 3.11 or 3.12" if sys.version_info >= (3, 13) else ""
        raise ConfigError(
            f'srcyc serve: MONAI Label is not installed; run pip install "srcyc[server]"{where}.'
        )
    from srcyc_app.server.launch import Options, run

    console = Console()
    run(
        Options(
            studies=studies,
            host=host,
            port=port,
            model_dir=model_dir,
            allowed_hosts=tuple(allowed_host or ()),
            cors_origins=tuple(cors_origin or ()),
            allow_model_files=allow_model_files,
            max_upload_gb=max_upload,
            users=users,
            trusted_proxies=tuple(trusted_proxy or ()),
            user_header=user_header,
            audit_log=audit_log,
            audit_format=audit_format.value,
            audit_keep=audit_keep,
            pacs_login=pacs_login,
            user_queue=user_queue,
            user_sessions=user_sessions,
            user_storage_gb=user_storage,
        ),
        console.say,
        console.warn,
    )
