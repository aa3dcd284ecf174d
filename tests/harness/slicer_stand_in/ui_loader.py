"""QUiLoader, strict: what the real one would only print a warning about is an error here."""

from __future__ import annotations

import xml.etree.ElementTree as ET
from typing import Any

from PySide6 import QtUiTools, QtWidgets
from PySide6.QtCore import QBuffer, QByteArray, QObject
from PySide6.QtWidgets import QWidget

from . import ctk_widgets, mrml_widgets
from .headers import HEADERS
from .pythonqt import BadName

#: The stand-ins that a .ui file may name.
CUSTOM = {**ctk_widgets.WIDGETS, **mrml_widgets.WIDGETS}

#: Elements of a .ui file that are no Qt properties of the widget but the designer's.
_DESIGNER = {"stdset"}


class QUiLoader:
    """Makes widgets from a file of Qt Designer."""

    def load(self, file: Any, parent: QWidget | None = None) -> QWidget:
        if not file.isOpen():
            raise RuntimeError("open the .ui file first")
        tree = ET.fromstring(bytes(file.readAll().data()))
        ours = _take_our_properties(tree)
        connections = _take_connections(tree)
        _check(tree)
        loader = QtUiTools.QUiLoader()
        for kind in CUSTOM.values():
            loader.registerCustomWidget(kind)
        buffer = QBuffer()
        buffer.setData(QByteArray(ET.tostring(tree)))
        buffer.open(QBuffer.OpenModeFlag.ReadOnly)
        widget = loader.load(buffer, parent)
        if widget is None:
            raise RuntimeError(f"the .ui file cannot be loaded: {loader.errorString()}")
        for name, kind, properties in ours:
            found = _find(widget, name)
            # Otherwise Qt has not taken our class, and what follows would be about another widget.
            assert type(found).__name__ == kind, f"{name} is a {type(found).__name__}, not a {kind}"
            for key, value in properties:
                setattr(found, key, value)
        for sender, signal, receiver, slot in connections:
            _find(widget, sender).connect(signal, _find(widget, receiver), slot)
        return widget


def _find(root: QWidget, name: str) -> Any:
    found = root if QObject.objectName(root) == name else root.findChild(QObject, name)
    if found is None:
        raise BadName(f"the .ui file has no widget {name!r}")
    return found


def _take_our_properties(tree: ET.Element) -> list[tuple[str, str, list[tuple[str, Any]]]]:
    """Take the properties of the stand-ins out of the file; Qt cannot set those."""
    taken = []
    for widget in tree.iter("widget"):
        kind = widget.get("class", "")
        if kind not in CUSTOM:
            continue
        values = []
        for element in widget.findall("property"):
            name = element.get("name", "")
            if name in HEADERS[kind].properties:
                values.append((name, _value(element, kind)))
                widget.remove(element)
        taken.append((widget.get("name", ""), kind, values))
    return taken


def _value(element: ET.Element, kind: str) -> Any:
    value = element[0]
    text = value.text or ""
    if value.tag == "bool":
        return text == "true"
    if value.tag == "number":
        return int(text)
    if value.tag == "double":
        return float(text)
    if value.tag == "string":
        return text
    if value.tag == "stringlist":
        return [item.text or "" for item in value]
    if value.tag in ("set", "enum"):
        number = 0
        for flag in filter(None, text.split("|")):
            owner, _, name = flag.strip().rpartition("::")
            if owner not in (kind, "") or name not in HEADERS[kind].enums:
                raise BadName(f"{kind} has no {flag!r}")
            number |= HEADERS[kind].enums[name]
        return number
    raise BadName(f"<{value.tag}> for {kind}.{element.get('name')} is not known to the stand-in")


def _take_connections(tree: ET.Element) -> list[tuple[str, str, str, str]]:
    """Take the connections out of the file: Qt does not know the signals of the stand-ins."""
    taken = []
    for connections in tree.findall("connections"):
        for connection in connections.findall("connection"):
            taken.append(
                tuple(connection.findtext(tag, "") for tag in ("sender", "signal", "receiver", "slot"))
            )
        tree.remove(connections)
    return taken  # type: ignore[return-value]


def _check(tree: ET.Element) -> None:
    """Refuse classes and properties that there are not."""
    for widget in tree.iter("widget"):
        kind = CUSTOM.get(widget.get("class", "")) or getattr(QtWidgets, widget.get("class", ""), None)
        if not (isinstance(kind, type) and issubclass(kind, QWidget)):
            raise BadName(f"there is no widget class {widget.get('class')!r}")
        for element in widget.findall("property"):
            name = element.get("name", "")
            if kind.staticMetaObject.indexOfProperty(name) < 0:
                raise BadName(f"{widget.get('class')} {widget.get('name')!r} has no property {name!r}")
