"""Any arrangement of a series is the same volume, or refused; any damage is one sentence."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

import numpy as np
import pytest
from dicom_files import NORMAL, ORIGIN, make_enhanced, make_series, pixels, save
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from srcyc.errors import VolumeError
from srcyc.volumes.dicom import list_series
from srcyc.volumes.volume import find_volumes, read_volume

SLICES = 6
FOLDERS = ("", "a", "b/c", "b")

few = settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])


@few
@given(
    order=st.permutations(range(SLICES)),
    folders=st.lists(st.sampled_from(FOLDERS), min_size=SLICES, max_size=SLICES),
    suffix=st.sampled_from(["", ".dcm", ".IMA"]),
    copies=st.sets(st.integers(0, SLICES - 1), max_size=2),
    lost=st.sets(st.integers(0, SLICES - 1), max_size=2),
)
def test_any_arrangement(
    order: list[int], folders: list[str], suffix: str, copies: set[int], lost: set[int]
) -> None:
    kept = [number for number in range(SLICES) if number not in lost]
    whole = kept == list(range(kept[0], kept[-1] + 1))
    with tempfile.TemporaryDirectory() as name:
        root = Path(name) / "root"
        slices = make_series(SLICES)
        for place, number in enumerate(order):
            if number in lost:
                continue
            folder = root / folders[number]
            folder.mkdir(parents=True, exist_ok=True)
            save(folder, [slices[number]], [f"IM{place:04d}{suffix}"])
            if number in copies:
                file = folder / f"IM{place:04d}{suffix}"
                shutil.copy(file, root / f"Copy of {file.name}")
        (address,) = find_volumes(root)
        if not whole:
            with pytest.raises(VolumeError, match="missing or irregular"):
                read_volume(address)
            return
        volume = read_volume(address)
        np.testing.assert_array_equal(
            volume.data[0], np.stack([pixels(number).T for number in kept], axis=-1)
        )
        first = np.diag([-1.0, -1.0, 1.0]) @ (ORIGIN + kept[0] * 6.0 * NORMAL)
        np.testing.assert_allclose(volume.affine[:3, 3], first, atol=1e-6)
        assert ("exact copies" in "".join(volume.warnings)) == bool(copies - lost)


edits = st.lists(
    st.tuples(
        st.sampled_from(["change", "cut", "insert"]), st.floats(0, 1), st.binary(min_size=1, max_size=6)
    ),
    min_size=1,
    max_size=8,
)


@few
@given(enhanced=st.booleans(), edits=edits)
def test_any_damage_is_one_sentence(enhanced: bool, edits: list[tuple[str, float, bytes]]) -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = save(Path(name) / "series", [make_enhanced()] if enhanced else make_series())
        victim = sorted(folder.iterdir())[-1]
        data = bytearray(victim.read_bytes())
        for kind, share, content in edits:
            place = int(share * min(len(data) - 1, 2500))
            end = place + len(content)
            data[place : place if kind == "insert" else end] = b"" if kind == "cut" else content
        victim.write_bytes(data)
        list_series(folder)
        for address in (folder, *find_volumes(folder)):
            try:
                read_volume(address)
            except VolumeError as error:
                assert "\n" not in str(error)
                assert str(folder) in str(error)
