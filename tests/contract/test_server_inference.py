"""Inference through real servers, both of them: what goes in, what comes out, where it lies in the world."""

from __future__ import annotations

import io
import json
import re
import shlex
import shutil
import subprocess
import zipfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from monailabel.client import MONAILabelClient
from monailabel.client.client import MONAILabelClientException
from requests_toolbelt import MultipartDecoder

from srcyc.models.model_file import DEFAULT_MODEL
from srcyc.volumes.volume import Volume, read_volume, write_volume

pytestmark = pytest.mark.slow

#: Two processes round alike but for the last bits: their tiles and threads may differ.
CLOSE = {"rtol": 1e-4, "atol": 0.05}
FP32 = {"device": "cpu", "precision": "fp32"}
CLI_FP32 = ("--device", "cpu", "--precision", "fp32")


def check_same_field_of_view(volume, scan) -> None:
    np.testing.assert_allclose(volume.grid.field_of_view, scan.grid.field_of_view, atol=2e-3)


# -- what is told ----------------------------------------------------------------------------------------------------


def test_info_is_what_clients_expect(server):
    info = server.client.info()
    assert info["name"] == "SRCyc"
    assert info["labels"] == []
    model = info["models"]["srcyc"]
    assert model["type"] == "others"
    assert model["dimension"] == 3
    config = model["config"]
    assert config["weights"][0] == "tiny", "what was retrained here comes first"
    assert config["result_extension"][0] == ".nrrd"
    for key, value in config.items():
        # The option table of MONAI Label's plugin for 3D Slicer knows these.
        assert isinstance(value, str | bool | int | float | list), key
        assert not isinstance(value, list) or all(isinstance(item, str) for item in value), key
    card = model["cards"]["tiny"]
    assert card["origin"] == "retrained"
    assert len(card["sha256"]) == 64
    assert "srcyc" in info["trainers"]
    stats = info["train_stats"]["srcyc"]
    assert not stats or stats.get("total_epochs", 1) >= 1
    assert {"total", "completed"} <= info["datastore"].keys()
    assert info["datastore"]["completed"] >= 5, "scans that training can use"
    assert list(info["strategies"]), "Next Sample needs one"
    assert info["scoring"] == {}, "each would be a process after every training"


def test_info_shows_the_models_that_come_with_srcyc(srcyc_server):
    model = srcyc_server.client.info()["models"]["srcyc"]
    assert DEFAULT_MODEL in model["config"]["weights"]
    assert model["cards"][DEFAULT_MODEL]["origin"] == "packaged"


# -- ways in -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("image", ["head", "oblique", "signed", "series"])
def test_a_scan_by_its_id_equals_the_command_line(server, scans, command_line, image):
    path = {"head": scans.nifti, "oblique": scans.nrrd, "signed": scans.mha, "series": scans.series}[image]
    expected, sidecar = command_line(path, "--device", "cpu", "--precision", "fp32")
    file, params = server.client.infer("srcyc", image, dict(FP32))
    assert Path(file).suffix == ".nrrd"
    volume = read_volume(file)
    np.testing.assert_allclose(volume.affine, expected.affine, atol=1e-4)
    assert volume.data.dtype == np.float32
    np.testing.assert_allclose(volume.data, expected.data, **CLOSE)
    assert params["model"] == sidecar["model"]
    assert params["input"]["shape"] == sidecar["input"]["shape"]
    assert params["result"] == sidecar["result"]
    assert params["input"]["name"] == path.name
    changing = {"output", "output_type", "seconds", "peak_memory"}
    assert set(sidecar) - set(params) <= changing
    json.dumps(params, allow_nan=False)


@pytest.mark.parametrize("kind", ["nifti", "nrrd", "mha", "archive"])
def test_a_scan_sent_with_the_request(server, scans, command_line, kind):
    path = getattr(scans, kind)
    source = scans.series if kind == "archive" else path
    expected, _ = command_line(source, "--device", "cpu", "--precision", "fp32")
    before = server.client.datastore()["objects"].keys()
    file, params = server.client.infer("srcyc", "", dict(FP32), file=str(path))
    np.testing.assert_allclose(read_volume(file).affine, expected.affine, atol=1e-4)
    np.testing.assert_allclose(read_volume(file).data, expected.data, **CLOSE)
    assert params["result"]["shape"] == list(expected.shape)
    volume = server.volume(server.infer(file=path, **FP32))
    np.testing.assert_allclose(volume.data, expected.data, **CLOSE)
    assert server.client.datastore()["objects"].keys() == before, "it does not enter the datastore"


