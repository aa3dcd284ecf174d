from __future__ import annotations

import csv
import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import yaml

import forks
from factories import make_head, save_head, save_tiny_settings
from srcyc.cli import main
from srcyc.models.model_file import load_model
from srcyc.volumes.volume import Volume, write_volume

Srcyc = Callable[..., Any]


@pytest.fixture(autouse=True)
def quick_figures(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the report's pictures show is tested where they are drawn."""
    forks.draw_nothing(monkeypatch.setattr)


@pytest.fixture
def scans(training_scans: Path) -> Path:
    return training_scans


@pytest.fixture
def tiny(tmp_path: Path) -> Path:
    return save_tiny_settings(tmp_path / "tiny.yaml", steps=4, validate_every=2, checkpoint_every=2)


@pytest.fixture
def train(srcyc: Srcyc, scans: Path, tiny: Path, tmp_path: Path) -> Srcyc:
    """`srcyc train` with tiny networks on the HR phantoms, into ``tmp_path / name``."""

    def run(name: str, *arguments: object, hr: object = scans / "hr") -> object:
        given = ["--hr", hr] if hr is not None else []
        return srcyc(
            "train",
            *given,
            "-o",
            tmp_path / name,
            "--config",
            tiny,
            "--device",
            "cpu",
            *arguments,
        )

    return run


ALONE = ("--set", "mode=generator-only")


def test_unpaired_training_publishes_a_model_that_infer_uses(
    train: Srcyc, srcyc: Srcyc, scans: Path, tmp_path: Path
) -> None:
    assert train("first", *ALONE).code == 0
    model = tmp_path / "first" / "model.safetensors"
    ran = train("second", "--lr", scans / "lr", "--set", f"initial_model={model}")
    assert ran.code == 0, ran.err
    for said in (
        "sub-c",
        "held back for validation",
        "against the classical inverse",
        "forward cycle",
        "to go",
    ):
        assert said in ran.out
    second = tmp_path / "second"
    kept = {
        *("config.yaml", "scans.json", "history.csv", "model.safetensors", "initial.safetensors"),
        *("checkpoints", "tensorboard", "report", ".lock"),
    }
    assert {path.name for path in second.iterdir()} == kept, "the copies of the scans are removed in the end"
    assert {path.name for path in (second / "report").iterdir()} >= {"report.md", "curves.png"}
    with (second / "history.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["step"] for row in rows] == ["0", "2", "4"]
    assert {"adversarial_hr", "cycle_lr", "identity_hr", "d_lr", "psnr", "ssim", "cycle"} <= set(rows[0])
    assert load_model(second / "initial.safetensors").card.name == "srcyc-custom"

    thick, thin = scans / "lr" / "sub-c_T1w.nii.gz", tmp_path / "thin.nii.gz"
    published = second / "model.safetensors"
    assert main(["infer", str(thick), "-o", str(thin), "--model", str(published)]) == 0
    assert nib.load(thin).shape == (40, 40, 48)
    assert "srcyc-custom" in json.dumps(json.loads((tmp_path / "thin.json").read_text()))


def test_paired_training_on_simulated_and_on_real_pairs(train: Srcyc, tmp_path: Path) -> None:
    ran = train("simulated", "--set", "mode=paired")
    assert ran.code == 0, ran.err
    assert "content" in ran.out and "adversarial_hr" in ran.out and "identity" not in ran.out
    pairs = tmp_path / "pairs"
    for seed, person in enumerate("ab"):
        thin = make_head((40, 40, 48), np.eye(4), seed)
        affine = np.diag([1.0, 1.0, 4.0, 1.0])
        affine[2, 3] = 1.5
        thick = Volume(thin.data.reshape(1, 40, 40, 12, 4).mean(-1), affine)
        for domain, volume in (("hr", thin), ("lr", thick)):
            (pairs / domain).mkdir(parents=True, exist_ok=True)
            write_volume(volume, pairs / domain / f"sub-{person}_T1w.nii.gz")
    ran = train("real", "--lr", pairs / "lr", "--set", "mode=paired", hr=pairs / "hr")
    assert ran.code == 0, ran.err
    assert "paired training on 1 pairs" in ran.out


def test_a_run_is_not_overwritten_and_is_resumed_from_its_folder_alone(
    train: Srcyc, srcyc: Srcyc, tmp_path: Path
) -> None:
    assert train("run", *ALONE).code == 0
    model = tmp_path / "run" / "model.safetensors"
    before = model.read_bytes()
    ran = train("run", *ALONE)
    assert ran.code == 2
    assert "already holds a training run; add --resume" in ran.sentence
    assert model.read_bytes() == before
    assert srcyc("train", "-o", tmp_path / "run", "--resume").code == 0
    assert train("run", *ALONE, "--resume").code == 0, "what was given may be given again"
    ran = train("run", *ALONE, "--resume", "--set", "steps=9")
    assert ran.code == 2
    assert "steps was 4, now 9" in ran.sentence


def test_a_run_whose_checkpoints_are_gone_is_not_trained_over(train: Srcyc, tmp_path: Path) -> None:
    assert train("run", *ALONE).code == 0
    model = tmp_path / "run" / "model.safetensors"
    before = model.read_bytes()
    shutil.rmtree(tmp_path / "run" / "checkpoints")
    ran = train("run", *ALONE, "--resume")
    assert ran.code == 2
    assert "its checkpoints were removed" in ran.sentence
    assert model.read_bytes() == before


def test_a_manifest_names_the_scans_and_the_persons(train: Srcyc, scans: Path, tmp_path: Path) -> None:
    table = tmp_path / "scans.csv"
    rows = [("hr/sub-a", "HR", "anna"), ("hr/sub-b", "HR", "bert"), ("lr/sub-c", "LR", "anna")]
    table.write_text(
        "path,domain,person\n" + "".join(f"{scans / p}_T1w.nii.gz,{d},{who}\n" for p, d, who in rows)
    )
    ran = train("run", "--manifest", table, "--set", "data.held_back=[bert]", "--check", hr=None)
    assert ran.code == 0, ran.err
    trained, held_back = ran.out.split("held back for validation:")
    assert trained.count("anna") == 2
    assert "bert" in held_back and "anna" not in held_back.split("training")[0]


def test_check_tells_what_would_be_and_writes_nothing(train: Srcyc, scans: Path, tmp_path: Path) -> None:
    ran = train("run", "--lr", scans / "lr", "--check")
    assert ran.code == 0, ran.err
    for told in (
        "sub-c",
        "held back",
        r"factors .* 4\.00",
        "g_hr [0-9,]+",
        "s per step",
        "for 2 epochs",
        "GB",
    ):
        assert re.search(told, ran.out), told
    assert "nothing was trained" in ran.out
    assert not (tmp_path / "run").exists()


def test_a_quick_run_needs_one_scan_only(srcyc: Srcyc, scans: Path, tiny: Path, tmp_path: Path) -> None:
    small = ["--config", tiny, "--device", "cpu"]
    one = ["--hr", scans / "hr" / "sub-a_T1w.nii.gz"]
    ran = srcyc("train", "--preset", "quick", *one, "-o", tmp_path / "quick", *small)
    assert ran.code == 0
    assert "nothing was measured" in ran.err
    settings = yaml.safe_load((tmp_path / "quick" / "config.yaml").read_text())
    assert (settings["mode"], settings["steps"]) == ("generator-only", 4)
    ran = srcyc("train", *ALONE, *one, "-o", tmp_path / "one", *small)
    assert ran.code == 2
    assert re.search(r"1 person\(s\) with usable HR scans, 2 needed", ran.sentence)
    assert not (tmp_path / "one").exists()


def test_a_worse_model_does_not_replace_the_published_one(train: Srcyc, scans: Path, tmp_path: Path) -> None:
    place = tmp_path / "models" / "ours.safetensors"
    good = ("--set", "steps=60", "--set", "validate_every=20")
    ran = train("good", *ALONE, *good, "--publish", place)
    assert ran.code == 0, ran.err
    assert "nothing was published there yet" in ran.out
    first = place.read_bytes()
    bad = ("--set", "optimiser.learning_rate=1e-9", "--publish", place)
    ran = train("bad", *ALONE, *bad)
    assert ran.code == 0
    assert "was left as it is: it is not better on the held-back scans" in ran.err
    assert place.read_bytes() == first
    ran = train("bad", *ALONE, *bad, "--resume", "--publish-worse")
    assert ran.code == 0, ran.err
    assert place.read_bytes() != first
    # And the better one comes back by itself.
    assert "it is better" in train("good", *ALONE, *good, "--publish", place, "--resume").out
    assert load_model(place).card.training.step > 4


def test_fine_tuning_that_made_it_worse_says_so(train: Srcyc, tmp_path: Path) -> None:
    assert train("good", *ALONE, "--set", "steps=60", "--set", "validate_every=20").code == 0
    start = ("--set", f"initial_model={tmp_path / 'good' / 'model.safetensors'}")
    ran = train(
        "worse", *ALONE, *start, "--set", "optimiser.learning_rate=0.3", "--set", "optimiser.warm_up=0"
    )
    assert ran.code == 0, ran.err
    assert "the model that training started from was better" in ran.err


def test_broken_and_small_scans_are_left_out_by_name(train: Srcyc, scans: Path, tmp_path: Path) -> None:
    hr = tmp_path / "hr"
    for path in (scans / "hr").iterdir():
        (hr / path.name).parent.mkdir(exist_ok=True)
        (hr / path.name).write_bytes(path.read_bytes())
    (hr / "sub-broken_T1w.nii.gz").write_bytes(b"no scan at all")
    save_head(hr / "sub-small_T1w.nii.gz", (9, 9, 9), (1, 1, 1))
    ran = train("run", *ALONE, hr=hr)
    assert ran.code == 0, ran.err
    left_out = ran.out[ran.out.index("left out:") :]
    assert re.search(r"sub-broken_T1w\.nii\.gz +neither", left_out)
    assert "9 x 9 x 9 voxels is smaller than a training patch" in left_out


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--set", "stepz=3"], "stepz"),
        (["--set", "steps=many"], "steps"),
        (["--set", "steps"], "KEY=VALUE"),
        (["--set", "losses.lambda_cycle=-1"], r"losses\.lambda_cycle"),
        (["--config", "absent.yaml"], r"absent\.yaml"),
        (["--preset", "fast"], "fast"),
        (["--device", "cuda:99"], "cuda:99"),
        (["--resume"], "no run to resume"),
        (["--check", "--resume"], "has not begun"),
        (["--publish", "model.pt"], r"ends in \.safetensors"),
        (["--set", "initial_model=absent.safetensors"], r"absent\.safetensors"),
        (["--set", "data.size=64"], "0 person.*smaller than a training patch of 64 x 64 x 64"),
        (["--set", "data.held_back=[sub-z]"], "data.held_back names sub-z"),
        (["--set", "precision=fp16"], "precision 'fp16'"),
        (["--set", "validation.thicknesses=[0.5]"], "cannot be measured"),
    ],
)
def test_mistakes_are_one_sentence_and_exit_2(
    train: Srcyc, tmp_path: Path, arguments: list[str], sentence: str
) -> None:
    ran = train("run", *ALONE, *arguments)
    assert ran.code == 2
    assert re.search(sentence, ran.sentence)
    assert not (tmp_path / "run" / "model.safetensors").exists()


