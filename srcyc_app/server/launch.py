"""From a command line's options to a server that runs: checks, socket, log, web server."""

from __future__ import annotations

import errno
import logging
import os
import signal
import socket
import sys
import threading
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import srcyc_app
from srcyc.errors import ConfigError, OutputError, VolumeError
from srcyc.files import make_folder
from srcyc.training.watch.signals import handled
from srcyc_app.server.logs import LOG
from srcyc_app.server.names import address_of, split_host
from srcyc_app.server.options import Options

if TYPE_CHECKING:
    from srcyc_app.server.access import Rules

_log = logging.getLogger(__name__)

#: Connections that wait to be taken on.
_BACKLOG = 512
#: Seconds for which an idle connection is kept.
_KEEP_ALIVE = 15
#: Seconds that replies under way have at the end.
_GRACE = 5
#: Environment variable of whoever starts a server and holds its standard input: closed, also by a crash, it ends the
#: server. Windows has no signal that asks a process to end.
END_WITH_INPUT = "SRCYC_END_WITH_INPUT"


def run(options: Options, say: Callable[[str], None], warn: Callable[[str], None]) -> None:
    """Serve until SIGTERM or Ctrl-C.

    Args:
        options: as given.
        say: tells the user where the server is.
        warn: tells the user what to beware of.

    Raises:
        InputError: an option that cannot be used: folder, name, port.
        SRCycError: the app cannot be loaded.
    """
    _check_names(options)
    rules = _rules(options)
    studies = _checked_studies(options.studies)
    model_dir = _checked_model_dir(options.model_dir)
    listener = _listen(options.host, options.port)
    with listener:
        port = listener.getsockname()[1]
        if not _is_local(options.host):
            warn(
                f"the server listens on {options.host} without TLS: tokens and scans can be read on the way; let a "
                "reverse proxy on this machine do it (docs/server.md)."
            )
        from srcyc_app.server.audit import audit_to
        from srcyc_app.server.logs import log_to

        log_to(model_dir / LOG)
        audit_to(
            options.audit_log or model_dir / LOG.with_name("audit.log"),
            options.audit_format.value,
            options.audit_keep,
        )
        _configure(options, studies, model_dir, port)
        place = f"[{options.host}]" if ":" in options.host else options.host
        _serve(
            options,
            rules,
            listener,
            lambda: say(f"SRCyc serves {studies} at http://{place}:{port} (Ctrl-C ends it)"),
        )


def _serve(options: Options, rules: Rules, listener: socket.socket, ready: Callable[[], None]) -> None:
    import uvicorn

    from srcyc_app.server.application import create_app
    from srcyc_app.server.environment import app_of_settings
    from srcyc_app.server.limits import Limits
    from srcyc_app.server.protocol import PatientProtocol, allow_files

    allow_files()

    class Server(uvicorn.Server):
        """Says when it is ready, and lets long work end before it waits for the replies."""

        async def startup(self, sockets: list[socket.socket] | None = None) -> None:
            await super().startup(sockets)
            ready()

        async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
            application.state.services.halt()
            await super().shutdown(sockets)

    # Loaded before the web server runs: what is wrong with it is then said in one sentence.
    app = app_of_settings()
    limits = Limits(options.user_queue, options.user_sessions, int(options.user_storage * 1e9))
    application = create_app(
        [options.host, *(options.allowed_host or ())], options.cors_origin or (), rules, limits, lambda: app
    )
    config = uvicorn.Config(
        application,
        log_config=None,
        access_log=False,
        server_header=False,
        ws="none",
        # Who is believed about addresses is said by --trusted-proxy.
        proxy_headers=False,
        http=PatientProtocol,
        timeout_keep_alive=_KEEP_ALIVE,
        backlog=_BACKLOG,
        timeout_graceful_shutdown=_GRACE,
    )
    _reopen_logs_on_hangup()
    # The web server ends gracefully on a signal, then raises it again; to end is not to fail.
    with handled((signal.SIGINT, signal.SIGTERM), lambda number: None):
        server = Server(config)
        if os.environ.get(END_WITH_INPUT):
            threading.Thread(target=_end_with_input, args=(server,), name="input", daemon=True).start()
        server.run(sockets=[listener])
        services = application.state.services
        services.close()
    _log.info("the server has ended")
    if not services.line.is_idle():
        # Deep in a library that cannot be interrupted: Python would wait for it.
        logging.shutdown()
        os._exit(0)


def _end_with_input(server: Any) -> None:
    """Ask the web server to end when standard input is closed."""
    with suppress(OSError, ValueError):
        deque(sys.stdin.buffer, maxlen=0)
    _log.info("standard input is closed: the server ends")
    server.should_exit = True


def _reopen_logs_on_hangup() -> None:
    if hasattr(signal, "SIGHUP"):
        from srcyc_app.server.logs import reopen_logs

        signal.signal(signal.SIGHUP, lambda number, frame: reopen_logs())


