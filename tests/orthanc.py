"""A real Orthanc with DICOMweb and a DICOM port, in a folder of its own."""

from __future__ import annotations

import json
import shutil
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest
import requests

from factories import free_port

PLUGIN = Path("/usr/share/orthanc/plugins/libOrthancDicomWeb.so")
AET = "ORTHANC"


class Orthanc:
    """One PACS; ``**config`` overrides its configuration."""

    def __init__(self, folder: Path, **config: Any) -> None:
        program = shutil.which("Orthanc")
        if program is None or not PLUGIN.exists():
            pytest.skip("needs Orthanc with its DICOMweb plug-in (Debian: orthanc-dicomweb)")
        self.folder, self.port, self.dicom_port = folder, free_port(), free_port()
        self._program = program
        self._config = {
            "StorageDirectory": str(folder / "db"),
            "IndexDirectory": str(folder / "db"),
            "HttpPort": self.port,
            "DicomPort": self.dicom_port,
            "DicomAet": AET,
            "DicomAlwaysAllowStore": True,
            "DicomAlwaysAllowGet": True,
            "AuthenticationEnabled": False,
            "Plugins": [str(PLUGIN)],
            "DicomWeb": {"Enable": True, "Root": "/dicom-web/"},
            **config,
        }
        self._auth = next(iter(config.get("RegisteredUsers", {}).items()), None)
        self.process: subprocess.Popen[bytes] | None = None
        self.start()

    @property
    def root(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def web(self) -> str:
        return f"{self.root}/dicom-web"

    def start(self, **config: Any) -> None:
        self._config |= config
        (self.folder / "orthanc.json").write_text(json.dumps(self._config))
        with (self.folder / "log").open("ab") as log:
            self.process = subprocess.Popen(
                [self._program, self.folder / "orthanc.json"],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        give_up = time.monotonic() + 120
        while True:
            try:
                self.get("/system")
                return
            except (requests.ConnectionError, requests.Timeout):
                log_text = (self.folder / "log").read_text()
                assert self.process.poll() is None and time.monotonic() < give_up, log_text
                time.sleep(0.1)

    def stop(self) -> None:
        if self.process is not None:
            self.process.terminate()
            self.process.wait(120)

    def get(self, path: str) -> Any:
        answer = requests.get(self.root + path, timeout=30, auth=self._auth)
        answer.raise_for_status()
        return answer.json()

    def put(self, folder: Path) -> None:
        """Store the files of a folder."""
        for file in sorted(folder.iterdir()):
            answer = requests.post(
                f"{self.root}/instances", data=file.read_bytes(), timeout=120, auth=self._auth
            )
            answer.raise_for_status()

    def series(self) -> dict[str, int]:
        """How many instances there are of each series, by its UID."""
        return {
            one["MainDicomTags"]["SeriesInstanceUID"]: len(one["Instances"])
            for one in self.get("/series?expand")
        }