def test_the_sender_s_path_does_not_come_back(srcyc_server, scans):
    """MONAI Label's client sends the whole path as the file's name; the server's own is nobody's business either."""
    _, params = srcyc_server.client.infer("srcyc", "", dict(FP32), file=str(scans.nifti))
    assert params["input"]["name"] == scans.nifti.name
    text = json.dumps(params)
    assert str(scans.folder) not in text
    assert str(srcyc_server.folder) not in text


@pytest.mark.parametrize("kind", ["nifti", "nrrd", "mha"])
def test_a_scan_in_a_session(server, scans, command_line, kind):
    path = getattr(scans, kind)
    expected, _ = command_line(path, "--device", "cpu", "--precision", "fp32")
    session = server.client.create_session(str(path))["session_id"]
    file, _ = server.client.infer("srcyc", "", dict(FP32), session_id=session)
    np.testing.assert_allclose(read_volume(file).data, expected.data, **CLOSE)
    assert server.client.get_session(session)["name"] == session
    image = server.get(f"/session/{session}?image=true")
    assert image.content == path.read_bytes()
    server.client.remove_session(session)
    with pytest.raises(MONAILabelClientException) as caught:
        server.client.get_session(session)
    assert caught.value.status_code == 404


@pytest.mark.parametrize("packed", [False, True], ids=["files", "zip"])
def test_a_dicom_series_in_a_session(server, scans, command_line, packed):
    expected, _ = command_line(scans.series, "--device", "cpu", "--precision", "fp32")
    if packed:
        sent = [("files", ("series.zip", scans.archive.read_bytes()))]
        reply = server.put("/session/?uncompress=true", files=sent)
    else:
        sent = [("files", (path.name, path.read_bytes())) for path in sorted(scans.series.iterdir())]
        reply = server.put("/session/", files=sent)
    assert reply.status_code == 200, reply.text
    volume = server.volume(server.infer(session=reply.json()["session_id"], **FP32))
    np.testing.assert_allclose(volume.affine, expected.affine, atol=1e-4)
    np.testing.assert_allclose(volume.data, expected.data, **CLOSE)


# -- ways out ----------------------------------------------------------------------------------------------------------


def test_outputs(server):
    one = server.infer("head", output="image", **FP32)
    assert "head" in one.headers["content-disposition"]
    assert ".nrrd" in one.headers["content-disposition"]
    volume = server.volume(one)
    told = server.infer("head", output="json", **FP32)
    assert told.headers["content-type"].startswith("application/json")
    assert told.json()["result"]["shape"] == list(volume.shape)
    for output in ("all", None):
        both = server.infer("head", output=output, **FP32)
        assert both.headers["content-type"].startswith("multipart/form-data")
        parts = MultipartDecoder.from_response(both).parts
        named = {
            part.headers[b"Content-Disposition"].split(b'name="')[1].split(b'"')[0]: part for part in parts
        }
        assert json.loads(named[b"params"].content)["result"]["shape"] == list(volume.shape)
        assert named[b"image"].content == one.content


@pytest.mark.parametrize("extension", [".nrrd", ".nii.gz", ".nii", ".mha"])
@pytest.mark.parametrize("dtype", ["float32", "int16", "uint16", "uint8", "input"])
def test_result_types_and_formats(srcyc_server, scans, extension, dtype):
    check_result(srcyc_server, scans, extension, dtype)


@pytest.mark.parametrize(
    ("extension", "dtype"), [(".nii.gz", "int16"), (".mha", "input"), (".nii", "float32")]
)
def test_result_types_and_formats_stock(stock_server, scans, extension, dtype):
    check_result(stock_server, scans, extension, dtype)


def check_result(server, scans, extension, dtype):
    reply = server.infer("head", result_extension=extension, result_dtype=dtype, **FP32)
    volume = server.volume(reply, extension)
    assert volume.stored_dtype == np.dtype("int16" if dtype == "input" else dtype)
    check_same_field_of_view(volume, read_volume(scans.nifti))
    assert volume.shape == (24, 26, 32)
    # Read by somebody else, too. (ITK reads NAME.nii where NAME.nii.gz is asked for and both are there.)
    path = server.answers / f"other_{extension.count('.')}{extension}"
    path.write_bytes(reply.content)
    image = sitk.ReadImage(str(path))
    assert image.GetSize() == (24, 26, 32)
    np.testing.assert_allclose(sitk.GetArrayFromImage(image).T, volume.data[0], atol=1e-3)


