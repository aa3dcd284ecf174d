"""The app class without a server: what it registers, and which scans a request may name."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
import time
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest

import srcyc_app
from factories import make_phantom, save_series
from srcyc.errors import ConfigError
from srcyc.inference.super_resolver import SuperResolver
from srcyc.volumes.volume import Volume, read_volume
from srcyc_app import script
from srcyc_app.app import SRCycApp
from srcyc_app.infers.baseline import Method, baseline
from srcyc_app.infers.options import Options
from srcyc_app.infers.super_resolution import SuperResolutionTask
from srcyc_app.refusals import Refusal


@pytest.fixture
def app(studies: Path, models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> SRCycApp:
    from monailabel.config import settings

    monkeypatch.setattr(settings, "MONAI_LABEL_SESSION_PATH", str(tmp_path / "sessions"))
    monkeypatch.setattr(settings, "MONAI_LABEL_DATASTORE_AUTO_RELOAD", False)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
    (tmp_path / "temporary").mkdir()
    made = SRCycApp(str(tmp_path / "app"), str(studies), {"model_dir": str(models)})
    made.server_mode(True)
    return made


def ask(app: SRCycApp, **request: Any) -> dict[str, Any]:
    return app.infer({"model": "srcyc", "precision": "fp32", **request})


def refused(app: SRCycApp, **request: Any) -> Refusal:
    with pytest.raises(Refusal) as caught:
        ask(app, **request)
    return caught.value


def test_monai_labels_own_loader_finds_the_class() -> None:
    from monailabel.utils.others.class_utils import get_class_of_subclass_from_file

    main = Path(srcyc_app.__file__).parent / "main.py"
    assert get_class_of_subclass_from_file("main", str(main), "MONAILabelApp") is SRCycApp


def test_info_is_complete_on_an_empty_folder(tmp_path: Path) -> None:
    app = SRCycApp(str(tmp_path / "app"), str(tmp_path / "empty"), {})
    info = app.info()
    assert list(info["models"]) == list(info["trainers"]) == list(info["train_stats"]) == ["srcyc"]
    assert info["models"]["srcyc"]["cards"].keys() == set(info["models"]["srcyc"]["config"]["weights"])
    assert info["datastore"]["total"] == info["datastore"]["completed"] == 0
    assert info["labels"] == []
    assert app.next_sample({"strategy": "random"}) == {}


def test_an_image_id_gives_what_the_library_gives(app: SRCycApp, studies: Path, tiny_model: Path) -> None:
    answer = ask(app, image="thick")
    scan = read_volume(studies / "thick.nrrd")
    expected = SuperResolver.load(tiny_model, device="cpu", precision="fp32")(scan)
    result = read_volume(answer["file"])
    np.testing.assert_array_equal(result.data, expected.volume.data)
    np.testing.assert_allclose(result.affine, expected.volume.affine, atol=1e-9)
    report = answer["params"]
    assert report["input"]["name"] == "thick.nrrd"
    assert report["model"]["name"] == "tiny"
    assert report["consistency"] == expected.report.consistency.model_dump()
    assert report["thickness"]["source"] == "assumed"
    assert report["output"] == "thick_sr.nrrd"
    # Scans are nobody else's business.
    assert Path(answer["file"]).stat().st_mode & 0o077 == 0


@pytest.mark.parametrize("dtype", ["uint8", "int16", "input"])
def test_integers_are_rounded_and_clipped_never_wrapped(app: SRCycApp, dtype: str) -> None:
    exact = read_volume(ask(app, image="thick")["file"]).data
    answer = ask(app, image="thick", result_dtype=dtype, result_extension=".nii.gz")
    result = read_volume(answer["file"])
    wanted = np.dtype(np.int16 if dtype == "input" else dtype)
    limits = np.iinfo(wanted)
    assert result.stored_dtype == wanted
    np.testing.assert_array_equal(result.data, np.clip(np.rint(exact), limits.min, limits.max))
    clipped = [warning for warning in answer["params"]["warnings"] if "set to its limits" in warning]
    assert len(clipped) == (1 if dtype == "uint8" else 0)


def test_options_reach_the_network(app: SRCycApp, studies: Path, tiny_model: Path) -> None:
    wishes = {"slice_thickness": 2.5, "correct_slices": False, "target_spacing": 1.2}
    answer = ask(app, image="thick", **{name: str(value) for name, value in wishes.items()})
    resolver = SuperResolver.load(tiny_model, device="cpu", precision="fp32")
    expected = resolver(read_volume(studies / "thick.nrrd"), **wishes)
    np.testing.assert_array_equal(read_volume(answer["file"]).data, expected.volume.data)
    report = answer["params"]
    assert (report["thickness"]["millimetres"], report["thickness"]["source"]) == (2.5, "stated")
    assert not report["consistency"]["slices_corrected"]
    assert report["consistency"]["residual"] < 1e-3


def test_maps_become_sessions(app: SRCycApp, thick: Volume) -> None:
    answer = ask(app, image="thick", uncertainty=True, correction_map=True)
    report, result = answer["params"], read_volume(answer["file"])
    spread, correction = (
        read_volume(app.sessions().get_session(report[f"{name}_session"]).image)
        for name in ("uncertainty", "correction")
    )
    assert spread.data.min() >= 0
    assert spread.data.max() > 0
    np.testing.assert_allclose(spread.affine, result.affine, atol=1e-9)
    # What was corrected is known slice by slice.
    assert correction.shape == (*result.shape[:2], thick.shape[2])
    np.testing.assert_allclose(correction.grid.field_of_view, thick.grid.field_of_view, atol=1e-3)
    assert "uncertainty" not in report and "correction" not in report
    left = {path.name for path in Path(tempfile.gettempdir()).iterdir()}
    assert left == {Path(answer["file"]).name}


def test_maps_that_were_not_asked_for_are_not_made(app: SRCycApp) -> None:
    report = ask(app, image="thick")["params"]
    assert [key for key in report if key.endswith(("_session", "_file"))] == []


def test_without_a_server_maps_are_files(app: SRCycApp) -> None:
    app.server_mode(False)
    report = ask(app, image="thick", correction_map=True)["params"]
    assert read_volume(report["correction_file"]).shape[2] == 8


def test_a_result_that_cannot_be_kept_leaves_nothing(app: SRCycApp, studies: Path, tmp_path: Path) -> None:
    shutil.copy(studies / "thick.nrrd", studies / "thick_sr.nrrd")
    os.utime(studies / "thick_sr.nrrd", (1_700_000_000, 1_700_000_000))
    app.datastore().refresh()
    assert refused(app, image="thick", store=True, correction_map=True).status_code == 409
    assert list((tmp_path / "temporary").iterdir()) == []


def test_what_a_client_sent_for_some_time_may_be_named_by_its_path(app: SRCycApp, studies: Path) -> None:
    """As MONAI Label's own server does."""
    upload = shutil.copy(studies / "thick.nrrd", tempfile.gettempdir())
    _, info = app.sessions().add_session(str(upload))
    assert app.find_scan(info.image, app.datastore()) == (Path(info.image), None)


