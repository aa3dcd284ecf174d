"""CTK's widgets, as far as the module needs them; each offers only what its header declares."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from PySide6.QtCore import QEvent, QObject, QRect, QSettings, QSize, Qt, Signal
from PySide6.QtGui import QPainter
from PySide6.QtWidgets import (
    QAbstractButton,
    QCheckBox,
    QComboBox,
    QDoubleSpinBox,
    QFileDialog,
    QHBoxLayout,
    QMessageBox,
    QPushButton,
    QSlider,
    QStyle,
    QStyleOptionButton,
    QWidget,
)

from .headers import HEADERS

_SLIDER_STEPS = 1000


class ctkCollapsibleButton(QAbstractButton):
    """A head that shows and hides what lies below it."""

    SIGNALS = {"contentsCollapsed(bool)": "_contents_collapsed"}
    _contents_collapsed = Signal(object)

    def __init__(self, text: str | QWidget = "", parent: QWidget | None = None) -> None:
        if isinstance(text, QWidget):
            text, parent = "", text
        super().__init__(parent)
        self._collapsed = False
        self._height = 14
        self._flat = False
        self.setText(text)
        self.setCheckable(True)
        self.setChecked(True)
        QObject.connect(self, "2toggled(bool)", lambda shown: self.setCollapsed(not shown))
        self._make_room()

    @property
    def collapsed(self) -> bool:
        return self._collapsed

    @collapsed.setter
    def collapsed(self, collapsed: bool) -> None:
        self.setCollapsed(collapsed)

    @property
    def collapsedHeight(self) -> int:
        return self._height

    @collapsedHeight.setter
    def collapsedHeight(self, height: int) -> None:
        self._height = height

    @property
    def flat(self) -> bool:
        return self._flat

    @flat.setter
    def flat(self, flat: bool) -> None:
        self._flat = flat

    def setCollapsed(self, collapsed: bool) -> None:
        if collapsed == self._collapsed:
            return
        self._collapsed = collapsed
        self.setChecked(not collapsed)
        self._show_children()
        self.updateGeometry()
        self._contents_collapsed.emit(collapsed)

    def _head(self) -> int:
        return QWidget.fontMetrics(self).height() + 10

    def _make_room(self) -> None:
        self.setContentsMargins(0, self._head(), 0, 0)

    def _show_children(self) -> None:
        """Hide the children with the contents, and show those again that nobody else has hidden."""
        for child in self.children():
            if isinstance(child, QWidget):
                if self._collapsed and not child.isHidden():
                    child.__dict__["_collapsed_away"] = True
                    QWidget.hide(child)
                elif not self._collapsed and child.__dict__.pop("_collapsed_away", False):
                    QWidget.show(child)

    def event(self, event: QEvent) -> bool:
        if self.__dict__.get("_collapsed") and event.type() in (QEvent.Type.LayoutRequest, QEvent.Type.Show):
            self._show_children()
        return bool(super().event(event))

    def sizeHint(self) -> QSize:
        if self._collapsed or QWidget.layout(self) is None:
            return QSize(100, self._head() + self._height)
        return QWidget.layout(self).totalSizeHint()

    def minimumSizeHint(self) -> QSize:
        if self._collapsed or QWidget.layout(self) is None:
            return QSize(20, self._head() + self._height)
        return QWidget.layout(self).totalMinimumSize()

    def hitButton(self, position: Any) -> bool:
        return bool(position.y() < self._head())

    def paintEvent(self, _event: Any) -> None:
        painter = QPainter(self)
        option = QStyleOptionButton()
        option.initFrom(self)
        option.rect = QRect(0, 0, QWidget.width(self), self._head())
        option.text = QAbstractButton.text(self)
        style = QWidget.style(self)
        style.drawControl(QStyle.ControlElement.CE_PushButtonBevel, option, painter, self)
        arrow = QStyle.PrimitiveElement.PE_IndicatorArrowRight
        if not self._collapsed:
            arrow = QStyle.PrimitiveElement.PE_IndicatorArrowDown
        whole = QRect(option.rect)
        option.rect = QRect(6, 0, 14, self._head())
        style.drawPrimitive(arrow, option, painter, self)
        painter.drawText(whole.adjusted(26, 0, 0, 0), Qt.AlignmentFlag.AlignVCenter, option.text)
        painter.end()


class ctkPathLineEdit(QWidget):
    """A path with a history and a button to browse."""

    SIGNALS = {"validInputChanged(bool)": "_valid_changed", "currentPathChanged(QString)": "_path_changed"}
    _valid_changed = Signal(object)
    _path_changed = Signal(object)

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self._values: dict[str, Any] = {
            "label": "",
            "filters": HEADERS["ctkPathLineEdit"].enums["AllEntries"],
            "settingKey": "",
            "showHistoryButton": True,
            "nameFilters": [],
        }
        self._combo = QComboBox(self)
        self._combo.setEditable(True)
        self._combo.setSizePolicy(*(_policy("Expanding"), _policy("Fixed")))
        self._button = QPushButton("…", self)
        self._button.setFixedWidth(30)
        layout = QHBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.addWidget(self._combo)
        layout.addWidget(self._button)
        self._path = ""
        QObject.connect(self._combo, "2editTextChanged(QString)", self._edited)
        QObject.connect(self._button, "2clicked()", self.browse)

    def _edited(self, text: str) -> None:
        if text != self._path:
            self._path = text
            self._path_changed.emit(text)

    @property
    def currentPath(self) -> str:
        return self._path

    @currentPath.setter
    def currentPath(self, path: str) -> None:
        self.setCurrentPath(path)

    def setCurrentPath(self, path: str) -> None:
        if not isinstance(path, str):
            raise TypeError(f"a path is a string here, not {path!r}")
        self._combo.setEditText(path)

    @property
    def showBrowseButton(self) -> bool:
        return not self._button.isHidden()

    @showBrowseButton.setter
    def showBrowseButton(self, shown: bool) -> None:
        self._button.setVisible(shown)

    def comboBox(self) -> QComboBox:
        return self._combo

    def browse(self) -> None:
        files = self._values["filters"] & HEADERS["ctkPathLineEdit"].enums["Files"]
        path = (
            QFileDialog.getOpenFileName(self, self._values["label"])[0]
            if files
            else QFileDialog.getExistingDirectory(self, self._values["label"])
        )
        if path:
            self.setCurrentPath(path)

    def addCurrentPathToHistory(self) -> None:
        key = self._values["settingKey"] or QObject.objectName(self)
        if Path(self._path).exists():
            history = [path for path in (QSettings().value(key) or []) if path != self._path]
            QSettings().setValue(key, [self._path, *history])


def _kept(name: str) -> property:
    """Make a property that is kept and has no further effect in the stand-in."""

    def write(self: Any, value: Any) -> None:
        self._values[name] = value

    return property(lambda self: self._values[name], write)


for _name in ("label", "filters", "settingKey", "showHistoryButton", "nameFilters"):
    setattr(ctkPathLineEdit, _name, _kept(_name))
for _name, _value in HEADERS["ctkPathLineEdit"].enums.items():
    setattr(ctkPathLineEdit, _name, _value)


def _policy(name: str) -> Any:
    from PySide6.QtWidgets import QSizePolicy

    return getattr(QSizePolicy.Policy, name)


class ctkSliderWidget(QWidget):
    """A slider and a spin box for one number."""

    SIGNALS = {"valueChanged(double)": "_value_changed", "valueIsChanging(double)": "_value_changing"}
    _value_changed = Signal(object)
    _value_changing = Signal(object)

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self._slider = QSlider(Qt.Orientation.Horizontal, self)
        self._slider.setRange(0, _SLIDER_STEPS)
        self._box = QDoubleSpinBox(self)
        self._box.setMaximum(99.0)
        layout = QHBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.addWidget(self._slider)
        layout.addWidget(self._box)
        self._tracking = True
        self._page = 10.0
        QObject.connect(self._box, "2valueChanged(double)", self._changed)
        QObject.connect(self._slider, "2valueChanged(int)", self._moved)

    def _span(self) -> float:
        return max(QDoubleSpinBox.maximum(self._box) - QDoubleSpinBox.minimum(self._box), 1e-12)

    def _changed(self, value: float) -> None:
        self._place()
        self._value_changed.emit(value)

    def _place(self) -> None:
        value, low = QDoubleSpinBox.value(self._box), QDoubleSpinBox.minimum(self._box)
        blocked = self._slider.blockSignals(True)
        self._slider.setValue(round((value - low) / self._span() * _SLIDER_STEPS))
        self._slider.blockSignals(blocked)

    def _moved(self, step: int) -> None:
        self._box.setValue(QDoubleSpinBox.minimum(self._box) + step / _SLIDER_STEPS * self._span())

    def setValue(self, value: float) -> None:
        self._box.setValue(value)

    def setRange(self, minimum: float, maximum: float) -> None:
        self._box.setRange(minimum, maximum)
        self._place()

    def setMinimum(self, minimum: float) -> None:
        self._box.setMinimum(minimum)
        self._place()

    def setMaximum(self, maximum: float) -> None:
        self._box.setMaximum(maximum)
        self._place()

    def setDecimals(self, decimals: int) -> None:
        self._box.setDecimals(decimals)

    def reset(self) -> None:
        self.setValue(0.0)

    @property
    def tracking(self) -> bool:
        return self._tracking

    @tracking.setter
    def tracking(self, tracking: bool) -> None:
        self._tracking = tracking
        self._slider.setTracking(tracking)

    @property
    def spinBoxVisible(self) -> bool:
        return not self._box.isHidden()

    @spinBoxVisible.setter
    def spinBoxVisible(self, shown: bool) -> None:
        self._box.setVisible(shown)

    @property
    def pageStep(self) -> float:
        return self._page

    @pageStep.setter
    def pageStep(self, step: float) -> None:
        self._page = step


def _of_box(name: str) -> property:
    """Make a property that is the spin box's."""

    def write(self: Any, value: Any) -> None:
        setattr(self._box, name, value)
        self._place()

    return property(lambda self: getattr(self._box, name), write)


