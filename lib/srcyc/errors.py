"""Typed errors: one sentence that names the file, the value and the remedy."""

from __future__ import annotations


class SRCycError(Exception):
    """A failure that the input did not cause; the command line exits with 1."""


class StoppedError(SRCycError):
    """Work was asked to stop and has saved everything; the command line exits with 128 + the signal's number.

    Attributes:
        number: of the signal.
    """

    def __init__(self, message: str, number: int) -> None:
        super().__init__(message)
        self.number = number


class InputError(SRCycError, ValueError):
    """Bad input, refused before anything is written; the command line exits with 2."""


class VolumeError(InputError):
    """A file or array that cannot be used as an MR volume."""


class ModelError(InputError):
    """A model file that cannot be read, or does not fit what was asked."""


class ConfigError(InputError):
    """A configuration key or value outside its schema."""


class DataError(InputError):
    """A set of scans that cannot be trained on (too few, wrong domain, too small)."""


class OutputError(InputError):
    """An output place that cannot be written, or already holds something."""


class NothingToDoError(InputError):
    """The scan already has the requested spacing."""
