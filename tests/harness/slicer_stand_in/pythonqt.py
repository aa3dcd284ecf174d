"""PythonQt's manners over PySide6: how Slicer's Python sees Qt.

Properties are attributes (``box.checked``, not ``box.isChecked``'s twin ``box.checked()``), signals are connected by
their C++ signature (``button.connect("clicked(bool)", f)``), and what a class does not have cannot be read or set.
Where the application would only print a warning, for a signal that there is not, the stand-in raises.
"""

from __future__ import annotations

import functools
import inspect
import sys
import traceback
from collections.abc import Callable
from typing import Any

import PySide6
from PySide6 import QtCore, QtGui, QtWidgets
from PySide6.QtCore import QMetaMethod, QObject, SignalInstance

#: The getters of PySide6; classes with functions that are static and not (QFile.exists) have their own.
_getters: dict[type, Callable[[QObject, str], Any]] = {QObject: QObject.__getattribute__}

#: What was raised in slots: Qt has nobody to hand it to. A test that leaves something here has failed.
errors: list[BaseException] = []

#: What PySide6 adds to QObject, and PythonQt does not.
_FOREIGN = {"emit", "receivers"}

_ready = False


class BadName(AttributeError, RuntimeError):
    """A name that the real class does not have.

    Not only an AttributeError: ``hasattr`` must see it as one, a test in its traceback as a mistake of the module's.
    """


def install() -> None:
    """Give every QObject PythonQt's manners, for the rest of the process."""
    global _ready
    if not _ready:
        _ready = True
        for module in (QtCore, QtGui, QtWidgets):
            for name in dir(module):
                kind = getattr(module, name)
                if isinstance(kind, type) and issubclass(kind, QObject):
                    # Every class of PySide6 has a setter of its own, some have a getter too.
                    kind.__setattr__ = _write  # type: ignore[method-assign,assignment]
                    if "__getattribute__" in kind.__dict__:
                        _getters.setdefault(kind, kind.__getattribute__)
                        kind.__getattribute__ = _read  # type: ignore[method-assign,assignment]


def check() -> None:
    """Refuse a PySide6 that cannot be used: 6.12.0 takes a reference off None with each call on Python before 3.12."""
    thing = QObject()
    before = sys.getrefcount(None)
    for _again in range(100):
        thing.setObjectName("x")
    if sys.getrefcount(None) < before - 50:
        raise RuntimeError(f"PySide6 {PySide6.__version__} is defective with this Python; use 6.11")


def raw(instance: QObject, name: str) -> Any:
    """Read an attribute in PySide6's manner."""
    return _get(instance, name)


@functools.cache
def _getter(kind: type) -> Callable[[QObject, str], Any]:
    return next(_getters[base] for base in kind.__mro__ if base in _getters)


def _get(instance: QObject, name: str) -> Any:
    return _getter(type(instance))(instance, name)


def _set(instance: QObject, name: str, value: Any) -> None:
    """Set an attribute of a class written in Python. (Python refuses to call PySide6's own setter for us.)"""
    for base in type(instance).__mro__:
        descriptor = base.__dict__.get(name)
        if hasattr(type(descriptor), "__set__"):
            descriptor.__set__(instance, value)  # type: ignore[union-attr]
            return
    _get(instance, "__dict__")[name] = value


# -- attributes ------------------------------------------------------------------------------------------------------


#: Properties whose getters are virtual: Qt asks for them by attribute, to see whether Python overrides them.
_VIRTUAL = {"sizeHint", "minimumSizeHint"}


@functools.cache
def _properties(kind: type) -> frozenset[str]:
    meta = kind.staticMetaObject  # type: ignore[attr-defined]
    return frozenset(meta.property(index).name() for index in range(meta.propertyCount())) - _VIRTUAL


@functools.cache
def _signal_names(kind: type) -> frozenset[str]:
    meta = kind.staticMetaObject  # type: ignore[attr-defined]
    methods = (meta.method(index) for index in range(meta.methodCount()))
    return frozenset(
        method.name().data().decode()
        for method in methods
        if method.methodType() == QMetaMethod.MethodType.Signal
    )


def _is_qt(kind: type) -> bool:
    return kind.__module__.startswith(("PySide6", "Shiboken"))


@functools.cache
def _own(kind: type, name: str) -> bool:
    """Whether a class written in Python, ours or the module's, has the name."""
    return any(name in base.__dict__ for base in kind.__mro__ if not _is_qt(base) and base is not object)


@functools.cache
def _declared_signals(kind: type) -> dict[str, str]:
    """C++ signatures of a stand-in's signals -> the attributes that carry them."""
    found: dict[str, str] = {}
    for base in reversed(kind.__mro__):
        found.update(base.__dict__.get("SIGNALS", {}))
    return found


@functools.cache
def _strict(kind: type) -> bool:
    """Whether attributes may not be added: Qt's own classes and ours; those of the module's own may do as they like."""
    return _is_qt(kind) or kind.__module__.startswith(__package__ or "slicer_stand_in")


def _read(self: QObject, name: str) -> Any:
    if name.startswith("_"):
        return _get(self, name)
    if name == "connect":
        return functools.partial(_connect, self)
    if name == "disconnect":
        return functools.partial(_disconnect, self)
    if name == "exec_":
        # Python 2 had no other name for it; PySide6 warns of it.
        name = "exec"
    kind = type(self)
    if _own(kind, name):
        return _get(self, name)
    if name == "name":
        return QObject.objectName(self)
    if name == "className":
        return lambda: QObject.metaObject(self).className()
    if name in _properties(kind):
        return QObject.property(self, name)
    declared = [signature for signature in _declared_signals(kind) if signature.partition("(")[0] == name]
    if declared:
        return _Signal(self, declared[0])
    if name in _signal_names(kind):
        return _Signal(self, _first_signature(self, name))
    if name in _FOREIGN:
        raise BadName(f"{kind.__name__} has no attribute named {name!r} in PythonQt")
    try:
        found = _get(self, name)
    except AttributeError:
        dynamic = [bytes(key.data()).decode() for key in QObject.dynamicPropertyNames(self)]
        if name in dynamic:
            return QObject.property(self, name)
        raise BadName(f"{kind.__name__} has no attribute named {name!r}") from None
    assert not isinstance(found, SignalInstance)
    return found