for _name in ("decimals", "singleStep", "minimum", "maximum", "value", "prefix", "suffix"):
    setattr(ctkSliderWidget, _name, _of_box(_name))


class ctkMessageBox(QMessageBox):
    """A message box that can be told not to come again."""

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self._key = ""
        self._again = QCheckBox("Don't show this message again", self)
        self._again.hide()

    @property
    def dontShowAgain(self) -> bool:
        return bool(QCheckBox.isChecked(self._again))

    @dontShowAgain.setter
    def dontShowAgain(self, hidden: bool) -> None:
        self._again.setChecked(hidden)

    @property
    def dontShowAgainSettingsKey(self) -> str:
        return self._key

    @dontShowAgainSettingsKey.setter
    def dontShowAgainSettingsKey(self, key: str) -> None:
        self._key = key
        self.dontShowAgainVisible = True

    @property
    def dontShowAgainVisible(self) -> bool:
        return QMessageBox.checkBox(self) is not None

    @dontShowAgainVisible.setter
    def dontShowAgainVisible(self, shown: bool) -> None:
        if shown:
            self._again.show()
            self.setCheckBox(self._again)


WIDGETS: dict[str, type[QWidget]] = {
    kind.__name__: kind for kind in (ctkCollapsibleButton, ctkPathLineEdit, ctkSliderWidget, ctkMessageBox)
}