@pytest.mark.parametrize(("dtype", "low", "high"), [("int16", -32768, 32767), ("uint8", 0, 255)])
def test_integers_are_limited_not_wrapped(server, dtype, low, high):
    plain, file = {**FP32, "consistency": False}, {**FP32, "consistency": False, "result_dtype": dtype}
    truth = server.volume(server.infer("steep", **plain)).data
    assert truth.max() > high and truth.min() < low, "the phantom must overshoot, or nothing is tested"
    volume = server.volume(server.infer("steep", **file))
    np.testing.assert_allclose(volume.data, np.clip(np.rint(truth), low, high), atol=1)
    params = server.infer("steep", output="json", **file).json()
    assert any(dtype in warning for warning in params["warnings"])


def test_lists_and_strings_count_alike(server):
    """The stock client sends `config()` back as it is, 3D Slicer sends the item chosen; both as strings at times."""
    config = server.client.info()["models"]["srcyc"]["config"]
    told = [
        server.infer("head", output="json", **config),
        server.infer("head", output="json", weights="tiny", consistency="true", result_dtype=["float32"]),
        server.infer("head", output="json"),
    ]
    for reply in told:
        assert reply.status_code == 200, reply.text
        assert reply.json()["model"]["name"] == "tiny"
        assert reply.json()["result"] == told[0].json()["result"]


@pytest.mark.parametrize("spacing", ["2", 2, "1,1,2", [1, 1, 2]])
def test_target_spacing(server, spacing):
    told = server.infer("head", output="json", target_spacing=spacing, **FP32)
    assert told.status_code == 200, told.text
    assert told.json()["result"]["spacing"] == pytest.approx([1, 1, 2])


@pytest.mark.parametrize("thickness", ["2.5", 2.5, [2.5]])
def test_the_slice_thickness_can_be_stated(server, thickness):
    told = server.infer("head", output="json", slice_thickness=thickness, **FP32)
    assert told.status_code == 200, told.text
    assert told.json()["thickness"] == {"millimetres": 2.5, "ratio": 0.625, "source": "stated"}


def test_slices_are_corrected_unless_that_is_switched_off(server, scans, command_line):
    told = server.infer("head", output="json", **FP32).json()
    assert told["thickness"] == {"millimetres": 3.2, "ratio": 0.8, "source": "assumed"}
    assert told["consistency"]["slices_corrected"]
    assert told["consistency"]["correction"] > 1e-3
    exact = server.infer("head", correct_slices="false", **FP32)
    expected, sidecar = command_line(
        scans.nifti, "--device", "cpu", "--precision", "fp32", "--no-correct-slices"
    )
    assert not sidecar["consistency"]["slices_corrected"]
    np.testing.assert_allclose(server.volume(exact).data, expected.data, **CLOSE)


def test_the_map_of_the_correction_is_a_session(server, scans):
    told = server.infer("head", output="json", correction_map=True, **FP32).json()
    volume = server.volume(server.get(f"/session/{told['correction_session']}?image=true"))
    scan = read_volume(scans.nifti)
    assert volume.shape == scan.shape
    check_same_field_of_view(volume, scan)
    assert volume.data.min() < 0 < volume.data.max()


def test_a_label_map_comes_along(server, scans, command_line, refused, tmp_path):
    scan = read_volume(scans.nifti)
    marked = np.digitize(scan.data, [300, 600]).astype(np.float32)
    labels = write_volume(replace(scan, data=marked), tmp_path / "seg.nii.gz", dtype=np.uint8)
    made, sidecar = command_line(scans.nifti, *CLI_FP32, "--labels", str(labels))
    expected = read_volume(made.source.with_name(sidecar["labels"]))
    _, told = server.client.infer("srcyc", "head", dict(FP32), label_in=str(labels))
    assert told["options"] == sidecar["options"] and told["options"]["labels"]
    got = server.volume(server.get(f"/session/{told['labels_session']}?image=true"))
    np.testing.assert_array_equal(got.data, expected.data)
    np.testing.assert_allclose(got.affine, expected.affine, atol=1e-4)
    assert (got.stored_dtype, set(np.unique(got.data))) == (np.uint8, {0, 1, 2})
    # What is none, lies elsewhere, or is not there.
    away = scan.affine + np.pad([[1000.0]], ((0, 3), (3, 0)))
    elsewhere = write_volume(Volume(marked, away), tmp_path / "away.nii.gz", dtype=np.uint8)
    for wrong, says in ((scans.nifti, "no labels"), (elsewhere, "outside")):
        files = {"label": (wrong.name, wrong.read_bytes())}
        refused(server.post("/infer/srcyc?image=head", files=files), 422, says=says)
    refused(server.infer(file=scans.nifti, labels="final"), 422, says="label")


