from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np


def test_domains_are_listed_with_reasons(
    srcyc: Callable[..., Any], phantom: Callable[..., np.ndarray], tmp_path: Path
) -> None:
    paths = []
    for person, shape, thick in (("a", (40, 44, 48), 1), ("b", (40, 40, 12), 4)):
        paths.append(tmp_path / f"sub-{person}_T1w.nii.gz")
        nib.save(nib.Nifti1Image(phantom(shape)[0], np.diag([1, 1, thick, 1])), paths[-1])
    paths.append(tmp_path / "broken.nii.gz")
    paths[-1].write_bytes(b"no image")
    listed = srcyc("domains", *paths, "--json").json
    assert [entry["domain"] for entry in listed] == ["HR", "LR", "neither"]
    assert "4.0 times thicker" in listed[1]["reason"]
    assert "broken.nii.gz" in listed[2]["reason"]
    ran = srcyc("domains", *paths)
    assert ran.code == 0
    assert "sub-b" in ran.out
