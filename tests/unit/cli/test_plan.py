from __future__ import annotations

import json
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from factories import make_head, save_series
from srcyc.cli.plan import find_sources, plan_jobs, prepare_folder, remove_empty, unique_names
from srcyc.errors import OutputError
from srcyc.files import sha256
from srcyc.inference.finished import Asked
from srcyc.inference.options import InferenceOptions
from srcyc.volumes.volume import Volume, write_volume

ASKED = Asked("weights", InferenceOptions())


def _scan(path: Path) -> Path:
    return write_volume(Volume(np.zeros((1, 4, 4, 4), np.float32), np.eye(4)), path)


def _tell(out, name, digest):
    """Write the sidecar of a result of a scan, just as asked."""
    sidecar = {
        "software": "srcyc 0.1.0",
        "output": out.name,
        "input": {"name": name, "sha256": digest},
        "model": {"sha256": ASKED.model},
        "options": ASKED.options.model_dump(mode="json"),
    }
    out.with_name("b.json").write_text(json.dumps(sidecar))


def _plan(sources, out, *, overwrite=False):
    return plan_jobs(sources, out, keep=None if overwrite else ASKED)


def test_folders_are_expanded_once_and_in_order(tmp_path):
    one, two = _scan(tmp_path / "b.nii.gz"), _scan(tmp_path / "a.nrrd")
    found = find_sources([one, tmp_path])
    assert found.scans == [one, two]
    assert not found.bad


def test_what_srcyc_made_is_left_out_of_folders_but_not_when_named(tmp_path):
    scan, made = _scan(tmp_path / "a.nii.gz"), _scan(tmp_path / "a_sr.nii.gz")
    (tmp_path / "a_sr.json").write_text(json.dumps({"software": "srcyc 0.1.0", "output": "a_sr.nii.gz"}))
    found = find_sources([tmp_path])
    assert found.scans == [scan]
    assert [(one.files, one.reason) for one in found.left_out] == [((made,), "made by srcyc")]
    assert find_sources([made]).scans == [made]


def test_the_folder_that_one_is_in_has_a_name_too(tmp_path, monkeypatch):
    scan = _scan(tmp_path / "a.nii.gz")
    monkeypatch.chdir(tmp_path)
    found = find_sources([Path(".")])
    assert (found.scans, found.roots) == ([scan], {scan: tmp_path})


def test_the_index_of_a_medium_stands_for_its_folder(tmp_path):
    folder = save_series(make_head((8, 8, 4)), tmp_path / "medium")
    (folder / "DICOMDIR").write_bytes(bytes(128) + b"DICM")
    found = find_sources([folder / "DICOMDIR"])
    assert found.scans == [folder]
    assert [one.files for one in found.left_out] in ([], [(folder / "DICOMDIR",)])


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


def test_the_outputs_keep_the_tree_of_a_folder(tmp_path):
    scans = [
        _scan(tmp_path / "in" / name) for name in ("a.nii", "sub-01/anat/T1w.nii", "sub-02/anat/T1w.nii")
    ]
    found = find_sources([tmp_path / "in"])
    assert found.scans == scans
    jobs = plan_jobs(found.scans, tmp_path / "out", keep=ASKED, roots=found.roots)
    assert [job.output.relative_to(tmp_path / "out").as_posix() for job in jobs] == [
        *("a_sr.nii.gz", "sub-01/anat/T1w_sr.nii.gz", "sub-02/anat/T1w_sr.nii.gz")
    ]


def test_two_trees_of_the_same_names_do_not_collide(tmp_path):
    for name in ("one/x/T1w.nii", "two/x/T1w.nii", "two/T2w.nii"):
        _scan(tmp_path / name)
    found = find_sources([tmp_path / "one", tmp_path / "two"])
    assert unique_names(found.scans, found.roots) == ["one/x/T1w", "T2w", "two/x/T1w"]


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (("T1.nii", "T1.nii.gz"), ["T1_nii", "T1_nii_gz"]),
        (("a.nrrd", "a.mha", "a.hdr", "b.nii"), ["a_nrrd", "a_mha", "a_hdr", "b"]),
        (("a.nii", "A.nii"), ["a_nii", "A_nii_2"]),
        (("a.nii", "a.nii.gz", "a_nii.nii"), ["a_nii", "a_nii_gz", "a_nii_2"]),
        (("a.nii", "series"), ["a", "series"]),
        (("a.nii", "A.nii", "a_nii_2.nii"), ["a_nii", "A_nii_3", "a_nii_2"]),
    ],
)
def test_scans_of_one_stem_get_names_that_differ(names, expected):
    found = unique_names([Path("/in") / name for name in names])
    assert found == expected
    assert len({name.casefold() for name in found}) == len(names)


