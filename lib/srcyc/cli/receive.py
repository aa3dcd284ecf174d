"""`srcyc receive`: scans that a scanner or a PACS sends become results that are sent on."""

from __future__ import annotations

import logging
import time
from pathlib import Path
from typing import Annotated, Any

import typer

from srcyc.cli.options import Inference, PacsLogin, with_inference
from srcyc.errors import ConfigError

#: Seconds between two looks at the queue.
_LOOK = 0.5
_HOUR = 3600.0
_LOCAL = ("127.0.0.1", "localhost", "::1")


@with_inference()
def receive(
    queue: Annotated[
        Path,
        typer.Argument(metavar="QUEUE", help="Folder for what has come and is not yet sent on."),
    ],
    send_to: Annotated[
        list[str] | None,
        typer.Option(metavar="AET@HOST:PORT", help="Send results there by C-STORE; may be repeated."),
    ] = None,
    to_dicomweb: Annotated[
        str | None,
        typer.Option(metavar="URL", help="Store results in this DICOMweb server."),
    ] = None,
    pacs_login: PacsLogin = None,
    ae_title: Annotated[
        str, typer.Option(metavar="AET", help="Own title; who calls has to know it.")
    ] = "SRCYC",
    host: Annotated[str, typer.Option(help="Address to listen on; any but this machine's needs --allow.")] = (
        "127.0.0.1"
    ),
    port: Annotated[int, typer.Option(help="Port to listen on.", min=0, max=65535)] = 11112,
    allow: Annotated[
        list[str] | None,
        typer.Option(metavar="AET", help="A title that may call; may be repeated. Default: all."),
    ] = None,
    quiet: Annotated[
        float, typer.Option(min=0, help="Seconds without another slice after which a series is complete.")
    ] = 15.0,
    keep: Annotated[
        float, typer.Option(min=0, metavar="HOURS", help="How long scans stay in QUEUE once they are done.")
    ] = 24.0,
    *,
    inference: Inference,
) -> None:
    """Receive scans by C-STORE and send their super-resolved series on.

    Nothing is lost when it is killed: what was acknowledged is in QUEUE, and is gone on with when it runs again.
    """
    if not (send_to or to_dicomweb):
        raise ConfigError("no place for results; give --send-to AET@HOST:PORT or --to-dicomweb URL.")
    if host not in _LOCAL and not allow:
        raise ConfigError(f"--host {host}: other machines reach it; say by --allow AET who may send.")
    for title in (ae_title, *(allow or ())):
        if not (
            0 < len(title.strip()) <= 16 and title.isascii() and title.isprintable() and "\\" not in title
        ):
            raise ConfigError(f"{title[:40]!r} is no AE title; give 1 to 16 letters.")
    try:
        from srcyc.pacs.network import Listener, Peer
        from srcyc.pacs.queue import Queue
        from srcyc.pacs.receiver import Receiver
        from srcyc.pacs.web import DicomWeb, Login
    except ModuleNotFoundError as error:
        raise ConfigError(
            f"`srcyc receive` needs the package {error.name}; install `srcyc[server]`."
        ) from error
    peers = [Peer.of(text) for text in send_to or ()]
    targets: list[Any] = [lambda files, peer=peer: peer.send(files, ae_title) for peer in peers]
    if to_dicomweb is not None:
        targets.append(DicomWeb(to_dicomweb, Login(pacs_login)).store)
    # Before anything is acknowledged: a model that cannot be loaded would leave scans waiting for nothing.
    resolver = inference.load()
    _log_to_stderr()
    waiting = Queue(queue)
    try:
        listener = Listener(ae_title, host, port, allow or [], waiting.put)
        receiver = Receiver(
            waiting, resolver, inference.options, targets, quiet, keep * _HOUR, listener.coming
        )
        logging.getLogger(__name__).info("%s receives at %s:%d into %s", ae_title, host, listener.port, queue)
        try:
            while True:
                if not receiver.work():
                    time.sleep(_LOOK)
        finally:
            listener.close()
    finally:
        waiting.close()


def _log_to_stderr() -> None:
    """Write our own lines to stderr, and none of pynetdicom's, which show what is in the images."""
    handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    ours = logging.getLogger("srcyc")
    ours.addHandler(handler)
    ours.setLevel(logging.INFO)
    ours.propagate = False
    for name in ("pynetdicom", "pydicom"):
        logging.getLogger(name).setLevel(logging.CRITICAL)
