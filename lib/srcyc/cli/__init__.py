"""The `srcyc` command.

Modules here import PyTorch and the image libraries inside their functions, so that help and mistaken arguments are
answered at once.
"""

from __future__ import annotations

import contextlib
import signal
import sys
import threading
from collections.abc import Iterator, Sequence
from types import FrameType
from typing import Annotated

import typer

from srcyc._version import __version__
from srcyc.cli import bids, combine, domains, evaluate, infer, models, publish, receive, train
from srcyc.cli.console import EXIT_INTERRUPTED, EXIT_TERMINATED, show_error, usage_sentence
from srcyc.cli.plugins import Commands

app = typer.Typer(
    name="srcyc",
    cls=Commands,
    help="Thin slices from thick ones: super-resolution of MR volumes. Not for diagnostic use.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    # Plain help: the boxes of rich leave a dozen characters for each explanation.
    rich_markup_mode=None,
)


def _version(asked: bool) -> None:
    if asked:
        typer.echo(f"srcyc {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    pass


# One line per command, in the order of `srcyc --help`.
app.command()(infer.infer)
app.command()(combine.combine)
app.command()(bids.bids)
app.command()(evaluate.evaluate)
app.command()(train.train)
app.command()(domains.domains)
app.command()(models.models)
app.command()(publish.publish)
app.command()(receive.receive)

#: Options that take all that follows them: paths, as a shell's `scans/*.nii.gz` gives them, and labels of a BIDS App.
_PATH_OPTIONS = ("--hr", "--lr", "--participant-label", "--session-label")


class _Terminated(BaseException):
    """SIGTERM: unwinds like Ctrl-C, so that nothing partial is left behind."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line.

    Args:
        argv: arguments without the program's name; default: the process's.

    Returns:
        the exit code: 0 fine, 1 a failure, 2 bad input, 130 interrupted, 143 terminated.
    """
    arguments = list(sys.argv[1:] if argv is None else argv)
    try:
        with _terminated_by_signal():
            code = app(args=spread_paths(arguments), prog_name="srcyc", standalone_mode=False)
    except (KeyboardInterrupt, typer.Abort):
        code = EXIT_INTERRUPTED
    except _Terminated:
        code = EXIT_TERMINATED
    except Exception as error:  # noqa: BLE001 - the outermost place: whatever it is becomes a sentence
        sentence = usage_sentence(error)
        if sentence is None:
            return show_error(error)
        sys.stderr.write(sentence + "\n")
        return 2
    code = code if isinstance(code, int) else 0
    if code == EXIT_INTERRUPTED:
        sys.stderr.write("srcyc: interrupted; what was finished is kept, nothing partial is left.\n")
    return code


def spread_paths(arguments: Sequence[str]) -> list[str]:
    """Repeat a path option before each of its paths: ``--hr a b`` -> ``--hr a --hr b``."""
    spread: list[str] = []
    option = None
    for argument in arguments:
        if argument.startswith("-"):
            option = argument if argument in _PATH_OPTIONS else None
        elif option is not None and spread[-1] != option:
            spread.append(option)
        spread.append(argument)
    return spread


@contextlib.contextmanager
def _terminated_by_signal() -> Iterator[None]:
    """Turn SIGTERM into an exception inside the block (main thread only)."""

    def stop(number: int, frame: FrameType | None) -> None:
        raise _Terminated

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    previous = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, previous)
