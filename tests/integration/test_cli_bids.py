"""`srcyc infer --bids`: a derivative that the BIDS validator takes, named and described as the standard has it."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from factories import make_head
from srcyc.errors import InputError
from srcyc.inference.bids import describe_dataset, place_of
from srcyc.volumes.volume import read_volume, write_volume

#: The validator of npm, and the newer one, which checks derivatives too.
VALIDATORS = ("bids-validator", "bids-validator-deno")
SCANS = {
    "sub-01/anat/sub-01_T2w": "sub-01/anat/sub-01_rec-SR_T2w",
    "sub-02/ses-a/anat/sub-02_ses-a_acq-x_rec-norm_run-2_FLAIR": (
        "sub-02/ses-a/anat/sub-02_ses-a_acq-x_rec-normSR_run-2_FLAIR"
    ),
}


@pytest.fixture
def raw(tmp_path: Path) -> Path:
    root = tmp_path / "raw"
    for index, name in enumerate(SCANS):
        write_volume(make_head((16, 18, 6), seed=index), root / f"{name}.nii.gz")
    write_volume(make_head((16, 18, 6)), root / "sub-01/func/sub-01_task-rest_sbref.nii.gz")
    write_volume(make_head((16, 18, 6)), root / "derivatives/other/sub-01/anat/sub-01_desc-x_T2w.nii.gz")
    write_volume(make_head((16, 18, 6)), root / "sub-01/anat/notes.nii.gz")
    (root / "sub-01/anat/sub-01_T2w.json").write_text('{"SliceThickness": 4, "SkullStripped": true}')
    (root / "README").write_text("Scans of heads that never were. " * 8)
    (root / "derivatives/other/dataset_description.json").write_text(
        json.dumps(
            {"Name": "x", "BIDSVersion": "1.8.0", "DatasetType": "derivative", "GeneratedBy": [{"Name": "y"}]}
        )
    )
    description = {"Name": "Heads", "BIDSVersion": "1.8.0", "License": "CC0", "DatasetDOI": "doi:10.1/x"}
    (root / "dataset_description.json").write_text(json.dumps(description))
    return root


def test_what_the_data_set_says_in_no_json_is_not_passed_on(tmp_path):
    """Python writes NaN where a number is missing, which no other program reads."""
    root = tmp_path / "raw"
    root.mkdir()
    (root / "dataset_description.json").write_text(
        '{"Name": NaN, "License": Infinity, "DatasetDOI": "doi:1"}'
    )
    made = json.loads(describe_dataset(tmp_path / "out", root).read_text())
    assert (made["Name"], made["SourceDatasets"][0]["DOI"]) == ("raw: super-resolved", "doi:1")
    assert "License" not in made


def test_a_derivative(srcyc, tiny_model, raw, tmp_path):
    out = raw / "derivatives" / "srcyc"
    given = ("infer", raw, "--bids", "-o", out, "--model", tiny_model, "--uncertainty", "--preview")
    answer = srcyc(*given, "--json").json
    assert answer["exit_code"] == 0
    made = {Path(result["output"]).relative_to(out).as_posix() for result in answer["results"]}
    assert made == {f"{name}.nii.gz" for name in SCANS.values()}
    reasons = {Path(one["files"][0]).name: one["reason"] for one in answer["left_out"]}
    assert "anatomical" in reasons["sub-01_task-rest_sbref.nii.gz"]
    assert "own scans" in reasons["sub-01_desc-x_T2w.nii.gz"]
    assert "named" in reasons["notes.nii.gz"]

    description = json.loads((out / "dataset_description.json").read_text())
    assert description["DatasetType"] == "derivative"
    assert description["GeneratedBy"][0]["Name"] == "srcyc"
    assert description["SourceDatasets"] == [{"URL": "bids:raw:", "DOI": "doi:10.1/x"}]
    assert (out / description["DatasetLinks"]["raw"]).resolve() == raw.resolve()
    for scan, result in SCANS.items():
        sidecar = json.loads((out / f"{result}.json").read_text())
        assert sidecar["Sources"] == [f"bids:raw:{scan}.nii.gz"]
        assert sidecar["SkullStripped"] is (scan == next(iter(SCANS)))
        assert sidecar["model"]["sha256"] and sidecar["software"].startswith("srcyc ")
        head, _, suffix = result.rpartition("_")
        assert sidecar["uncertainty"] == Path(f"{head}_desc-uncertainty_{suffix}.nii.gz").name
        assert (out / result).with_name(sidecar["uncertainty"]).is_file()
    validated(out)

    again = srcyc(*given)
    assert again.code == 0 and "2 skipped" in again.out
    # Results and maps are no scans, from wherever they are found.
    ran = srcyc("infer", out, "-o", tmp_path / "again", "--model", tiny_model)
    assert ran.code == 2 and "only volumes that srcyc made" in ran.sentence


def test_labels_are_a_segmentation(srcyc, tiny_model, raw, tmp_path):
    scan = raw / "sub-01/anat/sub-01_T2w.nii.gz"
    volume = read_volume(scan)
    volume.data[:] = volume.data > np.median(volume.data)
    labels = write_volume(volume, tmp_path / "tissue_dseg.nii.gz", dtype="uint8")
    ran = srcyc("infer", scan, "--bids", "-o", tmp_path / "out", "--model", tiny_model, "--labels", labels)
    assert ran.code == 0
    assert (tmp_path / "out/sub-01/anat/sub-01_rec-SR_dseg.nii.gz").is_file()
    validated(tmp_path / "out")


def test_what_is_refused(srcyc, tiny_model, raw, thick_file, tmp_path):
    def refused(*given: object) -> str:
        ran = srcyc("infer", *given, "--bids", "--model", tiny_model)
        assert ran.code == 2
        return ran.sentence

    assert "dataset_description.json" in refused(thick_file, "-o", tmp_path / "a")
    assert "the data set itself" in refused(raw, "-o", raw)
    assert "did not make" in refused(raw, "-o", raw / "derivatives/other")
    assert "--format" in refused(raw, "-o", tmp_path / "a", "--format", "nrrd")
    assert not (tmp_path / "a").exists()
    with pytest.raises(InputError, match="not named as BIDS has it"):
        place_of(raw / "sub-01/anat/notes.nii.gz", raw, tmp_path)
    assert not (raw / "derivatives/other/README.md").exists()


def validated(folder: Path) -> None:
    """Ask the validators that are here; without any the rest of the test stands by itself."""
    found = [
        shutil.which(name, path=f"{Path(sys.executable).parent}:{os.environ['PATH']}") for name in VALIDATORS
    ]
    for program in filter(None, found):
        done = subprocess.run([program, folder, "--json"], capture_output=True, text=True)
        issues = json.loads(done.stdout)["issues"]
        errors = (
            issues["errors"]
            if "errors" in issues
            else [i for i in issues["issues"] if i["severity"] == "error"]
        )
        assert errors == []
        assert done.returncode == 0
    if not any(found):
        pytest.skip(
            "checked all but what a BIDS validator says: needs bids-validator (npm) or bids-validator-deno"
        )
