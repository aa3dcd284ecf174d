from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from srcyc.cli.plan import find_sources, plan_jobs, prepare_folder, remove_empty, unique_names
from srcyc.errors import OutputError
from srcyc.volume import Volume, write_volume


def _scan(path: Path) -> Path:
    return write_volume(Volume(np.zeros((1, 4, 4, 4), np.float32), np.eye(4)), path)


def _plan(sources, out, *, overwrite=False):
    return plan_jobs(sources, out, overwrite=overwrite)


def test_folders_are_expanded_once_and_in_order(tmp_path):
    one, two = _scan(tmp_path / "b.nii.gz"), _scan(tmp_path / "a.nrrd")
    found = find_sources([one, tmp_path])
    assert found.scans == [one, two]
    assert not found.bad


def test_what_srcyc_made_is_left_out_of_folders_but_not_when_named(tmp_path):
    scan, made = _scan(tmp_path / "a.nii.gz"), _scan(tmp_path / "a_sr.nii.gz")
    (tmp_path / "a_sr.json").write_text(json.dumps({"software": "srcyc 0.1.0", "output": "a_sr.nii.gz"}))
    found = find_sources([tmp_path])
    assert (found.scans, found.left_out) == ([scan], 1)
    assert find_sources([made]).scans == [made]


def test_a_folder_without_volumes_is_bad(tmp_path):
    found = find_sources([tmp_path])
    assert not found.scans
    assert str(tmp_path) in str(found.bad[0][1])


def test_one_input_may_name_its_file(tmp_path):
    (job,) = _plan([tmp_path / "a.nii"], tmp_path / "x.mha")
    assert job.output == tmp_path / "x.mha"
    assert job.place.sidecar == tmp_path / "x.json"


def test_a_folder_gets_one_file_per_input(tmp_path):
    jobs = _plan([tmp_path / "a.nii", tmp_path / "series"], tmp_path / "out")
    assert [job.output.name for job in jobs] == ["a_sr.nii.gz", "series_sr.nii.gz"]


@pytest.mark.parametrize("out", ["x.nii.gz", "result.jpg"])
def test_a_wrong_kind_of_output_is_refused(tmp_path, out):
    with pytest.raises(OutputError, match=r"give a folder|unknown kind"):
        _plan([tmp_path / "a.nii", tmp_path / "b.nii"], tmp_path / out)


def test_equal_stems_are_told_apart_by_their_folders():
    paths = [
        Path("/d/sub-01/anat/T1w.nii.gz"),
        Path("/d/sub-02/anat/T1w.nii.gz"),
        Path("/d/sub-02/anat/T2w.nii.gz"),
    ]
    assert unique_names(paths) == ["sub-01_anat_T1w", "sub-02_anat_T1w", "T2w"]


def test_the_name_of_a_link_counts_not_its_target(tmp_path):
    key = _scan(tmp_path / "MD5E-0123.nii.gz")
    link = tmp_path / "T1w.nii.gz"
    link.symlink_to(key)
    assert unique_names([link]) == ["T1w"]


def test_inputs_that_cannot_be_told_apart_are_all_refused(tmp_path):
    one, two = _scan(tmp_path / "a.nii.gz"), _scan(tmp_path / "a.nrrd")
    jobs = _plan([one, two], tmp_path / "out")
    assert all("run them one by one" in str(job.problem) for job in jobs)


def test_an_existing_output_is_kept_unless_asked(tmp_path):
    scan, out = _scan(tmp_path / "a.nii.gz"), _scan(tmp_path / "b.nii.gz")
    assert _plan([scan], out)[0].done
    assert not _plan([scan], out, overwrite=True)[0].done


def test_an_existing_output_of_another_scan_is_not_taken_for_this_ones(tmp_path):
    scan, out = _scan(tmp_path / "a.nii.gz"), _scan(tmp_path / "b.nii.gz")
    sidecar = {"software": "srcyc 0.1.0", "output": "b.nii.gz", "input": {"name": "other.nii.gz"}}
    (tmp_path / "b.json").write_text(json.dumps(sidecar))
    assert "other.nii.gz" in str(_plan([scan], out)[0].problem)


@pytest.mark.parametrize("overwrite", [False, True])
def test_the_input_is_never_the_output(tmp_path, overwrite):
    scan = _scan(tmp_path / "a.nii.gz")
    link = tmp_path / "b.nii.gz"
    link.symlink_to(scan)
    for out in (scan, link):
        assert "input itself" in str(_plan([scan], out, overwrite=overwrite)[0].problem)


def test_a_foreign_file_in_the_sidecars_place_is_kept(tmp_path):
    scan = _scan(tmp_path / "a.nii.gz")
    (tmp_path / "b.json").write_text('{"EchoTime": 0.1}')
    assert "belongs to something else" in str(_plan([scan], tmp_path / "b.nii.gz")[0].problem)


def test_the_sidecar_that_a_killed_run_left_is_no_obstacle(tmp_path):
    scan = _scan(tmp_path / "a.nii.gz")
    (tmp_path / "b.json").write_text(json.dumps({"software": "srcyc 0.1.0", "output": "b.nii.gz"}))
    (job,) = _plan([scan], tmp_path / "b.nii.gz")
    assert job.problem is None
    assert not job.done


def test_a_folder_is_prepared_and_removed_again_when_empty(tmp_path):
    created = prepare_folder(tmp_path / "a" / "b")
    assert (tmp_path / "a" / "b").is_dir()
    remove_empty(created)
    assert list(tmp_path.iterdir()) == []


def test_a_folder_in_use_is_not_removed(tmp_path):
    created = prepare_folder(tmp_path / "a" / "b")
    (tmp_path / "a" / "b" / "file").write_text("x")
    remove_empty(created)
    assert (tmp_path / "a" / "b" / "file").exists()


def test_a_folder_below_a_file_is_refused(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="choose another folder"):
        prepare_folder(tmp_path / "file" / "out")
