"""A real Orthanc behind our server: series are found, fetched, and super-resolved at the right place."""

from __future__ import annotations

import json
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import requests

from srcyc.volumes.volume import read_volume

PLUGIN = Path("/usr/share/orthanc/plugins/libOrthancDicomWeb.so")


@pytest.fixture(scope="module")
def orthanc(
    scans: Any, new_port: Callable[[], int], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[str]:
    """The address of a DICOMweb server with one oblique MR series."""
    program = shutil.which("Orthanc")
    if program is None or not PLUGIN.exists():
        pytest.skip("needs Orthanc with its DICOMweb plug-in (Debian: orthanc-dicomweb)")
    folder, port = tmp_path_factory.mktemp("orthanc"), new_port()
    config = {
        "StorageDirectory": str(folder / "db"),
        "IndexDirectory": str(folder / "db"),
        "HttpPort": port,
        "DicomServerEnabled": False,
        "AuthenticationEnabled": False,
        "Plugins": [str(PLUGIN)],
        "DicomWeb": {"Enable": True, "Root": "/dicom-web/"},
    }
    (folder / "orthanc.json").write_text(json.dumps(config))
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(
            [program, folder / "orthanc.json"], stdin=subprocess.DEVNULL, stdout=log, stderr=log
        )
    try:
        address = f"http://127.0.0.1:{port}"
        give_up = time.monotonic() + 120
        while True:
            try:
                requests.get(f"{address}/system", timeout=10).raise_for_status()
                break
            except requests.ConnectionError:
                assert process.poll() is None and time.monotonic() < give_up, (folder / "log").read_text()
                time.sleep(0.2)
        for file in sorted(scans.series.iterdir()):
            requests.post(f"{address}/instances", data=file.read_bytes(), timeout=60).raise_for_status()
        yield f"{address}/dicom-web"
    finally:
        process.terminate()
        process.wait(60)


@pytest.mark.slow
def test_a_series_is_super_resolved_as_from_its_folder(
    serve: Any, orthanc: str, scans: Any, command_line: Any, tiny_model: Path, refused: Any
) -> None:
    server = serve("srcyc", orthanc, model=tiny_model)
    info = server.client.info()
    assert info["datastore"]["total"] == 1
    (image,) = (
        series["0020000E"]["Value"][0]
        for series in requests.get(f"{orthanc}/series?Modality=MR", timeout=60).json()
    )
    expected, _ = command_line(scans.series, "--precision", "fp32")
    result = server.volume(server.infer(image, precision="fp32"))
    np.testing.assert_array_equal(result.data, expected.data)
    np.testing.assert_allclose(result.affine, expected.affine, atol=1e-9)
    np.testing.assert_allclose(
        result.grid.field_of_view, read_volume(scans.series).grid.field_of_view, atol=1e-3
    )
    refused(server.infer("1.2.3"), 404)
    refused(server.infer("../1.2.3"), 404, 422)
    refused(server.infer(image, store=True), 422, says="studies folder")
    refused(
        server.put("/datastore/image/info", params={"image": image}, data={"info": '{"domain": "HR"}'}), 404
    )
    refused(server.post("/train/srcyc", json={}), 422, says="HR")
