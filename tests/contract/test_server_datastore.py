"""The datastore behind real servers: uploads, tags, next sample, results, batches, and files that people copy there."""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from monailabel.client.client import MONAILabelClientException

from srcyc.volumes.volume import read_volume, write_volume

pytestmark = pytest.mark.slow

Serve = Callable[..., Any]
Refused = Callable[..., str]


@pytest.fixture(scope="module", params=["srcyc", "stock"])
def own(
    request: pytest.FixtureRequest, serve: Serve, studies_of: Callable[..., Path], tiny_model: Path
) -> Any:
    """A server of this module's own: what it holds changes from test to test."""
    server = serve(request.param, studies_of("nifti"), model=tiny_model)
    appears(server, "head")
    yield server
    server.end()


#: What the datastore does by itself: it is the same under MONAI Label's own routes.
by_itself = pytest.mark.parametrize("own", ["srcyc"], indirect=True)


def objects(server: Any) -> dict[str, Any]:
    return server.client.datastore()["objects"]


def info(server: Any, image: str) -> dict[str, Any]:
    reply = server.get(f"/datastore/image/info?image={image}")
    assert reply.status_code == 200, reply.text
    return reply.json()


def appears(server: Any, image: str) -> None:
    server.wait_for(lambda: image in objects(server), f"notice {image}")


def remove(server: Any, *images: str) -> None:
    for image in images:
        assert server.delete(f"/datastore/?id={image}").status_code == 200
        assert image not in objects(server)


def test_an_upload_becomes_an_image(own: Any, scans: Any) -> None:
    told = own.client.upload_image(str(scans.nrrd), "sent", {"note": "by hand"})
    assert told["image"] == "sent"
    assert "sent" in objects(own)
    known = info(own, "sent")
    assert known["note"] == "by hand"
    assert (own.studies / known["name"]).read_bytes() == scans.nrrd.read_bytes()
    assert known["domain"] == "LR" or own.kind == "stock"
    got = own.get("/datastore/image?image=sent")
    assert got.content == scans.nrrd.read_bytes()
    assert own.request("HEAD", "/datastore/image?image=sent").status_code == 200
    file, _ = own.client.infer("srcyc", "sent", {"device": "cpu"})
    assert read_volume(file).shape[2] > 8
    remove(own, "sent")
    assert not (own.studies / known["name"]).exists()


def test_the_id_comes_from_the_file_s_name_if_none_is_given(own: Any, scans: Any, tmp_path: Path) -> None:
    path = tmp_path / "a.b.c.nii.gz"
    shutil.copy(scans.nifti, path)
    with path.open("rb") as stream:
        reply = own.put("/datastore/", files={"file": (path.name, stream)})
    assert reply.status_code == 200, reply.text
    image = reply.json()["image"]
    assert image == ("a.b.c" if own.kind == "srcyc" else image)
    remove(own, image)


@by_itself
def test_a_zip_of_a_dicom_series_becomes_an_image(own: Any, scans: Any, command_line: Any) -> None:
    """MONAI Label's own upload route takes single files only."""
    reply = own.put("/datastore/?image=patient7", files={"file": ("series.zip", scans.archive.read_bytes())})
    assert reply.status_code == 200, reply.text
    assert len(list((own.studies / "patient7").glob("*.dcm"))) == len(list(scans.series.iterdir()))
    archive = own.get("/datastore/image?image=patient7")
    assert archive.content[:2] == b"PK", "a folder is sent as a zip archive"
    again = own.infer(
        session=own.put("/session/?uncompress=true", files=[("files", ("x.zip", archive.content))]).json()[
            "session_id"
        ],
        output="json",
    )
    assert again.status_code == 200, again.text
    assert info(own, "patient7")["domain"] == "LR"
    remove(own, "patient7")
    assert not (own.studies / "patient7").exists()


def test_nothing_is_overwritten_unasked(own: Any, scans: Any, refused: Refused) -> None:
    before = (own.studies / "head.nii.gz").read_bytes()
    for source in (scans.nifti, scans.nrrd):
        with source.open("rb") as stream:
            reply = own.put("/datastore/?image=head", files={"file": (source.name, stream)})
        refused(reply, 409, says="head")
    assert (own.studies / "head.nii.gz").read_bytes() == before
    with pytest.raises(MONAILabelClientException):
        own.client.upload_image(str(scans.nrrd), "head")
    own.client.upload_image(str(scans.nrrd), "other")
    own.client.upload_image(str(scans.mha), "other", {"overwrite": True})
    name = info(own, "other")["name"]
    assert (own.studies / name).read_bytes() == scans.mha.read_bytes()
    assert "overwrite" not in info(own, "other")
    remove(own, "other")
    assert not list(own.studies.glob("other*"))


