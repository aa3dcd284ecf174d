"""`srcyc bids`: a BIDS App, its shards, its report, and the same on a Dask cluster that is killed."""

from __future__ import annotations

import csv
import hashlib
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import psutil
import pytest

from factories import save_head
from srcyc.errors import InputError
from srcyc.inference.batch import TRIES, Done, How, Work, do, on_dask, resources, shard
from srcyc.inference.bids import place_of
from srcyc.inference.bids_selection import read_filters, select
from srcyc.inference.group import write_report
from srcyc.inference.options import InferenceOptions
from srcyc.inference.results import Place

#: Longer than a cluster takes to start on a machine that others use too.
_PATIENCE = 300.0


def _data_set(root: Path, people: int, *, more: bool = False) -> Path:
    """A BIDS data set of thick scans; with more: a thin one, another contrast, another session, and a broken one."""
    root.mkdir(parents=True)
    (root / "dataset_description.json").write_text(
        json.dumps({"Name": "heads", "BIDSVersion": "1.10.0"}), encoding="utf-8"
    )
    for number in range(1, people + 1):
        person = f"sub-{number:03}"
        save_head(root / person / "anat" / f"{person}_T2w.nii.gz", seed=number)
    if more:
        save_head(root / "sub-001" / "anat" / "sub-001_T1w.nii.gz", (24, 26, 28), (1, 1, 1))
        save_head(root / "sub-001" / "anat" / "sub-001_acq-ax_FLAIR.nii.gz", seed=8)
        save_head(root / "sub-002" / "ses-2" / "anat" / "sub-002_ses-2_T2w.nii.gz", seed=9)
        save_head(root / "sub-001" / "func" / "sub-001_task-rest_bold.nii.gz")
        (root / "sub-002" / "anat" / "sub-002_PDw.nii.gz").write_bytes(b"no image")
    return root


def _results(out: Path) -> dict[str, str]:
    """Volumes by path, with the hash of their voxels' bytes."""
    return {
        path.relative_to(out).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(out.rglob("*.nii.gz"))
        if not any(part.startswith(".") for part in path.relative_to(out).parts)
    }


def _unfinished(out: Path) -> list[Path]:
    """What a killed process left behind."""
    return [path for path in out.rglob(".*") if path.name != ".bidsignore"]


