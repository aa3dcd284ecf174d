"""What the user sees: rich progress on a terminal, plain lines otherwise; errors as one sentence."""

from __future__ import annotations

import contextlib
import os
import sys
import threading
import traceback
from collections.abc import Callable, Collection, Iterator
from typing import Any

from rich.console import Console as RichConsole
from rich.measure import Measurement
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table

from srcyc.documents import json_text
from srcyc.errors import SRCycError
from srcyc.files import is_full
from srcyc.memory import is_out_of_memory

EXIT_FAILURE, EXIT_BAD_INPUT, EXIT_INTERRUPTED, EXIT_TERMINATED = 1, 2, 130, 143

#: Set in the environment, it shows the traceback of what is otherwise one sentence.
DEBUG_VARIABLE = "SRCYC_DEBUG"

_WIDEST = 1000

#: A line waits until the bar of another thread is gone, which it would tear.
_bar = threading.RLock()

#: Told the fraction done, 0 to 1.
Progressed = Callable[[float], None]


class Console:
    """Answers on stdout, progress, warnings and errors on stderr.

    Args:
        json: stdout is read by a program: it gets one JSON document, and everything else goes to stderr.
        quiet: nothing is shown: another process of the same command shows it.
    """

    def __init__(self, *, json: bool = False, quiet: bool = False) -> None:
        self.json = json
        plain: dict[str, Any] = {"highlight": False, "markup": False, "emoji": False, "soft_wrap": True}
        self._out = RichConsole(stderr=json, quiet=quiet, **plain)
        self._err = RichConsole(stderr=True, quiet=quiet, **plain)

    def say(self, text: str = "") -> None:
        """Tell the user something."""
        with _bar:
            self._out.print(text)

    def warn(self, text: str) -> None:
        """Tell the user something to beware of."""
        with _bar:
            self._err.print(f"warning: {text}", style="yellow")

    def error(self, sentence: str) -> None:
        """Tell the user what is wrong."""
        with _bar:
            self._err.print(sentence, style="red")

    def table(self, table: Table) -> None:
        """Print a table in its full width: a number cut short is worse than a long line."""
        options = self._out.options.update(max_width=_WIDEST)
        width = Measurement.get(self._out, options, table).maximum
        wide = RichConsole(
            stderr=self.json, quiet=self._out.quiet, highlight=False, width=max(width, self._out.width)
        )
        wide.print(table, crop=False)

    def answer(self, document: Any) -> None:
        """Print the JSON document that a program asked for."""
        sys.stdout.write(json_text(document))
        sys.stdout.flush()

    @contextlib.contextmanager
    def progress(self, label: str) -> Iterator[Progressed]:
        """Show how far one piece of work is: a bar on a terminal, else nothing but its first line."""
        if not self._err.is_terminal:
            if not self.json:
                self.say(f"{label} ...")
            yield lambda fraction: None
            return
        columns = (TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn(), TimeRemainingColumn())
        with _bar, Progress(*columns, console=self._err, transient=True) as bar:
            task = bar.add_task(label, total=1.0)
            yield lambda fraction: bar.update(task, completed=min(max(fraction, 0.0), 1.0))

    @contextlib.contextmanager
    def training(self, steps: int) -> Iterator[Callable[[int, str], None]]:
        """Show a training: a line for every report, and on a terminal a bar below the lines."""
        if not self._err.is_terminal:
            yield lambda step, line: self.say(line)
            return
        columns = (TextColumn("training"), BarColumn(), TimeElapsedColumn(), TimeRemainingColumn())
        with Progress(*columns, console=self._err, transient=True, speed_estimate_period=600) as bar:
            task = bar.add_task("training", total=steps)

            def show(step: int, line: str) -> None:
                bar.console.print(line)
                bar.update(task, completed=step)

            yield show


def sentence_of(error: BaseException, subject: str | None = None) -> tuple[str, int]:
    """Say an error in one sentence that names the file, and give the exit code that belongs to it.

    Args:
        error: anything raised.
        subject: the file that was worked on.
    """
    if isinstance(error, SRCycError):
        return _about(" ".join(error.worded(flag).split()), subject), error.exit_code
    text = " ".join(str(error).split())
    if is_out_of_memory(error):
        remedy = "give a smaller --max-memory, a coarser --target-spacing, or use a machine with more"
        return _about(f"out of memory; {remedy}.", subject), EXIT_FAILURE
    if isinstance(error, OSError):
        return _about(*_system_error(error, subject)), EXIT_BAD_INPUT
    return (
        _about(
            f"unexpected {type(error).__name__} ({text or 'no message'}); "
            f"set {DEBUG_VARIABLE}=1 to see where, and report it.",
            subject,
        ),
        EXIT_FAILURE,
    )


def show_error(error: BaseException, subject: str | None = None) -> int:
    """Write the sentence for an error to stderr and give its exit code."""
    sentence, code = sentence_of(error, subject)
    if os.environ.get(DEBUG_VARIABLE):
        traceback.print_exception(error)
    Console().error(sentence)
    return code


def worst(codes: Collection[int]) -> int:
    """Give the exit code of several pieces of work: a failure counts more than bad input."""
    return EXIT_FAILURE if EXIT_FAILURE in codes else max(codes, default=0)


def usage_sentence(error: BaseException) -> str | None:
    """Give one line for a command-line mistake found by typer, or None for another error."""
    if not hasattr(error, "format_message"):
        return None
    context = getattr(error, "ctx", None)
    if type(error).__name__ == "NoArgsIsHelpError" and context is not None:
        return str(context.get_help())
    command = context.command_path if context is not None else "srcyc"
    message = " ".join(str(error.format_message()).split()).rstrip(".")
    return f"{command}: {message}; see '{command} --help'."


def flag(option: str) -> str:
    """Give the flag of an option: ``target_spacing`` -> ``--target-spacing``."""
    return f"--{option.replace('_', '-')}"


def _about(text: str, subject: str | None) -> str:
    return text if subject is None or subject in text else f"{subject}: {text}"


def _system_error(error: OSError, subject: str | None) -> tuple[str, str | None]:
    reason = error.strerror or str(error) or type(error).__name__
    place = str(error.filename) if error.filename else subject
    if is_full(error):
        return f"cannot be written ({reason}); free some space or choose another folder.", place
    return f"cannot be used ({reason}); check the path and its permissions.", place