def test_options_are_described(server):
    model = server.client.info()["models"]["srcyc"]
    assert model["options"].keys() == model["config"].keys()
    assert model["options"]["slice_thickness"]["label"] == "Slice thickness (mm)"
    assert model["config"]["slice_thickness"] == ""


def test_uncertainty_is_a_session(server, scans):
    told = server.infer("head", output="json", uncertainty=True, **FP32).json()
    image = server.get(f"/session/{told['uncertainty_session']}?image=true")
    volume = server.volume(image)
    assert list(volume.shape) == told["result"]["shape"]
    check_same_field_of_view(volume, read_volume(scans.nifti))
    assert volume.data.min() >= 0
    assert volume.data.max() > 0


# -- geometry ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("way", ["id", "file", "session"])
@pytest.mark.parametrize("extension", [".nrrd", ".nii.gz", ".mha"])
def test_a_marker_stays_at_its_place_in_the_world(server, scans, blob, way, extension):
    scan = read_volume(scans.marker)
    options = {"result_extension": extension, **FP32}
    if way == "id":
        reply = server.infer("marker", **options)
    elif way == "file":
        reply = server.infer(file=scans.marker, **options)
    else:
        session = server.client.create_session(str(scans.marker))["session_id"]
        reply = server.infer(session=session, **options)
    thin = server.volume(reply, extension)
    assert max(thin.spacing) < 1.2 * min(scan.spacing)
    check_same_field_of_view(thin, scan)

    def centroid(data: np.ndarray) -> np.ndarray:
        weight = np.clip(data[0] - 0.1 * data.max(), 0, None).astype(np.float64)
        index = np.stack(np.meshgrid(*map(np.arange, thin.shape), indexing="ij"), axis=-1)
        return (thin.grid.index_to_world(index) * weight[..., None]).sum(axis=(0, 1, 2)) / weight.sum()

    # Of the ball on this very grid: the field of view cuts neither.
    truth = centroid(blob(thin, scans.centre, 4.4))
    assert np.linalg.norm(centroid(thin.data) - truth) < 0.5 * min(thin.spacing)
    # The same voxel lies at the same place for another reader, which counts in LPS.
    path = server.answers / f"marker{extension}"
    path.write_bytes(reply.content)
    image = sitk.ReadImage(str(path))
    brightest = np.unravel_index(thin.data[0].argmax(), thin.shape)
    there = np.array(image.TransformIndexToPhysicalPoint([int(i) for i in brightest])) * (-1, -1, 1)
    np.testing.assert_allclose(there, thin.grid.index_to_world(np.array(brightest)), atol=1e-2)


# -- models ------------------------------------------------------------------------------------------------------------


def test_a_model_that_comes_with_srcyc(srcyc_server, scans, command_line):
    expected, sidecar = command_line(
        scans.nifti, "--device", "cpu", "--precision", "fp32", model=DEFAULT_MODEL
    )
    file, params = srcyc_server.client.infer("srcyc", "head", {"weights": DEFAULT_MODEL, **FP32})
    assert params["model"] == sidecar["model"]
    np.testing.assert_allclose(read_volume(file).data, expected.data, **CLOSE)


def test_without_a_published_model_nothing_is_made_up(stock_server, refused):
    """This server offers no packaged models, so it has one model only, and for a moment none."""
    place, aside = stock_server.model_dir / "tiny.safetensors", stock_server.folder / "aside"
    shutil.move(place, aside)
    try:
        for reply in (stock_server.infer("head"), stock_server.infer("head", weights="tiny")):
            refused(reply, 404, 409, 422, says="model")
        assert stock_server.client.info()["models"]["srcyc"]["config"]["weights"] == []
    finally:
        shutil.move(aside, place)
    assert stock_server.infer("head", output="json").status_code == 200, "it is noticed without a restart"


def test_a_damaged_model_is_named(server, refused):
    broken = server.model_dir / "broken.safetensors"
    broken.write_bytes((server.model_dir / "tiny.safetensors").read_bytes()[:300])
    try:
        # Newer than any other, but nobody is served with it unless asked for.
        info = server.client.info()["models"]["srcyc"]
        assert "error" in info["cards"]["broken"]
        sentence = refused(server.infer("head", weights="broken"))
        assert "broken" in sentence
        assert str(server.model_dir) not in sentence, "where files lie is none of the client's business"
        assert server.infer("head", output="json", weights="tiny").status_code == 200
        assert server.infer("head", output="json").json()["model"]["name"] == "tiny"
    finally:
        broken.unlink()


