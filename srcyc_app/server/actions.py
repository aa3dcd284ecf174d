"""What requests do, in the words of the audit log, and who may: one table for both."""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import IntEnum


class Role(IntEnum):
    """What somebody may do; each role includes those before it."""

    NOBODY = 0
    VIEWER = 1
    OPERATOR = 2
    TRAINER = 3
    ADMIN = 4

    @property
    def label(self) -> str:
        """How files and sentences call it."""
        return self.name.lower()

    @classmethod
    def labels(cls) -> str:
        """List those that a user may have."""
        return ", ".join(role.label for role in cls if role is not cls.NOBODY)


@dataclass(frozen=True)
class Action:
    """What a request does.

    Attributes:
        name: in the audit log.
        words: in a sentence.
        role: the least that is needed for it.
        logged: whether it touches a scan or a model.
    """

    name: str
    words: str
    role: Role
    logged: bool = True


_READ = "GET|HEAD"
#: Method, path, action. The first that matches counts.
_TABLE = [
    (re.compile(methods), re.compile(path), Action(name, words, role, logged))
    for methods, path, name, words, role, logged in (
        (_READ, r"/health/(live|ready)", "health", "to ask how the server is", Role.NOBODY, False),
        (_READ, r"/metrics", "metrics", "to read the metrics", Role.VIEWER, False),
        (_READ, r"/datastore/?", "scans.list", "to list scans", Role.VIEWER, True),
        ("PUT", r"/datastore/?|/datastore/image", "scan.add", "to add a scan", Role.OPERATOR, True),
        ("DELETE", r"/datastore/?|/datastore/image", "scan.remove", "to remove a scan", Role.ADMIN, True),
        (_READ, r"/datastore/image|/compare/volume", "scan.read", "to read a scan", Role.VIEWER, True),
        (_READ, r"/compare/baseline", "scan.interpolate", "to interpolate a scan", Role.VIEWER, True),
        (_READ, r"/datastore/image/info", "scan.info", "to read about a scan", Role.VIEWER, True),
        ("PUT", r"/datastore/image/info", "scan.tag", "to tag a scan", Role.OPERATOR, True),
        (_READ, r"/datastore/dataset", "scans.read", "to read all scans", Role.ADMIN, True),
        (_READ, r"/datastore/label", "label.read", "to read a label", Role.VIEWER, True),
        (_READ, r"/datastore/label/info", "label.info", "to read about a label", Role.VIEWER, True),
        ("PUT", r"/datastore/label", "label.add", "to save a label", Role.OPERATOR, True),
        (
            "PUT",
            r"/datastore/(label/info|updatelabelinfo)",
            "label.tag",
            "to tag a label",
            Role.OPERATOR,
            True,
        ),
        ("DELETE", r"/datastore/label", "label.remove", "to remove a label", Role.ADMIN, True),
        ("PUT", r"/session/?", "session.add", "to send a scan", Role.OPERATOR, True),
        (_READ, r"/session/[^/]+", "session.read", "to read what was sent", Role.VIEWER, True),
        ("DELETE", r"/session/[^/]+", "session.remove", "to remove what was sent", Role.OPERATOR, True),
        ("POST", r"/infer/[^/]+", "scan.infer", "to super-resolve a scan", Role.OPERATOR, True),
        (_READ, r"/batch/infer", "batch.read", "to watch a batch", Role.VIEWER, False),
        ("POST", r"/batch/infer/[^/]+", "batch.start", "to begin a batch", Role.OPERATOR, True),
        ("DELETE", r"/batch/infer", "batch.stop", "to stop a batch", Role.OPERATOR, True),
        (_READ, r"/train/?", "training.read", "to watch a training", Role.VIEWER, False),
        ("POST", r"/train(/[^/]*)?", "training.start", "to begin a training", Role.TRAINER, True),
        ("DELETE", r"/train/?", "training.stop", "to stop a training", Role.TRAINER, True),
        (_READ, r"/model/active", "model.list", "to read which model is in use", Role.VIEWER, True),
        ("PUT", r"/model/active", "model.activate", "to choose the model in use", Role.ADMIN, True),
        (_READ, r"/model/info/[^/]+", "model.info", "to read about a model", Role.VIEWER, True),
        (_READ, r"/model/[^/]+", "model.read", "to read a model", Role.TRAINER, True),
        ("PUT", r"/model/[^/]+", "model.add", "to publish a model", Role.ADMIN, True),
        ("DELETE", r"/model/[^/]+", "model.remove", "to remove a model", Role.ADMIN, True),
        ("POST", r"/activelearning/[^/]+", "scan.next", "to ask for the next scan", Role.VIEWER, True),
        (_READ, r"/logs/?", "log.read", "to read the log", Role.ADMIN, True),
    )
]
_LOOKING = Action("read", "to look at this", Role.VIEWER, False)
_UNKNOWN = Action("unknown", "to do this", Role.ADMIN, True)


def action_of(method: str, path: str) -> Action:
    """Tell what a request does; what no row knows may be looked at by viewers and is otherwise an admin's."""
    for methods, pattern, action in _TABLE:
        if methods.fullmatch(method) and pattern.fullmatch(path):
            return action
    return _LOOKING if method in ("GET", "HEAD", "OPTIONS") else _UNKNOWN
