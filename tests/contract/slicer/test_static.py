"""What can be seen in the module's files without running them: names, lists of files, syntax, imports, texts."""

from __future__ import annotations

import ast
import re
import sys
import xml.etree.ElementTree as ET
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[3] / "srcyc_app" / "slicer"
MODULE = ROOT / "SRCyc"
UI = MODULE / "Resources" / "UI" / "SRCyc.ui"

SOURCES = sorted(path for path in ROOT.rglob("*.py") if "__pycache__" not in path.parts)
NAMES = [path.relative_to(ROOT).as_posix() for path in SOURCES]

#: Run outside Slicer, by a Python that need not have it.
OUTSIDE = {"client.py", "worker.py", "processes.py", "engine_needs.py", "engine_pip.py", "engine_worker.py"}
#: Loads the library, once that is known to be there.
ENGINE = "engine_worker.py"
STANDARD = set(sys.stdlib_module_names)
IN_SLICER = {"requests", "numpy", "vtk", "slicer", "qt", "ctk", "SimpleITK", "SampleData"}

#: Widgets that a user sees only: nothing needs to be done with them in Python.
PASSIVE = {"QLabel", "QWidget", "QTabWidget", "ctkCollapsibleButton", "QGroupBox", "QFrame", "qMRMLWidget"}


def tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"), str(path))


def widgets() -> dict[str, ET.Element]:
    return {element.get("name", ""): element for element in ET.parse(UI).iter("widget")}


def pieces() -> Iterator[tuple[Path, ast.AST]]:
    for path in SOURCES:
        for node in ast.walk(tree(path)):
            yield path, node


def used_widgets() -> dict[str, str]:
    """Give the names of widgets that the code uses: `ui.NAME`, and strings of tables that name a widget."""
    found = {}
    known = widgets()
    for path, node in pieces():
        if isinstance(node, ast.Attribute):
            owner = node.value
            name = owner.attr if isinstance(owner, ast.Attribute) else getattr(owner, "id", "")
            if name == "ui":
                found[node.attr] = path.name
        elif isinstance(node, ast.Constant) and node.value in known:
            found[str(node.value)] = path.name
    return found


# -- the .ui file ----------------------------------------------------------------------------------------------------


def test_every_widget_that_is_used_is_in_the_ui_file() -> None:
    used = used_widgets()
    assert len(used) > 20, "the search finds nothing"
    missing = {name: where for name, where in used.items() if name not in widgets()}
    assert not missing


def test_tables_of_widgets_name_widgets() -> None:
    """Strings that look like the name of a widget (fooButton, barComboBox) are names of widgets."""
    kinds = "Button|ComboBox|CheckBox|LineEdit|PathEdit|Selector|Slider|Label|Table|Tab|Section|ProgressBar"
    pattern = re.compile(rf"[a-z]\w*(?:{kinds})")
    known = widgets()
    strings = {
        (path.name, node.value)
        for path, node in pieces()
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and pattern.fullmatch(node.value)
    }
    assert strings
    assert not [(where, name) for where, name in strings if name not in known]


def test_every_interactive_widget_is_used() -> None:
    used = used_widgets()
    idle = [
        name
        for name, element in widgets().items()
        if element.get("class") not in PASSIVE and name not in used
    ]
    assert not idle


def test_every_interactive_widget_has_a_tool_tip() -> None:
    def tip(element: ET.Element) -> str:
        found = element.find("property[@name='toolTip']/string")
        return (found.text or "") if found is not None else ""

    silent = [
        name
        for name, element in widgets().items()
        if element.get("class") not in PASSIVE | {"QProgressBar"} and len(tip(element)) < 10
    ]
    assert not silent


def test_names_in_the_ui_file_are_unique_and_plain() -> None:
    names = [
        element.get("name", "") for element in ET.parse(UI).iter() if element.tag in ("widget", "layout")
    ]
    assert len(names) == len(set(names)) > 40
    assert all(re.fullmatch(r"[A-Za-z]\w*", name) for name in names)


