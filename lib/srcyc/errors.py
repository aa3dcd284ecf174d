"""Typed errors: what is wrong and what to do about it, as data; together they are one sentence."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager


class SRCycError(Exception):
    """A failure that the input did not cause; the command line exits with 1.

    Whoever shows it may word it: the command line turns the options that it names into flags.

    Args:
        fact: which file, what value, what is wrong with it.
        remedy: what to do, in the imperative, without a full stop; None: the fact is a sentence of its own.
        options: names of options that the two mention, as in Python: ``target_spacing``.

    Attributes:
        exit_code: of a program that it ends.
    """

    exit_code = 1

    def __init__(self, fact: str, *, remedy: str | None = None, options: Sequence[str] = ()) -> None:
        super().__init__(fact if remedy is None else f"{fact}; {remedy}.")
        self.fact = fact
        self.remedy = remedy
        self.options = tuple(options)

    def worded(self, name: Callable[[str], str]) -> str:
        """Put fact and remedy into one sentence in which options are called as a front end calls them.

        Args:
            name: gives that for the name of an option: ``--target-spacing`` for ``target_spacing``.
        """
        fact, remedy = self.fact, self.remedy or ""
        for option in self.options:
            # Elsewhere in a fact the word may be part of a path.
            fact = re.sub(rf"^{re.escape(option)}\b", name(option), fact)
            remedy = re.sub(rf"(?<![\w-]){re.escape(option)}\b", name(option), remedy)
        return f"{fact}; {remedy}." if remedy else fact


class StoppedError(SRCycError):
    """Work was asked to stop and has saved everything; the command line exits with 128 + the signal's number.

    Attributes:
        number: of the signal.
    """

    def __init__(
        self, fact: str, number: int, *, remedy: str | None = None, options: Sequence[str] = ()
    ) -> None:
        super().__init__(fact, remedy=remedy, options=options)
        self.number = number
        self.exit_code = 128 + number


class MissingExtraError(SRCycError, ImportError):
    """A package that only an extra of the installation brings, and that is not there."""


@contextmanager
def extra(name: str) -> Iterator[None]:
    """Import inside the block what only an extra brings.

    Args:
        name: of the extra, as in ``srcyc[train]``.

    Raises:
        MissingExtraError: a package is not there; names the extra.
    """
    try:
        yield
    except ModuleNotFoundError as error:
        raise MissingExtraError(
            f"the Python package {error.name} is not installed",
            remedy=f"install it with the extra {name}: pip install 'srcyc[{name}]'",
        ) from error


class InputError(SRCycError, ValueError):
    """Bad input, refused before anything is written; the command line exits with 2."""

    exit_code = 2


class VolumeError(InputError):
    """A file or array that cannot be used as an MR volume."""


class LabelMapError(VolumeError):
    """A label map where a scan is wanted."""


class ModelError(InputError):
    """A model file that cannot be read, or does not fit what was asked."""


class ConfigError(InputError):
    """A configuration key or value outside its schema."""


class DataError(InputError):
    """A set of scans that cannot be trained on (too few, wrong domain, too small)."""


class OutputError(InputError):
    """An output place that cannot be written, or already holds something."""


class ArchiveError(SRCycError):
    """A PACS that cannot be asked, or does not do what it was asked."""


class ArchiveTimeoutError(ArchiveError):
    """A PACS that does not answer in time."""


class NotInArchiveError(ArchiveError):
    """What was asked for is not in the PACS."""


class NothingToDoError(InputError):
    """The scan already has the requested spacing."""