def _write(self: QObject, name: str, value: Any) -> None:
    kind = type(self)
    if name.startswith("_") or _own(kind, name):
        _set(self, name, value)
    elif name == "name":
        QObject.setObjectName(self, value)
    elif name in _properties(kind):
        meta = QObject.metaObject(self)
        if not meta.property(meta.indexOfProperty(name)).isWritable():
            raise BadName(f"{kind.__name__}.{name} can only be read")
        if not QObject.setProperty(self, name, value):
            raise TypeError(f"{kind.__name__}.{name} cannot be {value!r}")
    elif isinstance(value, SignalInstance):
        # PySide6 itself keeps a signal where it was read.
        _set(self, name, value)
    elif isinstance(value, QObject) and QObject.objectName(value) == name:
        # PySide6's QUiLoader hangs the children on their window; PythonQt's does not.
        _set(self, f"_child_{name}", value)
    elif _strict(kind):
        raise BadName(f"{kind.__name__} has no attribute named {name!r} that could be set to {value!r}")
    else:
        _set(self, name, value)


# -- signals ---------------------------------------------------------------------------------------------------------


def _first_signature(instance: QObject, name: str) -> str:
    meta = QObject.metaObject(instance)
    for index in range(meta.methodCount()):
        method = meta.method(index)
        if method.methodType() == QMetaMethod.MethodType.Signal and method.name().data().decode() == name:
            return str(method.methodSignature().data().decode())
    raise AssertionError(name)


class _Signal:
    """A signal as PythonQt has it: it can be connected, and called to emit it."""

    def __init__(self, owner: QObject, signature: str) -> None:
        self._owner = owner
        self._signature = signature

    def connect(self, target: Callable[..., Any]) -> bool:
        return _connect(self._owner, self._signature, target)

    def disconnect(self, target: Callable[..., Any]) -> bool:
        return _disconnect(self._owner, self._signature, target)

    def __call__(self, *values: Any) -> None:
        attribute = _declared_signals(type(self._owner)).get(
            self._signature, self._signature.partition("(")[0]
        )
        _get(self._owner, attribute).emit(*values)


def _resolve(instance: QObject, signal: str) -> str:
    """Give the signature as PySide6 knows it; raises for a signal that there is not."""
    signature = signal.replace(" ", "").replace("const", "").replace("&", "")
    declared = _declared_signals(type(instance)).get(signature)
    if declared:
        return f"{declared}(PyObject)"
    if QObject.metaObject(instance).indexOfSignal(signature) < 0:
        raise BadName(f"{type(instance).__name__} has no signal {signal!r}")
    return signature


def _connect(instance: QObject, signal: str, *target: Any) -> bool:
    if not isinstance(signal, str):
        raise TypeError(f"connect() takes a signal's signature, not {signal!r}")
    called = _slot(*target) if len(target) == 2 else target[0]
    if not callable(called):
        raise TypeError(f"{called!r} cannot be called by {signal!r}")
    takes = _most_arguments(called)

    def call(*values: Any) -> None:
        try:
            called(*values[:takes])
        except Exception as error:  # noqa: BLE001 - as PythonQt does: printed, and the event loop goes on
            errors.append(error)
            traceback.print_exc(file=sys.stderr)

    signature = _resolve(instance, signal)
    if not QObject.connect(instance, f"2{signature}", call):
        raise BadName(f"{type(instance).__name__} has no signal {signal!r}")
    connections = instance.__dict__.setdefault("_pythonqt_connections", [])
    connections.append((signature, called, call))
    return True


def _disconnect(instance: QObject, signal: str, *target: Any) -> bool:
    called = _slot(*target) if len(target) == 2 else target[0]
    signature = _resolve(instance, signal)
    connections = instance.__dict__.get("_pythonqt_connections", [])
    for entry in connections:
        if entry[0] == signature and entry[1] == called:
            connections.remove(entry)
            return bool(QObject.disconnect(instance, f"2{signature}", entry[2]))
    return False


def disconnect_all(instance: QObject) -> None:
    """End all connections that Python has made to an object's signals."""
    for signature, _called, call in instance.__dict__.pop("_pythonqt_connections", []):
        QObject.disconnect(instance, f"2{signature}", call)


def _slot(receiver: QObject, slot: str) -> Callable[..., Any]:
    """Give the slot of a receiver by its signature."""
    name = slot.partition("(")[0]
    known = QObject.metaObject(receiver).indexOfMethod(slot.replace(" ", "")) >= 0 or _own(
        type(receiver), name
    )
    if not known:
        raise BadName(f"{type(receiver).__name__} has no slot {slot!r}")
    return getattr(receiver, name)  # type: ignore[no-any-return]


def _most_arguments(called: Callable[..., Any]) -> int | None:
    """Count the arguments that something takes; None for any number. What it does not take it is not given."""
    try:
        parameters = inspect.signature(called).parameters.values()
    except (TypeError, ValueError):
        return None
    if any(parameter.kind is parameter.VAR_POSITIONAL for parameter in parameters):
        return None
    return sum(
        parameter.kind in (parameter.POSITIONAL_ONLY, parameter.POSITIONAL_OR_KEYWORD)
        for parameter in parameters
    )
