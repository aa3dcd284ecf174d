"""Schemathesis reads our server's own description of itself and sends whatever it allows, and what it does not."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

#: In an environment of its own: it needs a `jsonschema` that MONAI Label's requirements exclude.
TOOL = Path(sys.prefix) / "schemathesis" / "bin" / "schemathesis"
CHECKS = (
    "not_a_server_error",
    "status_code_conformance",
    "content_type_conformance",
    "response_headers_conformance",
    "response_schema_conformance",
)
#: Ids that exist, so that not every request ends with 404.
CONFIG = """
[[operations]]
include-path-regex = "^/(infer|train|batch/infer)/"
parameters = { model = ["srcyc"], image = ["head", "thin"] }

[[operations]]
include-path-regex = "^/datastore/"
parameters = { image = ["head", "thin"] }
"""


@pytest.mark.slow
@pytest.mark.parametrize("seconds", [8, pytest.param(180, marks=pytest.mark.exhaustive)])
def test_no_request_breaks_the_server_or_its_promises(serve, studies_of, tiny_model, tmp_path, seconds):
    if not TOOL.exists():
        pytest.skip(f"needs Schemathesis in {TOOL.parents[1]}: make fuzzer")
    server = serve("srcyc", studies_of("nifti", "thin"), "--allow-model-files", model=tiny_model)
    (tmp_path / "schemathesis.toml").write_text(CONFIG)
    command = [
        *(TOOL, "run", f"{server.url}/openapi.json"),
        *("--phases", "coverage,fuzzing", "--max-time", seconds, "--seed", 1),
        *("--checks", ",".join(CHECKS), "--suppress-health-check", "all", "--warnings", "off"),
        *("--request-timeout", 60, "--continue-on-failure"),
    ]
    ran = subprocess.run(
        [str(word) for word in command], cwd=tmp_path, capture_output=True, text=True, timeout=600
    )
    assert ran.returncode == 0, ran.stdout[-5000:] + ran.stderr[-2000:]
    assert "Traceback" not in server.log
    # It still works.
    assert server.client.info()["name"] == "SRCyc"
