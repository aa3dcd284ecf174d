from __future__ import annotations

import pytest

from srcyc.cli import main
from srcyc.models.model_file import DEFAULT_MODEL

MODULES = {
    "well": "def greet(name: str = 'you'):\n    'Greet somebody.'\n    print('hello', name)\n",
    "broken": "raise RuntimeError('its licence has run out')",
    "leaving": "raise SystemExit('wants another Python')",
    "interrupted": "raise KeyboardInterrupt",
}


@pytest.fixture
def install(tmp_path, monkeypatch):
    """Install a package with plug-ins for one test: ``install(name="module:function")``."""

    def make(**commands: str) -> None:
        for name, text in MODULES.items():
            (tmp_path / f"extension_{name}.py").write_text(text)
        folder = tmp_path / "extension-1.0.dist-info"
        folder.mkdir()
        (folder / "METADATA").write_text("Metadata-Version: 2.1\nName: extension\nVersion: 1.0\n")
        lines = [f"{name} = {value}\n" for name, value in commands.items()]
        (folder / "entry_points.txt").write_text("[srcyc.commands]\n" + "".join(lines))
        monkeypatch.syspath_prepend(tmp_path)

    return make


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        ("extension_missing:greet", "No module named 'extension_missing'"),
        ("extension_well:not_there", "not_there"),
        ("extension_broken:greet", "its licence has run out"),
        ("extension_leaving:greet", "wants another Python"),
        ("extension_well:__name__", "not a callable object"),
        ("extension_well", "not a callable object"),
    ],
)
def test_one_that_cannot_be_loaded_is_named_and_breaks_no_other(capsys, install, value, reason):
    install(other=value, hello="extension_well:greet")
    assert main(["--help"]) == 0
    told = capsys.readouterr().out
    assert "Greet somebody." in told
    assert "other     (cannot be loaded)" in told
    assert main(["hello", "--name", "all"]) == 0
    assert capsys.readouterr().out == "hello all\n"
    for arguments in (["other"], ["other", "x", "--port", "1", "--help"]):
        assert main(arguments) == 2
        error = capsys.readouterr().err
        assert error.startswith("srcyc other: cannot be loaded (")
        assert reason in error
        assert "extension again" in error
        assert error.count("\n") == 1


def test_only_the_one_that_is_asked_for_is_imported(capsys, install):
    install(other="extension_interrupted:greet", hello="extension_well:greet")
    for arguments in (["hello"], ["models"], ["--version"]):
        assert main(arguments) == 0
    capsys.readouterr()
    assert main(["--help"]) == 130
    assert "interrupted" in capsys.readouterr().err


def test_none_takes_a_command_of_srcyc(capsys, install):
    install(models="extension_well:greet")
    assert main(["models"]) == 0
    assert DEFAULT_MODEL in capsys.readouterr().out


def test_a_slip_is_told_the_nearest_command(capsys, install):
    install(hello="extension_well:greet")
    assert main(["helo"]) == 2
    assert "'hello'" in capsys.readouterr().err