def test_a_script_may_name_any_file(app: SRCycApp, studies: Path, tmp_path: Path) -> None:
    elsewhere = Path(shutil.copy(studies / "thick.nrrd", tmp_path / "mine.nrrd"))
    app.server_mode(False)
    assert app.find_scan(str(elsewhere), app.datastore()) == (elsewhere, None)
    task = SuperResolutionTask(app.shelf, 10**9)
    file, report = task({"image": str(elsewhere), "correction_map": True})
    assert read_volume(file).shape[2] > 8
    assert read_volume(report["correction_file"]).shape[2] == 8


def test_a_script_without_scans_has_nothing_to_do(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("monailabel.config.settings.MONAI_LABEL_DATASTORE_AUTO_RELOAD", True)
    assert script.main(["--studies", str(tmp_path), "batch"]) == 0
    assert json.loads(capsys.readouterr().out) == {}


def test_what_takes_hours_is_nothing_to_wait_for(app: SRCycApp) -> None:
    with pytest.raises(Refusal, match="run_sync"):
        app.train({"model": "srcyc"})


def test_a_server_starts_on_a_full_disk_too(
    app: SRCycApp, studies: Path, models: Path, caplog: pytest.LogCaptureFixture, file_size_limit: Any
) -> None:
    (models / "active.json").unlink()
    shutil.rmtree(models / "activated")
    conf = {"model_dir": str(models), "decode_apart": "false"}
    other = SRCycApp(str(models.parent / "app"), str(studies), conf)
    with file_size_limit(10):
        other.server_mode(True)
    assert "until somebody chooses another" in caplog.text
    assert other.shelf.default == "tiny"


def test_store_keeps_the_result_out_of_training(app: SRCycApp, studies: Path) -> None:
    stored = ask(app, image="thick", store=True)["params"]["stored_as"]
    assert stored == "thick_sr"
    assert app.datastore().status()["domains"]["SR"] == 1
    assert read_volume(app.datastore().get_image_uri(stored)).shape[2] > 8


def test_only_what_is_the_clients_business_is_read(app: SRCycApp, studies: Path, tmp_path: Path) -> None:
    outside = Path(shutil.copy(studies / "thick.nrrd", tmp_path / "secret.nrrd"))
    (studies / "link.nrrd").symlink_to(outside)
    assert ask(app, image=str(studies / "thick.nrrd"))["file"]
    for image, status in {
        str(outside): 403,
        str(studies / "link.nrrd"): 403,
        str(studies / ".." / "secret.nrrd"): 403,
        "../secret.nrrd": 404,
        "/etc/passwd": 403,
        str(studies / "gone.nrrd"): 404,
        "nobody": 404,
        "": 422,
        "/x\0y": 403,
    }.items():
        assert refused(app, image=image).status_code == status, image
    for image in (None, 3, ["thick"], {"a": 1}):
        assert refused(app, image=image).status_code == 422


def test_a_path_that_is_also_relative_to_the_working_folder_is_no_id(
    app: SRCycApp, studies: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(studies)
    assert refused(app, image="thick.nrrd").status_code == 404


def test_the_stock_servers_uploads_are_read_and_nothing_else_of_its_folder(
    app: SRCycApp, studies: Path, tmp_path: Path
) -> None:
    uploads = tmp_path / "temporary"
    upload = shutil.copy(studies / "thick.nrrd", uploads / "tmpab12cd_e.nrrd")
    shutil.copy(studies / "thick.nrrd", uploads / "other.nrrd")
    assert ask(app, image=str(upload))["file"]
    assert refused(app, image=str(uploads / "other.nrrd")).status_code == 403


def test_unknown_models_and_devices_are_refused(app: SRCycApp) -> None:
    assert refused(app, image="thick", model="deepedit").status_code == 404
    assert refused(app, image="thick", weights="../x").status_code == 404
    assert "cuda:7" in str(refused(app, image="thick", device="cuda:7"))


def test_what_the_machine_has_no_room_for_is_refused_even_if_forced(app: SRCycApp) -> None:
    error = refused(app, image="thick", target_spacing="0.002", force=True)
    assert error.status_code == 422
    assert "GB" in str(error)
    assert refused(app, image="thick", target_spacing="1e-300", force=True).status_code == 422


def test_what_the_container_has_no_room_for_is_refused(
    app: SRCycApp, studies: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The machine may have plenty; more than its limit would end the server."""
    scan = read_volume(studies / "thick.nrrd")
    for name, text in (("max", "1000000"), ("current", "600000"), ("stat", "inactive_file 0\n")):
        (tmp_path / f"memory.{name}").write_text(text)
    monkeypatch.setattr("srcyc.memory._CGROUP", tmp_path)
    if not Path("/proc/self/cgroup").is_file():
        pytest.skip("no control groups here")
    with pytest.raises(Refusal, match="GB are free"):
        SuperResolutionTask(app.shelf, 10**9).run(studies / "thick.nrrd", Options.of({}))
    with pytest.raises(Refusal, match="GB are free"):
        baseline(scan, (50, 50, 50), Method.CUBIC)


def test_refusals_do_not_tell_where_files_lie(app: SRCycApp, studies: Path) -> None:
    (studies / "broken.nrrd").write_bytes(b"NRRD0004\nnothing\n\n")
    os.utime(studies / "broken.nrrd", (1_700_000_000, 1_700_000_000))  # not half copied
    app.datastore().refresh()
    error = refused(app, image="broken")
    assert str(studies) not in str(error)
    assert "broken.nrrd" in str(error)


def test_nothing_temporary_is_left_after_a_refusal(app: SRCycApp, tmp_path: Path) -> None:
    refused(app, image="thick", target_spacing="30")
    assert list((tmp_path / "temporary").iterdir()) == []


def test_cancelling_leaves_nothing(app: SRCycApp, tmp_path: Path) -> None:
    class Cancelled(Exception):
        pass

    def progress(share: float) -> None:
        if share > 0.1:
            raise Cancelled

    with pytest.raises(Cancelled):
        app.infer({"model": "srcyc", "image": "thick"}, progress=progress)
    assert list((tmp_path / "temporary").iterdir()) == []


def test_without_a_published_model_nothing_is_computed(studies: Path, tmp_path: Path) -> None:
    conf = {"packaged_models": "false", "model_dir": str(tmp_path / "models")}
    app = SRCycApp(str(tmp_path / "app"), str(studies), conf)
    error = refused(app, image="thick")
    assert error.status_code == 404
    assert "no published model" in str(error)


def test_next_sample_works_twice_within_a_second(app: SRCycApp) -> None:
    for _ in range(3):
        assert app.next_sample({"strategy": "random"})["id"] == "thick"
        served = {"random": {"ts": int(time.time()), "client_id": "x"}}
        app.datastore().update_image_info("thick", {"strategy": served})
    with pytest.raises(Refusal, match="random"):
        app.next_sample({"strategy": "cleverest"})


def test_an_upload_cannot_name_another_file_of_the_server(app: SRCycApp, tmp_path: Path) -> None:
    header = (
        "NRRD0004\ntype: uint8\ndimension: 3\nsizes: 4 4 4\nencoding: raw\nspace: left-posterior-superior\n"
    )
    header += "space directions: (1,0,0) (0,1,0) (0,0,4)\nspace origin: (0,0,0)\ndata file: /etc/passwd\n"
    upload = tmp_path / "upload.nrrd"
    upload.write_text(header)
    with pytest.raises(Refusal) as caught:
        app.infer({"model": "srcyc"}, source=upload, shown="upload.nrrd")
    assert caught.value.status_code == 422


def test_model_files_are_nobodys_business(app: SRCycApp) -> None:
    for validate in (True, False):
        with pytest.raises(Refusal) as caught:
            app.model_file("srcyc", validate)
        assert caught.value.status_code == 403


@pytest.mark.parametrize(
    ("key", "value"), [("max_upload_gb", "0"), ("max_upload_gb", "much"), ("packaged_models", "maybe")]
)
def test_a_wrong_conf_is_named(studies: Path, tmp_path: Path, key: str, value: str) -> None:
    with pytest.raises(ConfigError, match=key):
        SRCycApp(str(tmp_path), str(studies), {key: value})


def test_a_series_is_chosen_and_its_gaps_filled(app: SRCycApp, tmp_path: Path) -> None:
    packed = tmp_path / "two.zip"
    with zipfile.ZipFile(packed, "w") as archive:
        for number, thickness in ((1, 4.0), (2, 5.0)):
            volume = Volume(1000 * make_phantom((24, 26, 8), number), np.diag([1.0, 1.0, thickness, 1.0]))
            for file in save_series(volume, tmp_path / str(number)).iterdir():
                data = pydicom.dcmread(file)
                data.SeriesNumber, data.SeriesDescription = number, f"scan {number}"
                data.save_as(file, write_like_original=False)
                if (number, data.InstanceNumber) != (2, 4):
                    archive.write(file, f"{number}-{file.name}")

    def given(**options: Any) -> dict[str, Any]:
        result = app.infer({"model": "srcyc", **options}, source=packed, shown=packed.name)
        Path(result["file"]).unlink()
        return dict(result["params"])

    with pytest.raises(Refusal) as several:
        given()
    assert "scan 1" in str(several.value) and "scan 2" in str(several.value)
    assert given(series="scan 1")["input"]["spacing"] == [1, 1, 4] == given(series=1)["input"]["spacing"]
    with pytest.raises(Refusal, match="3"):
        given(series="3")
    with pytest.raises(Refusal):
        given(series="2")
    filled = given(series="2", fill_gaps=True)
    assert filled["input"]["shape"][2] == 8
    assert any("interpolated" in warning for warning in filled["warnings"])