def test_custom_widgets_are_declared() -> None:
    root = ET.parse(UI).getroot()
    declared = {element.findtext("class") for element in root.iter("customwidget")}
    custom = {
        element.get("class")
        for element in root.iter("widget")
        if not element.get("class", "").startswith("Q")
    }
    assert custom == declared
    pytest.importorskip("PySide6", reason="PySide6: no wheel for this Python, or not installed")
    pytest.importorskip("slicer_core", reason="slicer-core: no wheel for this Python, or not installed")
    from slicer_stand_in.ui_loader import CUSTOM

    assert custom <= set(CUSTOM)


def test_texts_in_the_ui_file_can_be_translated() -> None:
    """Only lists of class names are marked as not to be translated."""
    for element in ET.parse(UI).iter():
        if element.get("notr") == "true":
            assert element.tag == "stringlist"


# -- files -----------------------------------------------------------------------------------------------------------


def listed(path: Path, variable: str) -> set[str]:
    """Give the entries of a list in a CMakeLists.txt."""
    text = re.sub(r"#.*", "", path.read_text())
    found = re.search(rf"set\({variable}\s+([^)]*)\)", text)
    assert found, f"{path.name} sets no {variable}"
    name = re.search(r"set\(MODULE_NAME\s+(\w+)\)", text)
    return {entry.replace("${MODULE_NAME}", name[1] if name else "") for entry in found[1].split()}


def test_cmake_lists_every_file_and_no_other() -> None:
    files = {
        path.relative_to(MODULE).as_posix()
        for path in MODULE.rglob("*")
        if path.is_file() and "__pycache__" not in path.parts and path.name != "CMakeLists.txt"
    }
    scripts = {name for name in files if name.endswith(".py") and not name.startswith("Testing/")}
    cmake = MODULE / "CMakeLists.txt"
    assert listed(cmake, "MODULE_PYTHON_SCRIPTS") == scripts
    resources = {name for name in files if name.startswith("Resources/")}
    assert {Path(name).suffix for name in resources} <= {".ui", ".png", ".svg"}
    assert listed(cmake, "MODULE_PYTHON_RESOURCES") == resources
    assert files == scripts | resources | {name for name in files if name.startswith("Testing/")}


def test_icons_are_pictures() -> None:
    icons = list(ROOT.rglob("*.png"))
    assert icons
    for path in icons:
        assert path.read_bytes().startswith(b"\x89PNG\r\n\x1a\n"), path


# -- the code --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", SOURCES, ids=NAMES)
def test_it_is_python_3_9(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    parsed = ast.parse(text, str(path), feature_version=(3, 9))
    body = [node for node in parsed.body if not isinstance(node, ast.Expr)]
    if body:
        first = body[0]
        assert isinstance(first, ast.ImportFrom) and first.module == "__future__", "annotations are evaluated"
    for node in ast.walk(parsed):
        assert not isinstance(node, getattr(ast, "Match", ())), "match is Python 3.10"
        if isinstance(node, ast.Call):
            name = getattr(node.func, "id", getattr(node.func, "attr", ""))
            keywords = {keyword.arg for keyword in node.keywords}
            assert not (name == "zip" and "strict" in keywords), (
                f"{path.name}:{node.lineno}: zip(strict=) is 3.10"
            )
            assert not (name == "dataclass" and keywords & {"slots", "kw_only"}), f"{path.name}:{node.lineno}"
            assert name not in ("aiter", "anext", "pairwise", "bit_count"), f"{path.name}:{node.lineno}"
            if name in ("isinstance", "issubclass") and len(node.args) == 2:
                assert not isinstance(node.args[1], ast.BinOp), (
                    f"{path.name}:{node.lineno}: A | B is a type from 3.10"
                )
    for where, union in _unions_at_run_time(parsed):
        raise AssertionError(f"{path.name}:{where}: {union} is evaluated; Python 3.9 cannot")


def _unions_at_run_time(parsed: ast.Module) -> Iterator[tuple[int, str]]:
    """Find `X | None` outside of annotations: type aliases, casts."""
    annotations: set[int] = set()
    for node in ast.walk(parsed):
        for field in ("annotation", "returns"):
            if getattr(node, field, None) is not None:
                annotations |= {id(inner) for inner in ast.walk(getattr(node, field))}
    for node in ast.walk(parsed):
        if isinstance(node, ast.BinOp) and isinstance(node.op, ast.BitOr) and id(node) not in annotations:
            sides = (node.left, node.right)
            if any(isinstance(side, ast.Constant) and side.value is None for side in sides):
                yield node.lineno, ast.unparse(node)


def imported(path: Path) -> set[str]:
    names = set()
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.Import):
            names |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path.name}:{node.lineno}: import by the full name"
            names.add((node.module or "").partition(".")[0])
    return names


