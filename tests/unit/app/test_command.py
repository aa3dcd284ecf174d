from __future__ import annotations

import os
import socket
import subprocess
import sys
from types import SimpleNamespace

import pytest

from srcyc.cli import main
from srcyc.errors import ConfigError, OutputError
from srcyc_app.server import launch
from srcyc_app.server.logs import log_to
from srcyc_app.server.options import Options


def test_serve_is_a_command_of_srcyc(capsys):
    assert main(["--help"]) == 0
    assert "serve" in capsys.readouterr().out
    assert main(["serve", "--help"]) == 0
    assert "--studies" in capsys.readouterr().out


def test_help_does_not_wait_for_monai_label():
    code = (
        "import sys; from srcyc.cli import main; main(['serve', '--help']);"
        "sys.exit(bool({'torch', 'monailabel', 'fastapi'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, check=False).returncode == 0


def test_what_we_start_loads_neither_monai_nor_what_trains():
    """MONAI takes longer to load than all else; what trains, seconds."""
    code = (
        "import sys, srcyc_app.server.application, srcyc_app.server.task, srcyc_app.script, srcyc_app.core;"
        "sys.exit(','.join({'monai', 'ignite', 'torchvision', 'matplotlib', 'scipy.stats'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stderr.strip() == ""


def test_other_commands_do_not_look_for_plug_ins():
    code = (
        "import sys; from srcyc.cli import main; main(['models', '--nonsense']);"
        "sys.exit('srcyc_app.command' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, check=False).returncode == 0


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], "--studies"),
        (["--studies", "nowhere"], "nowhere"),
        (["--studies", "studies/file"], "studies/file"),
        (["--studies", "studies", "--port", "70000"], "--port"),
        (["--studies", "studies", "--host", "999.1.1.1"], "--host"),
        (["--studies", "studies", "--model-dir", "studies/file"], "--model-dir"),
        (["--studies", "studies", "--model-dir", "studies/file/in"], "--model-dir"),
        (["--studies", "studies", "--max-upload", "0"], "--max-upload"),
        (["--studies", "studies", "--max-upload", "nan"], "--max-upload"),
        (["--studies", "studies", "--allowed-host", "http://name"], "--allowed-host"),
        (["--studies", "studies", "--allowed-host", "name:80"], "--allowed-host"),
        (["--studies", "studies", "--allowed-host", "*"], "--allowed-host"),
        (["--studies", "studies", "--cors-origin", "*"], "--cors-origin"),
        (["--studies", "studies", "--cors-origin", "https://name/path"], "--cors-origin"),
        (["--studies", "studies", "--host", f"{'x' * 70}.example", "--trusted-proxy", "::1"], "--host"),
        (["--studies", "studies", "--host", "192.0.2.1", "--trusted-proxy", "::1"], "--port"),
    ],
)
def test_a_mistaken_option_is_one_sentence(capsys, tmp_path, monkeypatch, arguments, words):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "studies").mkdir()
    (tmp_path / "studies" / "file").touch()
    assert main(["serve", "--model-dir", "model", *arguments]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.count("\n") == 1
    assert words in captured.err


def test_a_port_in_use_is_one_sentence(capsys, tmp_path):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        code = main(["serve", "--studies", str(tmp_path), "--model-dir", str(tmp_path / "m"), "--port", port])
    assert code == 2
    error = capsys.readouterr().err
    assert f"--port {port}: in use" in error
    assert error.count("\n") == 1


def test_settings_of_monai_label_that_this_server_cannot_take_are_named(tmp_path, monkeypatch):
    options = Options(str(tmp_path), cors_origin=["https://pacs.example"], allowed_host=["scanner"])
    launch._check_names(options)
    with monkeypatch.context() as changed:
        changed.setattr("monailabel.config.settings.MONAI_LABEL_AUTH_ENABLE", True)
        with pytest.raises(ConfigError, match="AUTH_ENABLE"):
            launch._configure(options, str(tmp_path), tmp_path, 8000)
    monkeypatch.delitem(sys.modules, "monailabel.config")
    monkeypatch.setenv("MONAI_LABEL_SERVER_PORT", "many")
    with pytest.raises(ConfigError, match="MONAI_LABEL_SERVER_PORT"):
        launch._configure(options, str(tmp_path), tmp_path, 8000)


def test_a_server_whose_input_is_closed_ends(monkeypatch):
    read, write = os.pipe()
    os.write(write, b"whatever\nis said")
    os.close(write)
    server = SimpleNamespace(should_exit=False)
    with open(read) as stream:
        monkeypatch.setattr(sys, "stdin", stream)
        launch._end_with_input(server)
    assert server.should_exit


def test_a_log_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(OutputError, match="file"):
        log_to(tmp_path / "file" / "app.log")


def test_without_monai_label_it_says_what_to_install(capsys, tmp_path, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert main(["serve", "--studies", str(tmp_path)]) == 2
    error = capsys.readouterr().err
    assert 'pip install "srcyc[server]"' in error
    assert error.count("\n") == 1