@pytest.fixture(scope="module")
def heads(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return _data_set(tmp_path_factory.mktemp("bids") / "heads", 2, more=True)


def test_the_thick_scans_of_a_data_set_are_done_once(srcyc, heads, tiny_model, how, tmp_path, monkeypatch):
    out = tmp_path / "out"
    call = ("bids", heads, out, "participant", "--model", tiny_model, "--json")
    ran = srcyc(*call)
    first = {one["input"].rpartition("/")[2]: one for one in ran.json["results"]}
    assert ran.code == 2
    assert {name for name, one in first.items() if one["status"] == "written"} == {
        "sub-001_T2w.nii.gz",
        "sub-001_acq-ax_FLAIR.nii.gz",
        "sub-002_T2w.nii.gz",
        "sub-002_ses-2_T2w.nii.gz",
    }
    assert first["sub-002_PDw.nii.gz"]["status"] == "refused"
    assert [path.rpartition("/")[2] for path in ran.json["left_out"]] == ["sub-001_T1w.nii.gz"]
    made = _results(out)
    assert "sub-002/ses-2/anat/sub-002_ses-2_rec-SR_T2w.nii.gz" in made
    assert (out / "sub-001" / "anat" / "sub-001_acq-ax_rec-SR_FLAIR.png").is_file()
    # Two at a time, yet in order, and as if each had been done alone.
    assert [one["input"] for one in ran.json["results"]] == sorted(
        one["input"] for one in ran.json["results"]
    )
    for name in made:
        work = Work(heads / name.replace("_rec-SR", ""), Place(tmp_path / "alone" / name))
        assert do(work, how).status == "written"
    assert _results(tmp_path / "alone") == made
    before = {path: path.stat().st_mtime_ns for path in out.rglob("*.nii.gz")}
    # Paths may be relative, and go up.
    monkeypatch.chdir(tmp_path)
    given = ("bids", os.path.relpath(heads), "out")
    again = srcyc(*given, "participant", "--model", tiny_model, "--json").json["results"]
    assert sorted(one["status"] for one in again) == ["refused", *["skipped"] * 4]
    assert before == {path: path.stat().st_mtime_ns for path in out.rglob("*.nii.gz")}

    ran = srcyc(*given, "group", "--model", tiny_model, "--json")
    assert ran.code == 0
    assert [row["status"] for row in ran.json["scans"]].count("done") == 4
    with (out / "group_scans.tsv").open(encoding="utf-8", newline="") as stream:
        rows = {row["scan"]: row for row in csv.DictReader(stream, delimiter="\t")}
    assert len(rows) == 5
    assert rows["sub-001/anat/sub-001_T2w.nii.gz"]["spacing_from"] == "1 x 1 x 4"
    assert rows["sub-001/anat/sub-001_T2w.nii.gz"]["factor"] == "4"
    assert rows["sub-002/anat/sub-002_PDw.nii.gz"]["status"] == "refused"
    assert "sub-002_PDw" in rows["sub-002/anat/sub-002_PDw.nii.gz"]["message"]

    pictures: list[str] = []

    class Page(HTMLParser):
        def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
            if tag == "img":
                pictures.append(dict(attrs)["src"] or "")

    page = (out / "group_report.html").read_text(encoding="utf-8")
    Page().feed(page)
    assert len(pictures) == 4
    assert all((out / picture).is_file() for picture in pictures)
    assert "5 scans: 4 done" in page


def test_workers_elsewhere_are_told_whole_paths(srcyc, heads, tiny_model, tmp_path, monkeypatch):
    def seen(works: list[Work], how: How) -> Iterator[Done]:
        paths.extend([how.model, *(path for work in works for path in (work.source, work.place.volume))])
        yield from ()

    paths: list[Path] = []
    monkeypatch.setattr("srcyc.inference.batch.in_turn", seen)
    monkeypatch.chdir(tmp_path)
    given = ("bids", os.path.relpath(heads), "out", "participant", "--model", os.path.relpath(tiny_model))
    assert srcyc(*given).code == 0
    assert len(paths) == 1 + 2 * 5
    assert all(map(Path.is_absolute, paths))


def test_a_sidecar_that_says_too_little_is_told_and_stops_no_report(tmp_path):
    """As that of another command, or an edited one: what others say is not believed."""
    place = Place(tmp_path / "sub-1_rec-SR_T2w.nii.gz")
    place.volume.touch()
    for text in (
        '{"software": "srcyc 9"}',
        '{"software": "srcyc 9", "warnings": 3, "input": {"spacing": 1}}',
    ):
        place.sidecar.write_text(text)
        _, page, (row,) = write_report(tmp_path, [Work(tmp_path / "sub-1_T2w.nii.gz", place)], ["sub-1_T2w"])
        assert row.values["status"] == "unreadable"
        assert place.sidecar.name in row.values["message"]
        assert "1 without a result" in page.read_text()


def test_participants_sessions_and_filters_choose(srcyc, heads, tiny_model, tmp_path):
    query = tmp_path / "filter.json"
    query.write_text(
        json.dumps({"flair": {"suffix": "FLAIR", "acquisition": ["ax", "cor"]}}), encoding="utf-8"
    )
    base = ("participant", "--model", tiny_model, "--no-preview")
    for options, expected in (
        (
            ("--participant-label", "sub-001", "--bids-filter-file", query),
            ["sub-001_acq-ax_rec-SR_FLAIR.nii.gz"],
        ),
        (("--session-label", "2"), ["sub-002_ses-2_rec-SR_T2w.nii.gz"]),
    ):
        out = tmp_path / expected[0]
        assert srcyc("bids", heads, out, *base, *options).code == 0
        assert [name.rpartition("/")[2] for name in _results(out)] == expected
    assert srcyc("bids", heads, tmp_path / "nothing", "group", "--model", tiny_model).code == 0
    page = (tmp_path / "nothing" / "group_report.html").read_text(encoding="utf-8")
    assert "5 scans: 0 done" in page and "Factors" not in page
    for options, told in (
        (("--participant-label", "77"), "77"),
        (("--bids-filter-file", tmp_path / "none.json"), "none.json"),
        (("--shard", "3/2"), "3/2"),
        (("--dask", "tcp://127.0.0.1:1", "--n-procs", "2"), "--n-procs"),
    ):
        ran = srcyc("bids", heads, tmp_path / "no", *base, *options)
        assert ran.code == 2
        assert told in ran.sentence
    for text, told in (('{"a": {"colour": "red"}}', "colour"), ('{"a": "T2w"}', "queries")):
        query.write_text(text, encoding="utf-8")
        assert told in srcyc("bids", heads, tmp_path / "no", *base, "--bids-filter-file", query).sentence
    # A query may ask for what is not there, and of a file what all of them are.
    query.write_text('{"a": {"session": null, "acquisition": null, "extension": ".nii.gz", "suffix": "T2w"}}')
    chosen = select(heads, filters=read_filters(query)).scans
    assert [path.name for path in chosen] == ["sub-001_T2w.nii.gz", "sub-002_T2w.nii.gz"]
    assert "the data set itself" in srcyc("bids", heads, heads, *base).sentence
    assert "no BIDS data set" in srcyc("bids", tmp_path, tmp_path / "no", *base).sentence


def test_shards_are_disjoint_and_together_all():
    works = [Work(Path(f"{n}.nii.gz"), Place(Path(f"{n}_sr.nii.gz"))) for n in range(11)]
    parts = [shard(works, f"{n}/4") for n in (1, 2, 3, 4)]
    assert sorted((work for part in parts for work in part), key=works.index) == works
    assert max(map(len, parts)) - min(map(len, parts)) <= 1


def test_workers_share_cores_and_memory_evenly():
    assert resources(4, cores=16, memory=100_000) == (4, 22_500)
    assert resources(4, cores=2, memory=100_000)[0] == 1


@pytest.fixture
def how(tiny_model: Path) -> How:
    return How(tiny_model, hashlib.sha256(tiny_model.read_bytes()).hexdigest(), InferenceOptions())


def test_what_a_result_was_made_of_decides_whether_it_is_kept(how, tmp_path):
    work = Work(save_head(tmp_path / "a.nii.gz"), Place(tmp_path / "out" / "a.nii.gz"))
    assert do(work, how).status == "written"
    assert do(work, how).status == "skipped"
    other = replace(how, options=InferenceOptions(correct_slices=False))
    told = do(work, other)
    assert (told.status, told.tries) == ("refused", 0)
    assert "correct_slices" in told.message
    # Replaced once, it is kept by the same command.
    assert do(work, replace(other, overwrite=True)).status == "written"
    assert do(work, replace(other, overwrite=True)).status == "skipped"
    work.source.unlink()
    save_head(work.source, seed=5)
    assert "another a.nii.gz" in do(work, other).message
    work.place.sidecar.unlink()
    assert "not made by srcyc" in do(work, other).message


def test_a_poisoned_scan_is_tried_three_times_and_stops_nothing(how, tmp_path, monkeypatch):
    def poisoned(*arguments: object, **options: object) -> None:
        tried.append(1)
        raise RuntimeError("poison")

    tried: list[int] = []
    work = Work(save_head(tmp_path / "a.nii.gz"), Place(tmp_path / "a_sr.nii.gz"))
    monkeypatch.setattr("srcyc.inference.results.write_result", poisoned)
    told = do(work, how)
    assert (told.status, told.tries, len(tried)) == ("failed", TRIES, TRIES)
    assert "poison" in told.message and str(work.source) in told.message
    assert not work.place.volume.exists()


def test_infer_does_a_shard_of_a_folder(srcyc, tiny_model, tmp_path):
    for name in "abc":
        save_head(tmp_path / "scans" / f"{name}.nii.gz", seed=ord(name))
    call = ("infer", tmp_path / "scans", "-o", tmp_path / "thin", "--model", tiny_model)
    assert srcyc(*call, "--shard", "1/2").code == 0
    assert list(_results(tmp_path / "thin")) == ["a_sr.nii.gz", "c_sr.nii.gz"]
    assert srcyc(*call, "--shard", "4/4").code == 0  # empty
    assert srcyc(*call, "--shard", "2/2").code == 0
    assert len(_results(tmp_path / "thin")) == 3
    assert "--shard" in srcyc(*call, "--shard", "0/2").sentence


def test_the_commands_of_the_guide_work(srcyc, heads, tiny_model, tmp_path, monkeypatch):
    guide = (Path(__file__).parents[2] / "docs" / "batch.md").read_text(encoding="utf-8")
    shutil.copytree(heads, tmp_path / "heads")
    (tmp_path / "heads" / "sub-002" / "anat" / "sub-002_PDw.nii.gz").unlink()
    save_head(tmp_path / "scans" / "a.nii.gz")
    query = re.search(r"holds queries .*?`(\{.*?\})`", guide, re.DOTALL)
    assert query is not None
    (tmp_path / "filter.json").write_text(query[1], encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    blocks = re.findall(r"^```bash\n(.*?)^```", guide, re.MULTILINE | re.DOTALL)
    lines = [line for block in blocks for line in block.splitlines() if line.startswith("srcyc")]
    # Clusters, and stacks, have tests of their own.
    alone = [line for line in lines if "--n-procs" not in line and "combine" not in line]
    assert len(alone) >= 6
    # The job array's last line, as its only task.
    monkeypatch.setenv("SLURM_ARRAY_TASK_ID", "1")
    monkeypatch.setenv("SLURM_ARRAY_TASK_COUNT", "1")
    (task,) = re.findall(r"^#!/bin/bash\n(?:.*\n)*?(srcyc .*)$", guide, re.MULTILINE)
    alone.append(os.path.expandvars(task).replace("/data/", f"{tmp_path}/"))
    for line in alone:
        ran = srcyc(*shlex.split(line)[1:], "--model", tiny_model, *["--no-preview"] * ("bids" in line))
        assert ran.code == 0, (line, ran.err)


# -- on a cluster ----------------------------------------------------------------------------------------------------


def _start(root: Path, out: Path, model: Path, **environment: str) -> subprocess.Popen[str]:
    """Two workers of one thread each, in processes of their own."""
    command = ["bids", str(root), str(out), "participant", "--model", str(model), "--no-preview", "--json"]
    return subprocess.Popen(
        [sys.executable, "-m", "srcyc.cli", *command, "--dask", "local", "--n-procs", "2"],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1", **environment},
    )


def _wait_for(out: Path, count: int, process: subprocess.Popen[str]) -> None:
    """Wait until there are so many results, of a command that still runs."""
    end = time.monotonic() + _PATIENCE
    while len(_results(out)) < count:
        assert process.poll() is None, "it ended before"
        assert time.monotonic() < end
        time.sleep(0.02)


def _workers(process: subprocess.Popen[str]) -> list[psutil.Process]:
    return [
        child
        for child in psutil.Process(process.pid).children(recursive=True)
        if "spawn_main" in " ".join(child.cmdline())
    ]


def test_the_workers_of_a_cluster_that_somebody_else_runs(how, tmp_path, monkeypatch):
    distributed = pytest.importorskip("distributed", reason="needs srcyc[batch]")
    (tmp_path / "broken.nii.gz").write_bytes(b"no image")
    works = [
        Work(scan, Place(tmp_path / "out" / scan.name))
        for scan in (save_head(tmp_path / "a.nii.gz"), tmp_path / "broken.nii.gz")
    ]
    cluster = {"n_workers": 1, "threads_per_worker": 2, "processes": False, "protocol": "tcp"}
    with distributed.LocalCluster(**cluster, dashboard_address=None) as running:
        done = {one.work: one for one in on_dask(works, how, running.scheduler_address)}
    assert [done[work].status for work in works] == ["written", "refused"]
    assert "broken.nii.gz" in done[works[1]].message
    with pytest.raises(InputError, match="no scheduler answers"):
        next(on_dask(works, how, "carrier-pigeon://loft"))
    monkeypatch.setitem(sys.modules, "distributed", None)
    with pytest.raises(InputError, match=r"install srcyc\[batch\]"):
        next(on_dask(works, how, "local"))


@pytest.mark.parametrize(
    "people", [12, pytest.param(200, marks=pytest.mark.exhaustive)], ids=["twelve", "two hundred"]
)
def test_killed_workers_and_schedulers_lose_nothing_and_do_nothing_twice(tiny_model, how, tmp_path, people):
    pytest.importorskip("distributed", reason="needs srcyc[batch]")
    root, out = _data_set(tmp_path / "heads", people), tmp_path / "out"
    first = _start(root, out, tiny_model)
    try:
        _wait_for(out, 1, first)
        # One worker stands still, with what it was doing: however fast the other is, something is left to do.
        doomed, stopped = _workers(first)
        stopped.suspend()
        doomed.kill()  # its scan is taken over by the worker that replaces it
        _wait_for(out, people // 3, first)
    finally:
        left = _workers(first) if first.poll() is None else []
        first.kill()  # the scheduler lives in it
        for worker in left:  # a stopped one holds the pipe that is read to its end
            worker.kill()
        first.communicate()
    psutil.wait_procs(left, timeout=_PATIENCE)
    # A volume at its place is finished: it goes there last.
    before = {out / name: (out / name).stat().st_mtime_ns for name in _results(out)}
    assert 0 < len(before) < people

    second = _start(root, out, tiny_model)
    told, _ = second.communicate(timeout=_PATIENCE + 5 * people)
    assert second.returncode == 0
    statuses = [one["status"] for one in json.loads(told)["results"]]
    assert (statuses.count("skipped"), statuses.count("written")) == (len(before), people - len(before))
    assert before == {path: path.stat().st_mtime_ns for path in before}
    assert not _unfinished(out)

    alone = tmp_path / "alone"
    for name in _results(out):
        scan = root / name.replace("_rec-SR", "")
        assert do(Work(scan, place_of(scan, root, alone)), how).status == "written"
    assert len(_results(out)) == people
    assert _results(out) == _results(alone)


#: Read by every Python: a worker that opens the scan dies.
_POISON = """
import multiprocessing, os, sys
def hook(event, arguments):
    if event == "open" and "sub-003_T2w" in str(arguments[0]) and "Worker" in multiprocessing.current_process().name:
        os._exit(9)
sys.addaudithook(hook)
"""


@pytest.mark.exhaustive
def test_a_scan_that_workers_die_of_is_given_up_and_takes_no_other_with_it(tiny_model, tmp_path):
    pytest.importorskip("distributed", reason="needs srcyc[batch]")
    root, out = _data_set(tmp_path / "heads", 10), tmp_path / "out"
    (tmp_path / "sitecustomize.py").write_text(_POISON)
    process = _start(root, out, tiny_model, PYTHONPATH=str(tmp_path))
    told, _ = process.communicate(timeout=_PATIENCE)
    assert process.returncode == 1
    results = {Path(one["input"]).name: one for one in json.loads(told)["results"]}
    poisoned = results.pop("sub-003_T2w.nii.gz")
    assert (poisoned["status"], poisoned["tries"]) == ("failed", TRIES)
    assert "worker died" in poisoned["message"]
    # One whose worker died just after it was written is found there by the next.
    assert {one["status"] for one in results.values()} <= {"written", "skipped"}
    assert len(_results(out)) == len(results) == 9