@pytest.mark.parametrize("path", SOURCES, ids=NAMES)
def test_it_imports_only_what_a_bare_slicer_has(path: Path) -> None:
    allowed = STANDARD | IN_SLICER | {"SRCycLib"} | ({"srcyc"} if path.name == ENGINE else set())
    assert imported(path) <= allowed, imported(path) - allowed


def test_what_runs_outside_slicer_needs_only_requests() -> None:
    """Of the worker's process: the worker, the client, and whatever of ours they import."""
    todo, seen = set(OUTSIDE), set()
    while todo:
        name = todo.pop()
        seen.add(name)
        path = MODULE / "SRCycLib" / name
        names = imported(path)
        allowed = STANDARD | {"requests", "SRCycLib"} | ({"srcyc"} if name == ENGINE else set())
        assert names <= allowed, (name, names - allowed)
        for node in ast.walk(tree(path)):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("SRCycLib"):
                module = (node.module or "").partition(".")[2]
                files = [f"{module}.py"] if module else [f"{alias.name}.py" for alias in node.names]
                todo |= {file for file in files if (path.parent / file).exists()} - seen
    assert seen >= OUTSIDE


def test_no_name_is_imported_that_slicer_5_6_lacks() -> None:
    """`slicer.X` and `slicer.util.X` that came later."""
    later = {"slicer.packaging", "slicer.util.pip_check", "slicer.deps", "slicer.pydeps", "slicer.logic"}
    for path, node in pieces():
        if isinstance(node, ast.Attribute):
            assert ast.unparse(node) not in later, f"{path.name}:{node.lineno}"


#: Functions whose first argument a user reads.
SHOWN = {
    *("setText", "setToolTip", "setTitle", "setWindowTitle", "appendPlainText", "setHorizontalHeaderLabels"),
    *("errorDisplay", "infoDisplay", "warningDisplay", "confirmOkCancelDisplay", "confirmYesNoDisplay"),
    *("messageBox", "showStatusMessage", "tell", "complain", "_say", "addItem"),
}
#: Attributes that a user reads.
SHOWN_ATTRIBUTES = {
    "text",
    "toolTip",
    "title",
    "windowTitle",
    "placeholderText",
    "helpText",
    "acknowledgementText",
}

#: Names that are the same in every language.
PROPER_NAMES = {"SRCyc"}


def _untranslated(node: ast.AST | None) -> Iterator[str]:
    """Find words in an expression that do not go through `_()`."""
    if node is None:
        return
    if isinstance(node, ast.Call):
        function = ast.unparse(node.func)
        if function == "_":
            return
        if isinstance(node.func, ast.Attribute):
            # "…".format(), "…".join()
            yield from _untranslated(node.func.value)
        return
    if isinstance(node, ast.Constant):
        if isinstance(node.value, str) and re.search(r"[A-Za-z]{2}", re.sub(r"<[^>]*>", "", node.value)):
            yield node.value
        return
    if isinstance(node, (ast.IfExp,)):
        yield from _untranslated(node.body)
        yield from _untranslated(node.orelse)
        return
    if isinstance(node, (ast.BinOp, ast.BoolOp, ast.JoinedStr, ast.FormattedValue, ast.List, ast.Tuple)):
        for inner in ast.iter_child_nodes(node):
            yield from _untranslated(inner)


