"""What a run leaves to be watched: ``history.csv``, and TensorBoard scalars and pictures where it is installed."""

from __future__ import annotations

import csv
import io
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from srcyc.errors import OutputError
from srcyc.files import write_text, writing
from srcyc.training.validation import Image, Picture
from srcyc.training.watch.progress import Progress

HISTORY_NAME = "history.csv"
TENSORBOARD_NAME = "tensorboard"

#: Columns that every history begins with.
_FIRST = ("step", "seconds", "learning_rate")


class Recorder:
    """Writes down the course of a run.

    ``history.csv`` has one row per step reported; a cell is empty where a column was not measured at that step. The
    file is replaced as a whole, so that it is complete at any moment. Without TensorBoard it is all there is.

    Args:
        folder: of the run; exists.
        resume_step: what was recorded after this step is dropped, since the run does it again; 0 begins anew.

    Raises:
        OutputError: the folder cannot be written, or its history cannot be read.
    """

    def __init__(self, folder: Path, resume_step: int = 0) -> None:
        self._path = folder / HISTORY_NAME
        history = read_history(folder) if resume_step and self._path.exists() else []
        self._rows = [row for row in history if row["step"] <= resume_step]
        self._events = _Events.opened(folder / TENSORBOARD_NAME, resume_step)

    def report(self, progress: Progress) -> None:
        """Record a step; a second report of the same step adds to the first.

        Raises:
            OutputError: the disk is full, or the folder cannot be written any more.
        """
        measured = progress.score.as_row() if progress.score else {}
        found = progress.degradation.as_row() if progress.degradation else {}
        row = {
            "step": progress.step,
            "seconds": round(float(progress.seconds), 1),
            "learning_rate": progress.learning_rate,
            **progress.terms,
            **measured,
            **found,
        }
        if self._rows and self._rows[-1]["step"] == progress.step:
            row = {**self._rows.pop(), **row}
        self._rows.append(row)
        write_text(self._path, _as_csv(self._rows))
        if self._events is not None:
            scalars = {f"loss/{name}": value for name, value in progress.terms.items()}
            scalars |= {f"validation/{name}": value for name, value in measured.items()}
            scalars |= {f"degradation/{name}": value for name, value in found.items()}
            self._events.scalars(progress.step, {**scalars, "learning_rate": progress.learning_rate})

    def pictures(self, step: int, pictures: Sequence[Picture]) -> None:
        """Show validation pictures in TensorBoard: interpolated | super-resolved | truth, three planes.

        Raises:
            OutputError: the disk is full, or the folder cannot be written any more.
        """
        if self._events is not None:
            self._events.images(
                step, {f"validation/{picture.name}": montage(picture) for picture in pictures}
            )

    def close(self) -> None:
        """End the recording.

        Raises:
            OutputError: the disk is full, or the folder cannot be written any more.
        """
        if self._events is not None:
            self._events.close()


def read_history(folder: Path) -> list[dict[str, float]]:
    """Read a run's ``history.csv``; each row holds what was measured at its step, ``step`` among it.

    Raises:
        OutputError: it cannot be read.
    """
    path = folder / HISTORY_NAME
    try:
        with path.open(newline="", encoding="utf-8") as stream:
            return [
                {name: float(cell) for name, cell in row.items() if cell} | {"step": int(row["step"])}
                for row in csv.DictReader(stream)
            ]
    except OSError as error:
        raise OutputError(
            f"{path}: cannot be read ({error.strerror or error})", remedy="choose another folder"
        ) from error
    except (ValueError, KeyError, TypeError, AttributeError, csv.Error) as error:
        raise OutputError(f"{path}: is no history of a run ({error})", remedy="move it away") from error


def montage(picture: Picture) -> Image:
    """Lay a picture out as one grey image in [0, 1].

    Returns:
        ``(H, W)``: interpolated, super-resolved and truth from left to right, one plane per row; slices thinner than
        wide are stretched to their true proportions.
    """
    from srcyc.evaluation.figure import planes

    columns = [planes(image, picture.grid) for image in (picture.interpolated, picture.sr, picture.truth)]
    rows = [np.concatenate(views, axis=1) for views in zip(*columns, strict=True)]
    width = max(row.shape[1] for row in rows)
    padded = [np.pad(row, ((0, 0), (0, width - row.shape[1]))) for row in rows]
    return np.concatenate(padded).clip(0, 1)


def _as_csv(rows: Sequence[Mapping[str, float]]) -> str:
    # A loss term or metric may be measured for the first time late in a run.
    columns = list(dict.fromkeys([*_FIRST, *(name for row in rows for name in row)]))
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


class _Events:
    """A TensorBoard event file, written at once.

    PyTorch's ``SummaryWriter`` writes from a thread of its own, which tells of a full disk by a traceback.
    """

    def __init__(self, folder: Path, resume_step: int) -> None:
        from tensorboard.compat.proto.event_pb2 import Event, SessionLog
        from tensorboard.summary.writer.record_writer import RecordWriter

        self._folder = folder
        self._event = Event
        with writing(folder):
            folder.mkdir(parents=True, exist_ok=True)
            # TensorBoard reads the files of a folder in the order of their names.
            self._stream = (folder / f"events.out.tfevents.{time.time_ns()}").open("wb")
        self._records = RecordWriter(self._stream)
        # Events of earlier files from this step on are hidden: those of another run, or of steps that are done again.
        step, start = resume_step + 1 if resume_step else 0, SessionLog(status=SessionLog.START)
        self._write({"file_version": "brain.Event:2"}, {"step": step, "session_log": start})

    @classmethod
    def opened(cls, folder: Path, resume_step: int) -> _Events | None:
        """Begin a file; None if TensorBoard is not installed."""
        try:
            return cls(folder, resume_step)
        except ImportError:
            return None

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        from torch.utils.tensorboard.summary import scalar

        self._write(*({"step": step, "summary": scalar(*named)} for named in values.items()))

    def images(self, step: int, images: Mapping[str, Image]) -> None:
        from torch.utils.tensorboard.summary import image

        self._write(*({"step": step, "summary": image(*named, dataformats="HW")} for named in images.items()))

    def close(self) -> None:
        with writing(self._folder):
            self._stream.close()

    def _write(self, *events: Mapping[str, Any]) -> None:
        with writing(self._folder):
            for event in events:
                self._records.write(self._event(wall_time=time.time(), **event).SerializeToString())
            self._stream.flush()