def test_tags_decide_the_domain(own: Any, scans: Any) -> None:
    own.client.upload_image(str(scans.thin), "whole", {"domain": "hr", "person": "p1"})
    try:
        assert info(own, "whole")["domain"] == "HR"
        for given, kept in (("neither", "neither"), ("LR", "LR"), ("SR", "SR")):
            reply = own.put("/datastore/image/info?image=whole", data={"info": json.dumps({"domain": given})})
            assert reply.status_code == 200, reply.text
            assert info(own, "whole")["domain"] == kept
            assert objects(own)["whole"]["image"]["info"]["domain"] == kept
        assert info(own, "whole")["person"] == "p1"
        counted = own.client.info()["datastore"]
        assert counted["domains"]["SR"] == 1
        assert counted["completed"] == counted["domains"]["LR"] + counted["domains"]["HR"]
        # Back to what the spacing says.
        own.put("/datastore/image/info?image=whole", data={"info": '{"domain": ""}'})
        assert objects(own)["whole"]["image"]["info"]["domain"] == "HR"
    finally:
        remove(own, "whole")


def test_next_sample(own: Any) -> None:
    for strategy in own.client.info()["strategies"]:
        sample = own.client.next_sample(strategy, {})
        assert sample["id"] in objects(own)
        assert sample["name"].startswith(sample["id"])
    told = info(own, "head")
    assert "strategy" in told or own.kind == "stock", "who was given it is remembered"


@by_itself
def test_files_that_are_copied_in_appear_and_go(own: Any, scans: Any) -> None:
    for source, name in (
        (scans.nifti, "copied.nii.gz"),
        (scans.nrrd, "LOUD.NRRD"),
        (scans.mha, "meta.mha"),
    ):
        shutil.copy(source, own.studies / name)
    shutil.copytree(scans.series, own.studies / "study 1")
    for image in ("copied", "LOUD", "meta", "study 1"):
        appears(own, image)
        told = own.infer(image, output="json")
        assert told.status_code == 200, (image, told.text)
    # Renamed, replaced, removed.
    (own.studies / "copied.nii.gz").rename(own.studies / "moved.nii.gz")
    own.wait_for(lambda: {"moved"} <= objects(own).keys() and "copied" not in objects(own), "follow")
    (own.studies / "moved.nii.gz").unlink()
    (own.studies / "LOUD.NRRD").unlink()
    (own.studies / "meta.mha").unlink()
    shutil.rmtree(own.studies / "study 1")
    own.wait_for(lambda: not {"moved", "LOUD", "meta", "study 1"} & objects(own).keys(), "notice")


