from __future__ import annotations

import csv
import json
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from srcyc.cli import main

TINY = [
    *("--set", "steps=4", "--set", "validate_every=2", "--set", "checkpoint_every=2"),
    *("--set", "data.size=16", "--set", "data.batch_size=1", "--set", "data.least_slices=4"),
    *("--set", "g_hr.features=4", "--set", "g_hr.depth=1"),
    *("--set", "g_lr.features=4", "--set", "g_lr.blocks=1", "--set", "g_lr.head_kernel=3"),
    *(
        "--set",
        "d_hr.features=4",
        "--set",
        "d_hr.layers=2",
        "--set",
        "d_lr.features=4",
        "--set",
        "d_lr.layers=1",
    ),
    *("--set", "optimiser.learning_rate=1e-3", "--set", "validation.crop=32", "--device", "cpu"),
]


@pytest.fixture(scope="module")
def scans(tmp_path_factory: pytest.TempPathFactory, phantom) -> Path:  # type: ignore[no-untyped-def]
    folder = tmp_path_factory.mktemp("scans")
    for kind, shape, thick, persons in (("hr", (40, 44, 48), 1, "ab"), ("lr", (40, 40, 12), 4, "cd")):
        (folder / kind).mkdir()
        for seed, person in enumerate(persons):
            image = nib.Nifti1Image(1000 * phantom(shape, seed)[0], np.diag([1, 1, thick, 1]))
            nib.save(image, folder / kind / f"sub-{person}_T1w.nii.gz")
    return folder


def test_unpaired_training_publishes_a_model_that_infer_uses(
    scans: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    hr, lr = ["--hr", str(scans / "hr")], ["--lr", str(scans / "lr")]
    assert main(["train", *hr, "-o", str(first), *TINY, "--set", "mode=generator-only"]) == 0
    model = first / "model.safetensors"
    assert main(["train", *hr, *lr, "-o", str(second), *TINY, "--set", f"initial_model={model}"]) == 0
    said = capsys.readouterr().out
    assert "sub-c" in said
    assert "against cubic" in said
    for folder in (first, second):
        assert {path.name for path in folder.iterdir()} == {
            "config.yaml",
            "history.csv",
            "checkpoint.pt",
            "model.safetensors",
        }
    with (second / "history.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["step"] for row in rows] == ["2", "4"]
    assert {"adversarial_hr", "cycle_lr", "identity_hr", "d_lr", "psnr"} <= set(rows[0])

    thick, thin = scans / "lr" / "sub-c_T1w.nii.gz", tmp_path / "thin.nii.gz"
    published = second / "model.safetensors"
    assert main(["infer", str(thick), "-o", str(thin), "--model", str(published)]) == 0
    assert nib.load(thin).shape == (40, 40, 48)
    sidecar = json.loads((tmp_path / "thin.json").read_text())
    assert "srcyc-custom" in json.dumps(sidecar)


def test_a_run_is_not_overwritten_and_resumes(
    scans: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = [
        "train",
        "--hr",
        str(scans / "hr"),
        "-o",
        str(tmp_path / "run"),
        *TINY,
        "--set",
        "mode=generator-only",
    ]
    assert main(arguments) == 0
    before = (tmp_path / "run" / "model.safetensors").read_bytes()
    capsys.readouterr()
    assert main(arguments) == 2
    assert "already holds a training run; add --resume" in capsys.readouterr().err
    assert (tmp_path / "run" / "model.safetensors").read_bytes() == before
    assert main([*arguments, "--resume"]) == 0


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--set", "stepz=3"], "stepz"),
        (["--set", "steps=many"], "steps"),
        (["--set", "steps"], "KEY=VALUE"),
        (["--set", "losses.lambda_cycle=-1"], "losses.lambda_cycle"),
        (["--config", "absent.yaml"], "absent.yaml"),
        (["--device", "cuda:99"], "cuda:99"),
        (["--resume"], "no checkpoint"),
        ([], "no LR scan"),
    ],
)
def test_mistakes_are_one_sentence_and_exit_2(
    scans: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], sentence: str
) -> None:
    mode = [] if not arguments else ["--set", "mode=generator-only"]
    code = main(["train", "--hr", str(scans / "hr"), "-o", str(tmp_path / "run"), *TINY, *mode, *arguments])
    error = capsys.readouterr().err
    assert code == 2
    assert sentence in error
    assert len(error.strip().splitlines()) == 1
    assert not (tmp_path / "run").exists()


def test_one_person_is_too_few(scans: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    hr = str(scans / "hr" / "sub-a_T1w.nii.gz")
    assert (
        main(["train", "--hr", hr, "-o", str(tmp_path / "run"), *TINY, "--set", "mode=generator-only"]) == 2
    )
    assert "nobody is left to train on" in capsys.readouterr().err


def test_domains_are_listed_with_reasons(scans: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (scans / "broken.nii.gz").write_bytes(b"no image")
    assert (
        main(["domains", str(scans / "hr"), str(scans / "lr"), str(scans / "broken.nii.gz"), "--json"]) == 0
    )
    listed = json.loads(capsys.readouterr().out)
    assert [entry["domain"] for entry in listed] == ["HR", "HR", "LR", "LR", "neither"]
    assert "4.0 times thicker" in listed[2]["reason"]
    assert "broken.nii.gz" in listed[4]["reason"]
    assert main(["domains", str(scans / "lr")]) == 0
    assert "sub-c" in capsys.readouterr().out
