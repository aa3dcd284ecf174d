"""The modules ``qt`` and ``ctk`` as Slicer's Python has them."""

from __future__ import annotations

import sys
from types import ModuleType
from typing import Any

from PySide6 import QtCore, QtGui, QtWidgets

from . import ctk_widgets
from .ui_loader import QUiLoader

#: PySide6's own, which PythonQt does not have or has in another form.
_FOREIGN = {
    "Signal",
    "SignalInstance",
    "Slot",
    "Property",
    "SIGNAL",
    "SLOT",
    "QEnum",
    "QFlag",
    "ClassInfo",
    "QtMsgType",
}

#: Opened in the user's browser; the tests look here.
opened_urls: list[str] = []


class QDesktopServices:
    """Opens nothing, and remembers what it was asked to."""

    @staticmethod
    def openUrl(url: QtCore.QUrl) -> bool:
        opened_urls.append(QtCore.QUrl.toString(url))
        return True


class _Qt(ModuleType):
    QUiLoader = QUiLoader
    QDesktopServices = QDesktopServices

    def __getattr__(self, name: str) -> Any:
        if not name.startswith("_") and name not in _FOREIGN:
            for module in (QtCore, QtGui, QtWidgets):
                # PySide6 makes its types when they are first asked for.
                if name in dir(module):
                    return getattr(module, name)
        raise AttributeError(f"module 'qt' has no attribute {name!r}")


class _Ctk(ModuleType):
    def __getattr__(self, name: str) -> Any:
        try:
            return ctk_widgets.WIDGETS[name]
        except KeyError:
            raise AttributeError(f"module 'ctk' has no attribute {name!r} in the stand-in") from None


def install() -> None:
    """Make ``import qt`` and ``import ctk`` work."""
    sys.modules.setdefault("qt", _Qt("qt"))
    sys.modules.setdefault("ctk", _Ctk("ctk"))
