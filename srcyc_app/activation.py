"""Which model is in use: chosen by somebody, kept as it was then, and remembered.

python -m srcyc_app.activation MODEL_DIR [NAME | --rollback]
"""

from __future__ import annotations

import argparse
import sys
import threading
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from srcyc.documents import json_text, read_json, write_json
from srcyc.errors import ModelError, SRCycError
from srcyc.files import copied, sha256
from srcyc.models.model_file import SUFFIX

_FILE = "active.json"
#: Copies of what was chosen, each in a folder of the name of its SHA-256.
COPIES = "activated"


@dataclass(frozen=True)
class Activation:
    """One choice of the model in use.

    Attributes:
        name: of the model.
        sha256: of its file, then.
        time: ISO 8601.
        by: who chose it; None: nobody was asked, or the server at its first start.
    """

    name: str
    sha256: str
    time: str
    by: str | None = None


class Activations:
    """The choices made in a model folder.

    Args:
        folder: of the retrained models; need not exist.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._lock = threading.Lock()

    @property
    def history(self) -> tuple[Activation, ...]:
        """All choices, the newest last.

        Raises:
            ModelError: the file is damaged; nobody guesses which model was meant.
        """
        path = self._folder / _FILE
        try:
            return tuple(Activation(**entry) for entry in read_json(path)["history"])
        except FileNotFoundError:
            return ()
        except (OSError, ValueError, TypeError, KeyError) as error:
            raise ModelError(
                f"{path}: which model is in use cannot be read",
                remedy="restore it, or remove it and choose",
            ) from error

    @property
    def current(self) -> Activation | None:
        """The choice that counts; None: none was made yet."""
        history = self.history
        return history[-1] if history else None

    def copy_of(self, activation: Activation) -> Path:
        """Give the place of the model as it was when it was chosen."""
        return self._folder / COPIES / activation.sha256 / f"{activation.name}{SUFFIX}"

    def choose(self, name: str, file: Path, by: str | None) -> Activation:
        """Take a model into use; a copy of it is kept, so that it stays whatever becomes of the file.

        Raises:
            OutputError: it cannot be written.
        """
        digest = sha256(file)
        made = Activation(name, digest, datetime.now().astimezone().isoformat(timespec="seconds"), by)
        if not (copy := self.copy_of(made)).exists():
            copied(file, copy)
        # Two people may choose at a time.
        with self._lock:
            history = [asdict(entry) for entry in (*self.history, made)]
            write_json(self._folder / _FILE, {"history": history})
        return made

    def previous(self) -> Activation | None:
        """Give the choice before the newest one that was of another model; None if there is none."""
        history = self.history
        others = [entry for entry in history if entry.sha256 != history[-1].sha256]
        return others[-1] if others else None

    def as_json(self) -> dict[str, Any]:
        """Give what clients are told."""
        history = [asdict(entry) for entry in self.history]
        return {"active": history[-1] if history else None, "history": history}


def main(argv: Sequence[str] | None = None, say: Callable[[str], object] = sys.stdout.write) -> int:
    """Say which model is in use, or choose another one, also where no server runs."""
    from srcyc_app.models import ModelShelf

    parser = argparse.ArgumentParser(
        prog="python -m srcyc_app.activation", description="Say or choose which model a server uses."
    )
    parser.add_argument("folder", type=Path, metavar="MODEL_DIR")
    parser.add_argument("name", nargs="?", help="take this one into use")
    parser.add_argument("--rollback", action="store_true", help="take the one before into use again")
    given = parser.parse_args(argv)
    shelf = ModelShelf(given.folder)
    try:
        if given.rollback:
            shelf.roll_back(None)
        elif given.name:
            shelf.activate(given.name, None)
    except SRCycError as error:
        sys.stderr.write(f"{error}\n")
        return 2
    say(json_text(shelf.activations.as_json()))
    return 0


if __name__ == "__main__":
    sys.exit(main())
