"""The names that the stand-in's own classes may offer: what the headers of 3D Slicer and CTK declare.

Read from the repositories at the commits that are given; each name was in 3D Slicer 5.6 already. A test holds the
classes to this table: a stand-in must not offer the module under test anything that the application lacks.
"""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True)
class Header:
    """What a class declares, as far as the stand-in needs it.

    Attributes:
        path: of the header, in its repository.
        commit: at which it was read.
        base: the Qt class that the real one derives from.
        properties: that a .ui file or a script may set or read, with what may be assigned in a .ui file.
        methods: public ones, Q_INVOKABLE ones and slots.
        signals: with their signatures.
        enums: values of enumerations.
    """

    path: str
    commit: str
    base: str
    properties: frozenset[str] = frozenset()
    methods: frozenset[str] = frozenset()
    signals: frozenset[str] = frozenset()
    enums: dict[str, int] = field(default_factory=dict)


def _names(text: str) -> frozenset[str]:
    return frozenset(text.split())


SLICER, CTK = "Slicer/Slicer", "commontk/CTK"

HEADERS = {
    "qMRMLNodeComboBox": Header(
        "Libs/MRML/Widgets/qMRMLNodeComboBox.h",
        "06536db4cbc56614bb74ea6938044ca66dc603e4",
        "QWidget",
        _names(
            "currentNodeID nodeTypes showHidden showChildNodeTypes hideChildNodeTypes baseName noneEnabled addEnabled "
            "removeEnabled editEnabled renameEnabled selectNodeUponCreation noneDisplay"
        ),
        _names(
            "mrmlScene setMRMLScene currentNode setCurrentNode setCurrentNodeID setCurrentNodeIndex nodeCount "
            "nodeFromIndex addAttribute removeAttribute setNodeTypes setNoneEnabled setAddEnabled setRemoveEnabled "
            "setEditEnabled setRenameEnabled setShowHidden setShowChildNodeTypes setNoneDisplay "
            "setSelectNodeUponCreation sortFilterProxyModel"
        ),
        _names(
            "currentNodeChanged(vtkMRMLNode*) currentNodeChanged(bool) currentNodeIDChanged(QString) "
            "nodeActivated(vtkMRMLNode*) nodeAdded(vtkMRMLNode*)"
        ),
    ),
    "qMRMLSortFilterProxyModel": Header(
        "Libs/MRML/Widgets/qMRMLSortFilterProxyModel.h",
        "0485dd239d4311f05c830392c5fad13efe256265",
        "QSortFilterProxyModel",
        _names("hiddenNodeIDs"),
    ),
    "qMRMLWidget": Header(
        "Libs/MRML/Widgets/qMRMLWidget.h",
        "47e89f94da6c8c8faa55de1ddcb50b5608d92a2f",
        "QWidget",
        methods=_names("mrmlScene setMRMLScene"),
        signals=_names("mrmlSceneChanged(vtkMRMLScene*)"),
    ),
    "qMRMLSliceWidget": Header(
        "Libs/MRML/Widgets/qMRMLSliceWidget.h",
        "8ed70d7ad052c2dc9a15442648a9952693b77c55",
        "qMRMLWidget",
        _names("sliceViewName sliceOrientation"),
        _names("mrmlSliceNode sliceLogic mrmlSliceCompositeNode setSliceOrientation fitSliceToBackground"),
    ),
    "qMRMLLayoutManager": Header(
        "Libs/MRML/Widgets/qMRMLLayoutManager.h",
        "1197aae899607358b2538a5af3932e0e10946834",
        "QObject",
        _names("layout threeDViewCount plotViewCount"),
        _names("mrmlScene sliceWidget sliceViewNames mrmlSliceLogics layoutLogic setLayout resetSliceViews"),
        _names("layoutChanged(int)"),
    ),
    "qSlicerApplication": Header(
        # Those of qSlicerCoreApplication and of qSlicerApplication:
        # Base/QTGUI/qSlicerApplication.h, dfef9574096a10c4f02337b59c5edfd6810b55db.
        "Base/QTCore/qSlicerCoreApplication.h",
        "703a9d4aa74fe05bd413f92f24a8541e05645724",
        "QApplication",
        _names(
            "slicerHome temporaryPath cachePath defaultScenePath majorVersion minorVersion revision "
            "mainApplicationName mainApplicationMajorVersion mainApplicationMinorVersion documentationBaseUrl "
            "isInstalled os launcherExecutableFilePath"
        ),
        _names(
            "mrmlScene applicationLogic moduleLogic startupEnvironment environment settings userSettings moduleManager "
            "coreIOManager layoutManager mainWindow moduleDocumentationUrl pauseRender resumeRender setRenderPaused "
            # Of Base/QTCore/qSlicerBaseQTCorePythonQtDecorators.h: what only scripts see.
            "testingEnabled"
        ),
        _names("mrmlSceneChanged(vtkMRMLScene*) startupCompleted() renderPaused(bool)"),
    ),
    "qSlicerCoreIOManager": Header(
        "Base/QTCore/qSlicerCoreIOManager.h",
        "8ed70d7ad052c2dc9a15442648a9952693b77c55",
        "QObject",
        methods=_names("fileType loadNodes"),
    ),
    "qSlicerModuleManager": Header(
        "Base/QTCore/qSlicerModuleManager.h",
        "8ed70d7ad052c2dc9a15442648a9952693b77c55",
        "QObject",
        methods=_names("module modulesNames isLoaded"),
        signals=_names("moduleLoaded(QString) moduleAboutToBeUnloaded(QString) moduleUnloaded(QString)"),
    ),
    "qSlicerScriptedLoadableModule": Header(
        # With those of Base/QTCore/qSlicerAbstractCoreModule.h, faf27378a1430c2c8eb60662796b9984901020b3.
        "Base/QTGUI/qSlicerScriptedLoadableModule.h",
        "bdce19a07becd713ad1ecf9b2f63faf11b3f12f4",
        "QObject",
        _names(
            "name path title categories contributors associatedNodeTypes helpText acknowledgementText extensions icon "
            "hidden dependencies index defaultDocumentationLink"
        ),
        _names("widgetRepresentation createNewWidgetRepresentation logic mrmlScene"),
    ),
    "qSlicerScriptedLoadableModuleWidget": Header(
        # With those of Base/QTGUI/qSlicerAbstractModuleWidget.h, same commit.
        "Base/QTGUI/qSlicerScriptedLoadableModuleWidget.h",
        "bdce19a07becd713ad1ecf9b2f63faf11b3f12f4",
        "qMRMLWidget",
        methods=_names("self enter exit"),
    ),
    "ctkDICOMDatabase": Header(
        "Libs/DICOM/Core/ctkDICOMDatabase.h",
        "013d9a4f3c5dc2b389c2412460c9cf0bbb1d15fe",
        "QObject",
        _names("isOpen"),
        _names("insert fileForInstance instanceValue"),
    ),
    "ctkCollapsibleButton": Header(
        "Libs/Widgets/ctkCollapsibleButton.h",
        "4ce14f71649d4a90dc58af38e235ea12a585ef5a",
        "QAbstractButton",
        _names("collapsed collapsedHeight flat"),
        _names("setCollapsed sizeHint minimumSizeHint"),
        _names("contentsCollapsed(bool)"),
    ),
    "ctkPathLineEdit": Header(
        "Libs/Widgets/ctkPathLineEdit.h",
        "03bf84789d8c1f5ba7aeb8f6139d07e12ab94fd1",
        "QWidget",
        _names("label filters currentPath settingKey showBrowseButton showHistoryButton nameFilters"),
        _names("setCurrentPath browse addCurrentPathToHistory comboBox"),
        _names("validInputChanged(bool) currentPathChanged(QString)"),
        {
            "Dirs": 0x001,
            "Files": 0x002,
            "Drives": 0x004,
            "NoSymLinks": 0x008,
            "AllEntries": 0x007,
            "Readable": 0x010,
            "Writable": 0x020,
            "Executable": 0x040,
            "Hidden": 0x100,
        },
    ),
    "ctkSliderWidget": Header(
        "Libs/Widgets/ctkSliderWidget.h",
        "daaf705c4b09b07b364e9051922523b35cb6ec99",
        "QWidget",
        _names("decimals singleStep pageStep minimum maximum value prefix suffix tracking spinBoxVisible"),
        _names("setValue setRange setMinimum setMaximum setDecimals reset"),
        _names("valueChanged(double) valueIsChanging(double)"),
    ),
    "ctkMessageBox": Header(
        "Libs/Widgets/ctkMessageBox.h",
        "7803ebaeafb241a500ec6072f38b4a343fc5488b",
        "QMessageBox",
        _names("dontShowAgain dontShowAgainSettingsKey dontShowAgainVisible"),
    ),
}