@pytest.mark.parametrize("path", [p for p in SOURCES if p.name not in OUTSIDE], ids=lambda path: path.name)
def test_what_a_user_reads_can_be_translated(path: Path) -> None:
    found: list[tuple[int, str]] = []
    for node in ast.walk(tree(path)):
        shown: list[ast.AST] = []
        if isinstance(node, ast.Call) and node.args:
            name = getattr(node.func, "attr", getattr(node.func, "id", ""))
            if name in SHOWN:
                shown.append(node.args[0])
        elif isinstance(node, ast.Assign):
            if any(isinstance(t, ast.Attribute) and t.attr in SHOWN_ATTRIBUTES for t in node.targets):
                shown.append(node.value)
        elif (
            isinstance(node, ast.Raise)
            and isinstance(node.exc, ast.Call)
            and node.exc.args
            and getattr(node.exc.func, "id", "") in ("Problem", "VolumeProblem")
        ):
            shown.append(node.exc.args[0])
        for expression in shown:
            found += [
                (node.lineno, words) for words in _untranslated(expression) if words not in PROPER_NAMES
            ]
    assert not found


def test_nothing_that_a_user_reads_is_a_command_line() -> None:
    """Whoever reads these sentences sits in front of a window: no command, no option, no package manager."""
    words = re.compile(r"(?<![\w-])--[a-z]|srcyc (serve|infer|train)|pip install|\bgit\b|\bterminal\b")
    found = []
    for path in SOURCES:
        parsed = tree(path)
        # A text that is a statement is documentation, for programmers.
        written = {id(node.value) for node in ast.walk(parsed) if isinstance(node, ast.Expr)}
        found += [
            (f"{path.name}:{node.lineno}", node.value)
            for node in ast.walk(parsed)
            if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in written
            if " " in node.value and words.search(node.value)
        ]
    found += [(UI.name, text) for text in ET.parse(UI).getroot().itertext() if words.search(text)]
    assert not found


def test_the_check_for_translation_sees_what_it_should() -> None:
    def words(code: str) -> list[str]:
        return list(_untranslated(ast.parse(code, mode="eval").body))

    assert words("'Hello'") == ["Hello"]
    assert words("_('Hello')") == []
    assert words("'Hello {x}'.format(x=1)") == ["Hello {x}"]
    assert words("_('Hello {x}').format(x=1)") == []
    assert words("f'{a} of {b}'") == [" of "]
    assert words("_('a b') if x else 'Stop'") == ["Stop"]


@pytest.mark.parametrize("path", SOURCES, ids=NAMES)
def test_a_translated_text_is_one_literal(path: Path) -> None:
    """The tools that collect texts see literals only; an f-string or a sum would be evaluated before."""
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "_":
            assert len(node.args) == 1 and isinstance(node.args[0], ast.Constant), (
                f"{path.name}:{node.lineno}"
            )


def test_signals_are_named_with_their_arguments() -> None:
    for path, node in pieces():
        if isinstance(node, ast.Call) and getattr(node.func, "attr", "") == "connect" and len(node.args) == 2:
            signal = node.args[0]
            if isinstance(signal, ast.Constant):
                assert re.fullmatch(r"\w+\([\w:*, ]*\)", str(signal.value)), f"{path.name}:{node.lineno}"


def test_no_threads_and_no_sleeping_in_the_gui() -> None:
    """Slicer's GUI thread holds Python's lock while it waits: threads stand still, and a sleep freezes everything."""
    for path, node in pieces():
        if path.name in OUTSIDE or path.parent == MODULE:  # there lies the self-test, which may wait
            continue
        if isinstance(node, ast.Call):
            function = ast.unparse(node.func)
            assert function not in ("time.sleep", "threading.Thread", "subprocess.run"), (
                f"{path.name}:{node.lineno}"
            )


def test_the_version_is_the_package_s() -> None:
    import srcyc

    text = (MODULE / "SRCycLib" / "__init__.py").read_text()
    found: Any = re.search(r'^VERSION = "([^"]+)"', text, re.M)
    assert found and found[1] == srcyc.__version__
