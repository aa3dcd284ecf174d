"""A model exported as a bundle of MONAI, run by MONAI's own command."""

from __future__ import annotations

import hashlib
import json
import re
import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from factories import OBLIQUE_AXES, make_affine, make_head, save_model, save_series
from srcyc import SuperResolver, read_volume, write_volume

pytest.importorskip("monai", reason="MONAI is not installed (extra monai)")

#: What MONAI's schema of metadata.json (meta_schema_20240725) requires.
REQUIRED = {
    *("schema", "version", "monai_version", "pytorch_version", "numpy_version", "required_packages_version"),
    *("task", "description", "authors", "copyright", "network_data_format"),
}
TENSOR = {"type", "format", "num_channels", "spatial_shape", "dtype", "value_range"}


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_model(tmp_path_factory.mktemp("model") / "tiny.safetensors")


@pytest.mark.slow
def test_monai_s_command_gives_the_library_s_voxels(
    srcyc, tiny: Path, repository: Path, tmp_path: Path
) -> None:
    """The command of docs/python.md, in the folder that it speaks of."""
    bundle = tmp_path / "bundle"
    ran = srcyc("models", tiny, "--bundle", bundle)
    assert ran.code == 0, ran.err
    scans, results = tmp_path / "scans", tmp_path / "thin"
    head = make_head((20, 22, 6), make_affine(OBLIQUE_AXES, (1, 1, 4)))
    write_volume(head, scans / "head.nii.gz", dtype=np.int16)
    save_series(head, scans / "series")
    page = (repository / "docs" / "python.md").read_text(encoding="utf-8")
    (line,) = re.findall(r"^python (-m monai\.bundle run .*)$", page, re.MULTILINE)
    command = [sys.executable, *shlex.split(line), "--target_spacing", "1.0"]
    done = subprocess.run(command, cwd=bundle, capture_output=True, text=True, timeout=200, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    resolver = SuperResolver.load(tiny, device="cpu")
    for name in ("head.nii.gz", "series"):
        result = read_volume(results / f"{name.removesuffix('.nii.gz')}_sr.nii.gz")
        wanted = resolver(read_volume(scans / name), target_spacing=1.0).volume
        assert result.shape == (20, 22, 24)
        np.testing.assert_array_equal(result.data, wanted.data)
        np.testing.assert_allclose(result.affine, wanted.affine, atol=1e-4)


def test_what_a_bundle_holds_is_what_monai_asks_for(srcyc, tiny: Path, tmp_path: Path) -> None:
    from monai.bundle import ConfigWorkflow

    bundle = tmp_path / "bundle"
    card = srcyc("models", tiny, "--bundle", bundle, "--json").json
    (tmp_path / "scans").mkdir()

    configs = bundle / "configs"
    metadata = json.loads((configs / "metadata.json").read_text())
    assert metadata.keys() >= REQUIRED
    for side in ("inputs", "outputs"):
        for tensor in metadata["network_data_format"][side].values():
            assert tensor.keys() >= TENSOR
    # MONAI's own list of what a workflow for inference has to name, and where.
    workflow = ConfigWorkflow(
        str(configs / "inference.json"),
        meta_file=str(configs / "metadata.json"),
        logging_file=False,
        workflow_type="infer",
        bundle_root=str(bundle),
        dataset_dir=str(tmp_path / "scans"),
    )
    workflow.initialize()
    assert workflow.check_properties() == []
    weights = (bundle / "models" / "model.safetensors").read_bytes()
    assert hashlib.sha256(weights).hexdigest() == card["sha256"]
    assert "Apache License" in (bundle / "LICENSE").read_text()
    assert card["title"] in (bundle / "docs" / "README.md").read_text()


def test_every_wish_is_a_key_of_the_configuration(repository: Path) -> None:
    """But for maps, which an inferer does not give."""
    from srcyc.inference.options import InferenceOptions

    text = (repository / "lib" / "srcyc" / "models" / "bundle_inference.json").read_text()
    configuration = json.loads(text)
    for name, field in InferenceOptions.model_fields.items():
        if name not in ("uncertainty", "correction_map"):
            assert configuration[name] == field.default
            assert configuration["inferer"][name] == f"@{name}"


def test_a_folder_that_is_there_is_kept(srcyc, tiny: Path, tmp_path: Path) -> None:
    ran = srcyc("models", tiny, "--bundle", tmp_path)
    assert ran.code == 2
    assert str(tmp_path) in ran.sentence and "exists" in ran.sentence
    assert list(tmp_path.iterdir()) == []
    ran = srcyc("models", "--bundle", tmp_path / "new")
    assert ran.code == 2
    assert "--bundle" in ran.sentence