# -- refusals ----------------------------------------------------------------------------------------------------------

BAD_PARAMS = {
    "unknown model": ({"weights": "nothing"}, "nothing"),
    "a path as model": ({"weights": "/etc/passwd"}, "model"),
    "spacing in words": ({"target_spacing": "fine"}, "target_spacing"),
    "spacing zero": ({"target_spacing": 0}, "spacing"),
    "spacing negative": ({"target_spacing": -1}, "spacing"),
    "spacing NaN": ({"target_spacing": "nan"}, "spacing"),
    "spacing minute": ({"target_spacing": 1e-9, "force": True}, ""),
    "spacing coarse": ({"target_spacing": 20}, ""),
    "two spacings": ({"target_spacing": "1,2"}, "spacing"),
    "type": ({"result_dtype": "float16"}, "result_dtype"),
    "extension": ({"result_extension": ".exe"}, "result_extension"),
    "extension with a path": ({"result_extension": "/../../x.nrrd"}, "result_extension"),
    "device": ({"device": "cuda:99"}, "cuda:99"),
    "no device": ({"device": "toaster"}, "toaster"),
    "precision": ({"precision": "fp7"}, "precision"),
    "switch": ({"consistency": "perhaps"}, "consistency"),
    "thickness in words": ({"slice_thickness": "thick"}, "slice_thickness"),
    "thickness negative": ({"slice_thickness": -1}, "slice_thickness"),
    "thickness of nothing": ({"slice_thickness": 0}, "slice_thickness"),
    "thickness beyond the distance": ({"slice_thickness": 40}, "thickness"),
    "object": ({"n4": {"a": 1}}, "n4"),
}


@pytest.mark.parametrize("name", BAD_PARAMS)
def test_params_that_cannot_be_met(server, refused, name):
    params, word = BAD_PARAMS[name]
    refused(server.infer("head", **params), says=word)


def test_scans_that_cannot_be_used(server, scans, refused):
    refused(server.infer("nobody"), 404, says="nobody")
    refused(server.infer("thin"), 409, 422)
    sentence = refused(server.infer(file=scans.corrupt), 422)
    assert str(server.folder) not in sentence
    assert "corrupt.nii.gz" in sentence or server.kind == "stock"


def test_the_client_shows_the_sentence(server):
    with pytest.raises(MONAILabelClientException) as caught:
        server.client.infer("srcyc", "nobody", {})
    assert "nobody" in caught.value.msg


def test_a_model_that_is_not_there(server, refused):
    refused(server.post("/infer/deepedit?image=head", data={"params": "{}"}), 404, says="deepedit")


# -- afterwards --------------------------------------------------------------------------------------------------------


def test_no_temporary_file_is_left(srcyc_server, scans):
    """After everything above, and after replies of every kind."""
    for output in ("image", "json", "all"):
        assert srcyc_server.infer("head", output=output).status_code == 200
        assert srcyc_server.infer(file=scans.archive, output=output).status_code == 200
    srcyc_server.infer(file=scans.corrupt)
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("readme.txt", "no scan")
    srcyc_server.post("/infer/srcyc", files={"file": ("x.zip", buffer.getvalue())})
    srcyc_server.wait_for(lambda: not srcyc_server.temporary_files(), "remove its temporary files")


def test_a_server_in_use_speaks_to_another_client(srcyc_server):
    """Several clients, each with its own name, as several 3D Slicers are."""
    for name in ("one", "two"):
        client = MONAILabelClient(srcyc_server.url, tmpdir=str(srcyc_server.answers), client_id=name)
        _, params = client.infer("srcyc", "head", dict(FP32))
        assert params["model"]["name"] == "tiny"


@pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not on PATH")
def test_the_request_that_the_readme_shows(srcyc_server, repository, scans, tmp_path):
    """As it stands in README.md but for the port and the scan."""
    readme = (repository / "README.md").read_text(encoding="utf-8")
    (line,) = re.findall(r"^curl .*/infer/srcyc.*$", readme, re.MULTILINE)
    line = line.replace("http://127.0.0.1:8000", srcyc_server.url).replace("brain1_image", "head")
    subprocess.run([*shlex.split(line), "--silent", "--fail"], cwd=tmp_path, check=True, timeout=120)
    check_same_field_of_view(read_volume(tmp_path / "thin.nrrd"), read_volume(scans.nifti))
