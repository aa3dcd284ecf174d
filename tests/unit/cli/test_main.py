from __future__ import annotations

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import pytest

from srcyc import __version__
from srcyc.cli import main, spread_paths
from srcyc.cli.options import parse_numbers
from srcyc.errors import ConfigError


def test_version(capsys):
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"srcyc {__version__}\n"


@pytest.mark.parametrize(
    "arguments", [["--help"], ["infer", "--help"], ["evaluate", "--help"], ["models", "--help"]]
)
def test_help(capsys, arguments):
    assert main(arguments) == 0
    assert "Usage: srcyc" in capsys.readouterr().out


def test_no_command_shows_the_help(capsys):
    assert main([]) == 2
    captured = capsys.readouterr()
    assert "infer" in captured.out + captured.err


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["unknown"], "unknown"),
        (["infer"], "INPUT"),
        (["infer", "a.nii"], "--output"),
        (["infer", "a.nii", "-o", "b.nii", "--nonsense"], "--nonsense"),
        (["infer", "a.nii", "-o", "b.nii", "--device", "gpu"], "gpu"),
        (["infer", "a.nii", "-o", "b.nii", "--precision", "fp8"], "fp8"),
        (["infer", "a.nii", "-o", "b.nii", "--max-memory", "-1"], "--max-memory"),
        (["infer", "a.nii", "-o", "b.nii", "--max-memory", "lots"], "--max-memory"),
        (["infer", "a.nii", "-o", "b.nii", "--target-spacing", "1,2"], "1,2"),
        (["infer", "a.nii", "-o", "b.nii", "--target-spacing", "fine"], "fine"),
        (["infer", "a.nii", "-o", "b.nii", "--target-spacing", "nan"], "nan"),
        (["infer", "a.nii", "-o", "b.nii", "--target-spacing", ""], "--target-spacing ''"),
        (["infer", "a.nii", "-o", "b.nii", "--slice-thickness", "0"], "--slice-thickness 0.0"),
        (["infer", "a.nii", "-o", "b.nii", "--slice-thickness", "nan"], "--slice-thickness nan"),
        (["infer", "a.nii", "-o", "b.nii", "--slice-thickness", "thick"], "--slice-thickness"),
        (["evaluate", "--hr", "a.nii", "-o", "x", "--thickness", "0"], "--thickness"),
    ],
)
def test_a_mistaken_argument_is_one_sentence(capsys, tmp_path, monkeypatch, arguments, words):
    monkeypatch.chdir(tmp_path)
    assert main(arguments) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.count("\n") == 1
    assert words in captured.err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("arguments", [["--help"], ["infer", "x.nii", "-o", "y.nii", "--device", "gpu"]])
def test_help_and_mistakes_do_not_wait_for_pytorch(arguments):
    code = f"import sys; from srcyc.cli import main; main({arguments!r}); sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, check=False).returncode == 0


def test_numbers():
    assert parse_numbers("3,4.5", option="--thickness", example="3") == [3.0, 4.5]
    with pytest.raises(ConfigError, match=r"--thickness 'x'.*example 3"):
        parse_numbers("x", option="--thickness", example="3")


def test_a_program_may_run_it_in_any_thread(capsys):
    with ThreadPoolExecutor(1) as pool:
        assert pool.submit(main, ["--version"]).result() == 0
    assert __version__ in capsys.readouterr().out


def test_paths_after_a_path_option_all_belong_to_it():
    assert spread_paths(["evaluate", "--hr", "a", "b", "-o", "x", "--hr", "c"]) == [
        *("evaluate", "--hr", "a", "--hr", "b", "-o", "x", "--hr", "c")
    ]
    assert spread_paths(["infer", "a", "b", "-o", "x"]) == ["infer", "a", "b", "-o", "x"]