def test_no_scans_no_training(srcyc: Srcyc, scans: Path, tmp_path: Path, train: Srcyc) -> None:
    (tmp_path / "empty").mkdir()
    assert "name them with --hr" in srcyc("train", "-o", tmp_path / "run").sentence
    ran = train("run", hr=tmp_path / "empty")
    assert ran.code == 2
    ran = train("run", *ALONE, hr=tmp_path / "empty")
    assert ran.code == 2
    assert "0 person(s) with usable HR scans" in ran.sentence
    ran = train("run")
    assert ran.code == 2
    assert "usable LR scans" in ran.sentence
    assert not (tmp_path / "run").exists()


def test_a_place_that_cannot_be_written(train: Srcyc, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    ran = train("file", *ALONE)
    assert ran.code == 2
    assert "file: cannot be written" in ran.sentence
    assert (tmp_path / "file").read_text() == "in the way"


def test_a_model_of_another_schema_is_refused(train: Srcyc, tmp_path: Path) -> None:
    from safetensors.numpy import save_file

    other = tmp_path / "other.safetensors"
    save_file({"x": np.zeros(1, np.float32)}, other, metadata={"srcyc": '{"schema_version": 9}'})
    ran = train("run", *ALONE, "--set", f"initial_model={other}")
    assert ran.code == 2
    assert "version 9" in ran.sentence
    assert not (tmp_path / "run").exists()
