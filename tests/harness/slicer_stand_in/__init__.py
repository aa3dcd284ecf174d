"""A stand-in for the application 3D Slicer, for tests of a scripted module.

Real are MRML, its logics and `slicer.util` (the wheel slicer-core), and Qt with its widgets and event loop (PySide6).
Ours are PythonQt's manners, the few widgets of CTK and qMRML that the module uses, ScriptedLoadableModule, and the
application around them. They offer only what the real headers declare (`headers.py`), and raise where the application
would print a warning. It is no Slicer: what passes here has not been run there.

>>> import slicer_stand_in
>>> session = slicer_stand_in.start()
>>> panel = session.load_module("path/of/SRCyc")
>>> session.close()
"""

from __future__ import annotations

from .application import StandIn

_session: StandIn | None = None


def start() -> StandIn:
    """Start a session; the one before it is closed."""
    global _session
    if _session is not None:
        _session.close()
    _session = StandIn()
    return _session


def close() -> None:
    """Close the session that runs, if one does."""
    global _session
    if _session is not None:
        _session.close()
        _session = None