def _configure(options: Options, studies: str, model_dir: Path, port: int) -> None:
    from pydantic import ValidationError

    try:
        from monailabel.config import settings

        from srcyc_app.server.environment import configure
    except ValidationError as error:
        key = ".".join(map(str, error.errors()[0]["loc"]))
        raise ConfigError(f"{key}: MONAI Label cannot use its value in the environment; unset it.") from error
    if settings.MONAI_LABEL_AUTH_ENABLE:
        raise ConfigError(
            "MONAI_LABEL_AUTH_ENABLE: this server has no login; unset it, and use an authenticating reverse proxy."
        )
    configure(
        studies,
        port,
        {
            "model_dir": str(model_dir),
            "max_upload_gb": str(options.max_upload),
            "allow_model_files": str(options.allow_model_files).lower(),
            **({"pacs_login": str(options.pacs_login.absolute())} if options.pacs_login else {}),
        },
    )


def _checked_studies(text: str) -> str:
    """Give the absolute path of the studies folder, or the address as it is.

    Raises:
        VolumeError: no such folder.
        OutputError: not writable.
    """
    if text.startswith(("http://", "https://")):
        from srcyc.pacs.web import checked_address

        return checked_address(text)
    folder = Path(text)
    if not folder.is_dir():
        raise VolumeError(f"{folder}: there is no such folder; make it first, or correct --studies.")
    read_only = os.environ.get("MONAI_LABEL_DATASTORE_READ_ONLY", "").lower() in ("1", "true", "yes", "on")
    if not read_only and not os.access(folder, os.W_OK | os.X_OK):
        raise OutputError(
            f"{folder}: cannot be written; change its permissions, or set MONAI_LABEL_DATASTORE_READ_ONLY=true."
        )
    return str(folder.resolve())


def _checked_model_dir(folder: Path | None) -> Path:
    """Make the model folder if need be, and give its absolute path.

    Raises:
        OutputError: not writable.
    """
    folder = (folder or Path(srcyc_app.__file__).parent / "model").resolve()
    # What a training prepares of scans, and the logs, are not for other users of the machine.
    for private in (folder / LOG.parent, folder / "runs"):
        try:
            make_folder(private, private=True)
        except OutputError as error:
            raise OutputError(error.fact, remedy="give another --model-dir") from error
    return folder


def _listen(host: str, port: int) -> socket.socket:
    """Take the port, before anything slow happens.

    Raises:
        OutputError: it is in use, or not this machine's.
    """
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        family, _, _, _, address = found[0]
    except (OSError, UnicodeError) as error:
        raise ConfigError(
            f"--host {host!r}: not an address of this machine; give one, e.g. 127.0.0.1."
        ) from error
    both = family == socket.AF_INET6 and socket.has_dualstack_ipv6()
    try:
        # From now on another server is told that the port is in use.
        return socket.create_server(address, family=family, backlog=_BACKLOG, dualstack_ipv6=both)
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            raise OutputError(f"--port {port}: in use by another program; choose another.") from error
        reason = os.strerror(error.errno) if error.errno else error
        raise OutputError(f"--host {host} --port {port}: cannot be used ({reason}).") from error


def _rules(options: Options) -> Rules:
    """Read who may use the server.

    Raises:
        ConfigError: a file of users that cannot be used; an address for others, and nobody is asked who they are.
    """
    from srcyc_app.server.access import Rules, Users, networks

    rules = Rules(
        users=Users(options.users) if options.users is not None else None,
        proxies=networks(options.trusted_proxy or ()),
        header=options.user_header.lower(),
        everybody=_is_local(options.host),
    )
    if rules.users is None and not rules.proxies and not rules.everybody:
        raise ConfigError(
            f"--host {options.host}: others reach this address, and nobody is asked who they are",
            remedy="name those who may by --users FILE, or the proxy that asks them by --trusted-proxy ADDRESS",
        )
    return rules


def _is_local(host: str) -> bool:
    address = address_of(host)
    return host.lower() == "localhost" if address is None else address.is_loopback


def _check_names(options: Options) -> None:
    """Check the names that requests are compared with.

    Raises:
        ConfigError: a name or an origin that no request could have.
    """
    for host in options.allowed_host or ():
        if split_host(host) != (host.lower().strip("[]"), None):
            raise ConfigError(f"--allowed-host {host!r}: give a name without scheme, port and path.")
    for origin in options.cors_origin or ():
        parts = urlsplit(origin)
        if (
            parts.scheme not in ("http", "https")
            or origin != f"{parts.scheme}://{parts.netloc}"
            or not parts.netloc
        ):
            raise ConfigError(
                f"--cors-origin {origin!r}: give scheme and host only, e.g. https://pacs.example."
            )