@by_itself
def test_a_file_that_is_being_copied_is_left_alone(own: Any, scans: Any) -> None:
    """It appears when it is complete, not when its first bytes are there."""
    content, paused = scans.nifti.read_bytes(), 0.0
    with (own.studies / "slow.nii.gz").open("wb") as stream:
        touched = time.monotonic()
        for start in range(0, len(content), len(content) // 12 + 1):
            before = time.monotonic()
            stream.write(content[start : start + len(content) // 12 + 1])
            stream.flush()
            os.fsync(stream.fileno())
            time.sleep(0.3)
            found = objects(own)
            # Since the write before this one, that is at least as long as it ever lay still.
            paused = max(paused, time.monotonic() - touched)
            touched = before
            # On a machine that stood still in between, it did not grow either.
            assert "slow" not in found or paused > 1.0, "not before it has settled"
    appears(own, "slow")
    assert info(own, "slow").get("error") is None
    remove(own, "slow")


@by_itself
@pytest.mark.parametrize("count", [30, pytest.param(300, marks=pytest.mark.exhaustive)])
def test_many_uploads_at_once_do_not_stop_the_watcher(own: Any, scans: Any, count: int) -> None:
    """MONAI Label's own watcher died of this."""
    content = scans.nifti.read_bytes()
    for number in range(count):
        (own.studies / f"many-{number:03}.nii.gz").write_bytes(content)
    images = {f"many-{number:03}" for number in range(count)}
    own.wait_for(lambda: images <= objects(own).keys(), "notice them")
    for image in images:
        (own.studies / f"{image}.nii.gz").unlink()
    own.wait_for(lambda: not images & objects(own).keys(), "notice that they are gone")
    shutil.copy(scans.nifti, own.studies / "after.nii.gz")
    appears(own, "after")
    remove(own, "after")


def test_a_result_may_be_kept_and_is_never_trained_on(own: Any) -> None:
    before = own.client.info()["datastore"]["domains"]
    told = own.infer("head", output="json", store=True, device="cpu")
    assert told.status_code == 200, told.text
    image = told.json()["stored_as"]
    assert image == "head_sr"
    try:
        assert info(own, image)["domain"] == "SR"
        after = own.client.info()["datastore"]["domains"]
        assert after["SR"] == before["SR"] + 1
        assert (after["LR"], after["HR"]) == (before["LR"], before["HR"])
        kept = own.get(f"/datastore/image?image={image}")
        assert own.volume(kept).shape == (24, 26, 32)
    finally:
        remove(own, image)


def test_a_saved_label_map_comes_along_and_is_kept_with_the_result(
    own: Any, scans: Any, refused: Refused, tmp_path: Path
) -> None:
    scan = read_volume(scans.nifti)
    marked = replace(scan, data=(scan.data > 300).astype(np.float32))
    labels = write_volume(marked, tmp_path / "seg.nii.gz", dtype=np.uint8)
    refused(own.infer("head", labels="final"), 404, says="final")
    own.client.save_label("head", str(labels), tag="final")
    try:
        told = own.infer("head", output="json", labels="final", store=True, device="cpu").json()
        sent = own.volume(own.get(f"/session/{told['labels_session']}?image=true"))
        kept = own.volume(own.get("/datastore/label?label=head_sr&tag=labels"))
        np.testing.assert_array_equal(kept.data, sent.data)
        assert list(kept.shape) == told["result"]["shape"] and set(np.unique(kept.data)) == {0, 1}
        # The next result has none: this one's would be false.
        assert own.infer("head", output="json", store=True, device="cpu").ok
        assert own.get("/datastore/label?label=head_sr&tag=labels").status_code == 404
    finally:
        assert own.delete("/datastore/label?id=head&tag=final").ok
        remove(own, "head_sr")


def ended(server: Any) -> dict[str, Any]:
    """Wait for the end of the batch, and give the task."""

    def over() -> Any:
        task = server.get("/batch/infer").json()
        return task if task["status"] not in ("SUBMITTED", "RUNNING") else None

    return server.wait_for(over, "finish the batch")


def batch(server: Any) -> dict[str, Any]:
    """Run a batch without parameters to its end."""
    reply = server.post("/batch/infer/srcyc")
    assert reply.status_code == 200, reply.text
    return ended(server)


def test_a_batch_does_all_thick_scans_whatever_one_of_them_does(
    own: Any, scans: Any, refused: Refused
) -> None:
    """Without parameters: MONAI Label's defaults ask for a GPU, be there one or not."""
    (own.studies / "broken.nii.gz").write_bytes(scans.corrupt.read_bytes())
    for source in (scans.nrrd, scans.thin):
        shutil.copy(source, own.studies)
    for image in ("broken", "oblique", "thin"):
        appears(own, image)
    # Its header is fine, its voxels are cut short: only reading all of it tells.
    own.put("/datastore/image/info?image=broken", data={"info": '{"domain": "LR"}'})
    reply = own.post("/batch/infer/srcyc")
    assert reply.status_code == 200, reply.text
    assert own.get("/batch/infer?check_if_running=true").status_code in (200, 404)
    if own.kind == "srcyc":
        refused(own.post("/batch/infer/srcyc"), 429)

    task = ended(own)
    said = "\n".join(task["details"])
    assert task["status"] == "DONE", said
    assert "head: written" in said and "oblique: written" in said
    assert "broken: refused" in said
    assert "thin" not in said, "thin scans need nothing"
    for image in ("head_sr", "oblique_sr"):
        appears(own, image)
        assert objects(own)[image]["image"]["info"]["domain"] == "SR"
    if own.kind == "srcyc":
        # Done is done; results are no scans.
        said = "\n".join(batch(own)["details"])
        assert "head: skipped" in said and "oblique: skipped" in said
        assert "head_sr:" not in said
    own.wait_for(lambda: not own.children(), "leave no process behind")
    assert own.client.info()["datastore"]["domains"]["SR"] == 2
    for image in ("head_sr", "oblique_sr", "oblique", "thin", "broken"):
        remove(own, image)


def test_labels_are_kept_as_monai_label_does(own: Any, scans: Any) -> None:
    """Nothing here makes or uses them, but a client may store some."""
    told = own.client.save_label("head", str(scans.nifti), tag="reader-1", params={"note": "x"})
    assert told["image"] == "head"
    assert Path(own.client.download_label("head", "reader-1")).read_bytes() == scans.nifti.read_bytes()
    assert own.get("/datastore/label/info?label=head&tag=reader-1").json()["note"] == "x"
    assert own.delete("/datastore/label?id=head&tag=reader-1").status_code == 200
    assert own.get("/datastore/label?label=head&tag=reader-1").status_code == 404


@by_itself
def test_the_state_survives_a_restart(own: Any) -> None:
    own.put("/datastore/image/info?image=head", data={"info": '{"domain": "neither", "person": "p9"}'})
    own.kill()
    own.restart()
    try:
        assert info(own, "head")["domain"] == "neither"
        assert info(own, "head")["person"] == "p9"
    finally:
        own.put("/datastore/image/info?image=head", data={"info": '{"domain": ""}'})
