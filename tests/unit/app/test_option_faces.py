"""An option is declared once: every place where a user meets it offers it with the same label, help and default."""

from __future__ import annotations

import ast
import json
import re
import xml.etree.ElementTree as ET
from pathlib import Path
from typing import Any

import pytest
import typer
from pydantic import Field
from pydantic.fields import FieldInfo
from typer.testing import CliRunner

import srcyc.cli
import srcyc_app
from srcyc.cli import options as cli_options
from srcyc.inference.options import InferenceOptions
from srcyc_app.infers.options import Options, choices, descriptions

APP = Path(srcyc_app.__file__).parent
MODULE = APP / "slicer" / "SRCyc"
FIELDS = InferenceOptions.model_fields

#: Options that a place leaves out, and why.
EXCEPTIONS = {
    ("page", "correction_map"): "the page draws one map, the uncertainty, and on the result's grid",
}

#: Widgets of the panel for options that are no switch: the value's, and its label.
PANEL_TEXTS = {
    "target_spacing": ("spacingComboBox", "spacingLabel"),
    "slice_thickness": ("thicknessLineEdit", "thicknessLabel"),
}


def offered(place: str) -> list[str]:
    return [name for name in FIELDS if (place, name) not in EXCEPTIONS]


def test_exceptions_are_needed() -> None:
    assert all(name in FIELDS and reason for (_, name), reason in EXCEPTIONS.items())


# -- the command line ------------------------------------------------------------------------------------------------


def flags() -> dict[str, Any]:
    command: Any = typer.main.get_command(srcyc.cli.app)
    return {parameter.name: parameter for parameter in command.commands["infer"].params}


@pytest.mark.parametrize("name", offered("command line"))
def test_the_command_line_offers_it(name: str) -> None:
    parameter, field = flags()[name], FIELDS[name]
    flag = f"--{name.replace('_', '-')}"
    assert parameter.opts == [flag]
    assert parameter.default == field.default
    assert parameter.help == field.description
    # Nobody has to switch off what is off.
    assert parameter.secondary_opts == ([f"--no-{flag[2:]}"] if field.default is True else [])


def test_a_new_field_is_a_new_flag(monkeypatch: pytest.MonkeyPatch) -> None:
    class More(InferenceOptions):
        sharpen: bool = Field(default=True, title="Sharpen", description="Sharpen it.")
        strength: float | None = Field(default=None, title="Strength", description="How much.")

    monkeypatch.setattr(cli_options, "InferenceOptions", More)
    got: dict[str, Any] = {}
    app = typer.Typer()

    @app.command()
    @cli_options.with_inference()
    def infer(inference: cli_options.Inference) -> None:
        got.update(inference.options, model=inference.model)

    result = CliRunner().invoke(app, ["--no-sharpen", "--strength", "2.5", "--model", "y"])
    assert result.exit_code == 0, result.output
    assert (got["sharpen"], got["strength"], got["model"], got["n4"]) == (False, 2.5, "y", False)


# -- the server ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", offered("server"))
def test_the_server_offers_it(name: str) -> None:
    field = FIELDS[name]
    assert choices(["model"])[name] == ("" if field.default is None else field.default)
    told = descriptions()[name]
    assert (told["label"], told["help"]) == (field.title, field.description)
    assert Options.model_fields[name].default == field.default


def test_what_only_a_server_has_is_described_too() -> None:
    assert list(choices(["model"])) == list(descriptions()) == list(Options.model_fields)
    assert all(told["label"] and told["help"] for told in descriptions().values())
    assert {name: told["kind"] for name, told in descriptions().items()} == {
        **dict.fromkeys(FIELDS, "switch"),
        **{"target_spacing": "text", "slice_thickness": "number", "store": "switch"},
        **{"series": "text", "fill_gaps": "switch", "labels": "text"},
        **dict.fromkeys(("weights", "device", "precision", "result_dtype", "result_extension"), "choice"),
    }
    json.dumps(descriptions())


# -- the panel in 3D Slicer ------------------------------------------------------------------------------------------


def widgets() -> dict[str, ET.Element]:
    tree = ET.parse(MODULE / "Resources" / "UI" / "SRCyc.ui")
    return {element.get("name", ""): element for element in tree.iter("widget")}


def text(widget: ET.Element, name: str) -> str | None:
    return widget.findtext(f"property[@name='{name}']/string")


def panel_switches() -> dict[str, str]:
    for node in ast.walk(ast.parse((MODULE / "SRCycLib" / "resolve_panel.py").read_text(encoding="utf-8"))):
        if isinstance(node, ast.Assign) and getattr(node.targets[0], "id", "") == "_SWITCHES":
            return dict(ast.literal_eval(node.value))
    raise AssertionError("the panel's table of switches is gone")


def empty(field: FieldInfo) -> str:
    return str(field.json_schema_extra["empty"]) if isinstance(field.json_schema_extra, dict) else ""


@pytest.mark.parametrize("name", offered("panel"))
def test_the_panel_offers_it(name: str) -> None:
    field, known = FIELDS[name], widgets()
    if isinstance(field.default, bool):
        box = known[panel_switches()[name]]
        assert text(box, "text") == field.title
        assert (box.findtext("property[@name='checked']/bool") == "true") is field.default
    else:
        value, label = PANEL_TEXTS[name]
        box = known[value]
        assert text(known[label], "text") == f"{field.title}:"
        if field.default is None:
            assert text(box, "placeholderText") == empty(field)
        else:
            assert box.findtext("item/property[@name='text']/string") == field.default
    assert text(box, "toolTip") == field.description


def test_the_panel_offers_nothing_else() -> None:
    assert set(panel_switches()) | set(PANEL_TEXTS) <= set(FIELDS)


# -- the compare page ------------------------------------------------------------------------------------------------


def page_list(name: str) -> list[str]:
    script = (APP / "compare" / "runner.js").read_text(encoding="utf-8")
    found = re.search(rf"^const {name} = (\[.*?\]);$", script, re.MULTILINE)
    assert found, f"the page's list {name} is gone"
    return list(json.loads(found[1]))


@pytest.mark.parametrize("name", offered("page"))
def test_the_page_offers_it(name: str) -> None:
    """Inputs are made from what the server describes, with the server's labels; the spacing has one of its own."""
    if name in page_list("ELSEWHERE"):
        html = (APP / "compare" / "index.html").read_text(encoding="utf-8")
        label = re.search(r'<label for="(\w+)">([^<]+)</label>', html[html.index(">Target") - 30 :])
        assert (name, label and label.groups()) == ("target_spacing", ("spacing", FIELDS[name].title))
    else:
        assert descriptions()[name]["kind"] in ("switch", "number")


def test_the_page_leaves_out_what_it_must() -> None:
    left_out = {name for place, name in EXCEPTIONS if place == "page"}
    assert left_out <= set(page_list("ELSEWHERE"))
    # All lists name options that there are.
    assert {*page_list("FIRST"), *page_list("ELSEWHERE")} <= set(Options.model_fields)