@settings(deadline=None, max_examples=50)
@given(
    st.lists(
        st.tuples(
            st.sampled_from(["", "x", "y", "x/y", "X"]),
            st.sampled_from(["a", "A", "a_nii", "a_2", "x_a"]),
            st.sampled_from([".nii", ".nii.gz", ".NII", ".nrrd", ".mgz"]),
        ),
        unique=True,
        max_size=12,
    ),
    st.booleans(),
)
def test_names_never_collide_whatever_the_scans_are_called(scans, in_folders):
    paths = [Path("/root", folder, stem + suffix) for folder, stem, suffix in scans]
    roots = {path: Path("/root") for path in paths} if in_folders else {}
    names = unique_names(paths, roots)
    assert len({name.casefold() for name in names}) == len(paths)
    assert not any(".." in name.split("/") for name in names)


def test_a_pair_is_one_scan_by_either_of_its_files(tmp_path):
    image = nib.Nifti1Pair(np.zeros((4, 4, 4), np.int16), np.eye(4))
    nib.save(image, tmp_path / "c.img")
    assert find_sources([tmp_path / "c.img", tmp_path / "c.hdr", tmp_path]).scans == [tmp_path / "c.hdr"]


def test_two_names_of_one_file_are_told(tmp_path):
    scan = _scan(tmp_path / "in" / "a.nii.gz")
    (tmp_path / "in" / "b.nii.gz").symlink_to(scan)
    found = find_sources([tmp_path / "in"])
    assert found.scans == [scan]
    assert [(one.files[0].name, one.reason) for one in found.left_out] == [
        ("b.nii.gz", f"the same file as {scan}")
    ]


@pytest.mark.parametrize("name", ["x.hdr", "x.nhdr"])
def test_formats_that_are_only_read_are_no_outputs(tmp_path, name):
    with pytest.raises(OutputError, match="read, not written"):
        _plan([tmp_path / "a.nii"], tmp_path / name)


def test_an_existing_output_is_kept_unless_asked(tmp_path):
    scan, out = _scan(tmp_path / "a.nii.gz"), _scan(tmp_path / "b.nii.gz")
    assert _plan([scan], out)[0].done, "nobody tells what it is"
    _tell(out, scan.name, sha256(scan))
    assert _plan([scan], out)[0].done
    job = _plan([scan], out, overwrite=True)[0]
    assert (job.done, job.problem) == (False, None)


def test_a_place_of_another_kind_is_no_output(tmp_path):
    scan = _scan(tmp_path / "a.nii.gz")
    (tmp_path / "file").touch()
    with pytest.raises(OutputError, match="neither a folder"):
        _plan([scan], tmp_path / "file")
    (tmp_path / "out" / "a_sr.nii.gz").mkdir(parents=True)
    assert "is a folder" in str(_plan([scan], tmp_path / "out")[0].problem)
    (tmp_path / "out" / "a_sr").touch()
    (series,) = plan_jobs([scan], tmp_path / "out", keep=ASKED, suffix="")
    assert "is a file" in str(series.problem)


def test_maps_of_a_derivative_are_known_by_their_sidecar(tmp_path):
    made = _scan(tmp_path / "sub-1_rec-SR_desc-uncertainty_T2w.nii.gz")
    told = {"software": "srcyc 0.1.0", "uncertainty": made.name}
    (tmp_path / "sub-1_rec-SR_T2w.json").write_text(json.dumps(told))
    assert "only volumes that srcyc made" in str(find_sources([tmp_path]).bad[0][1])


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


def test_a_pair_whose_voxels_changed_is_another_scan(tmp_path):
    nib.save(nib.Nifti1Pair(np.zeros((4, 4, 4), np.int16), np.eye(4)), tmp_path / "a.img")
    scan, out = tmp_path / "a.hdr", _scan(tmp_path / "b.nii.gz")
    _tell(out, scan.name, sha256(scan, (scan, tmp_path / "a.img")))
    assert _plan([scan], out)[0].done
    (tmp_path / "a.img").write_bytes(bytes(range(128)))
    assert "another a.hdr" in str(_plan([scan], out)[0].problem)
