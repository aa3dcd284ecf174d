"""Real slice views, drawn off-screen: a result lies where its scan lies, and shows more than it."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter

from srcyc.volumes.volume import Volume, read_volume, write_volume

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[3]
HARNESS = ROOT / "tests" / "harness"

#: Pixels of a view.
SIZE = 240

CODE = """
import sys
from pathlib import Path
import numpy as np
import slice_view_pictures
drawn = {}
for case in sys.argv[2:]:
    name, scan, result = case.split("|")
    pictures = slice_view_pictures.Pictures(Path(scan), Path(result), size=(SIZE, SIZE))
    drawn[name] = np.stack(pictures.side_by_side())
    if name == "straight":
        drawn["fade 0"], drawn["fade 1"] = (np.stack(pictures.faded(share)) for share in (0.0, 1.0))
np.savez(sys.argv[1], **drawn)
""".replace("SIZE", str(SIZE))


def shifted(volume: Volume, millimetres: tuple[float, float, float]) -> Volume:
    """A volume at a wrong place."""
    affine = volume.affine.copy()
    affine[:3, 3] += millimetres
    return Volume(volume.data, affine)


def mirrored(volume: Volume) -> Volume:
    """A volume with its first axis the wrong way round."""
    return Volume(volume.data[:, ::-1].copy(), volume.affine)


@pytest.fixture(scope="module")
def drawn(
    scans: Any,
    blob: Callable[..., np.ndarray],
    command_line: Callable[..., Any],
    tmp_path_factory: pytest.TempPathFactory,
) -> dict[str, np.ndarray]:
    """Views of scans with their results, right and wrong: ``(6, height, width, 3)``, the scan's three first."""
    for package in ("slicer_core", "trame_slicer"):
        if importlib.util.find_spec(package) is None:
            pytest.skip(
                f"{package}: no wheel for this Python and platform, or the extra `slicer` is not installed"
            )
    folder = tmp_path_factory.mktemp("views")

    def lopsided(scan: Path) -> Path:
        """A head with a bright spot on one side: the mirror image of a head is a head."""
        volume = read_volume(scan)
        spot = blob(volume, volume.grid.index_to_world(np.array([6.0, 8.0, 2.0])), 3.0)
        return write_volume(Volume(volume.data + 1.5 * spot, volume.affine), folder / f"{scan.name[:4]}.nrrd")

    straight_scan, oblique_scan = lopsided(scans.nifti), lopsided(scans.nrrd)
    straight, oblique = command_line(straight_scan)[0], command_line(oblique_scan)[0]
    results = {
        "straight": (straight_scan, straight),
        "oblique": (oblique_scan, oblique),
        "shifted along x": (straight_scan, shifted(straight, (2.0, 0.0, 0.0))),
        "shifted along z": (straight_scan, shifted(straight, (0.0, 0.0, 3.0))),
        "oblique, shifted": (oblique_scan, shifted(oblique, (0.0, 2.0, 0.0))),
        "mirrored": (straight_scan, mirrored(straight)),
        "oblique, mirrored": (oblique_scan, mirrored(oblique)),
    }
    cases = []
    for name, (scan, result) in results.items():
        file = write_volume(result, folder / f"result-{name.replace(', ', '-').replace(' ', '-')}.nrrd")
        cases.append(f"{name}|{scan}|{file}")
    module = ROOT / "srcyc_app" / "slicer" / "SRCyc"
    path = os.pathsep.join([str(HARNESS), str(module), *filter(None, [os.environ.get("PYTHONPATH")])])
    # A process of its own: what draws off-screen and what shows windows do not go together everywhere.
    done = subprocess.run(
        [sys.executable, "-c", CODE, str(folder / "drawn.npz"), *cases],
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    with np.load(folder / "drawn.npz") as arrays:
        return dict(arrays)


def grey(picture: np.ndarray) -> np.ndarray:
    """Give a picture's brightness, from 0 to 1."""
    return picture.mean(axis=-1) / 255


def alike(scan: np.ndarray, result: np.ndarray) -> float:
    """Give the correlation of two pictures without the detail in which they may differ."""
    one, other = (gaussian_filter(grey(picture), SIZE / 40) for picture in (scan, result))
    return float(np.corrcoef(one.ravel(), other.ravel())[0, 1])


def offset(scan: np.ndarray, result: np.ndarray) -> float:
    """Give the distance, in parts of the picture, by which the second lies beside the first."""
    one, other = (gaussian_filter(grey(picture), SIZE / 40) for picture in (scan, result))
    one, other = one - one.mean(), other - other.mean()
    padded = (2 * SIZE, 2 * SIZE)
    fits = np.fft.irfft2(np.fft.rfft2(other, padded) * np.conj(np.fft.rfft2(one, padded)), padded)
    place = np.array(np.unravel_index(fits.argmax(), padded), dtype=float)
    place[place > SIZE] -= 2 * SIZE
    return float(np.hypot(*place)) / SIZE


def in_place(views: np.ndarray) -> bool:
    """Whether a result is seen where its scan is, in all three directions."""
    pairs = [(views[row], views[row + 3]) for row in range(3)]
    return all(alike(*pair) > 0.98 and offset(*pair) < 0.02 for pair in pairs)


@pytest.mark.parametrize("name", ["straight", "oblique"])
def test_a_result_is_seen_where_its_scan_is(drawn: dict[str, np.ndarray], name: str) -> None:
    views = drawn[name]
    assert views.shape == (6, SIZE, SIZE, 3)
    for view in views:
        assert grey(view).std() > 0.05, "an empty view"
    figures = [(alike(views[row], views[row + 3]), offset(views[row], views[row + 3])) for row in range(3)]
    assert in_place(views), figures


@pytest.mark.parametrize(
    "name", ["shifted along x", "shifted along z", "oblique, shifted", "mirrored", "oblique, mirrored"]
)
def test_a_wrong_result_is_seen(drawn: dict[str, np.ndarray], name: str) -> None:
    views = drawn[name]
    figures = [(alike(views[row], views[row + 3]), offset(views[row], views[row + 3])) for row in range(3)]
    assert not in_place(views), figures


def test_the_result_has_detail_that_the_scan_lacks(drawn: dict[str, np.ndarray]) -> None:
    """Across the slices, the scan is drawn in steps; the result changes from row to row."""

    def steps(picture: np.ndarray) -> float:
        """The share of rows, of those that are not black, that repeat the one above."""
        rows = grey(picture)
        lit = rows[rows.max(axis=1) > 0.05]
        return float((np.abs(np.diff(lit, axis=0)).max(axis=1) < 1e-3).mean())

    views = drawn["straight"]
    assert np.abs(grey(views[2]) - grey(views[5])).mean() > 0.002
    # The directions that cut through all slices come first.
    for row in (0, 1):
        scan, result = views[row], views[row + 3]
        assert steps(scan) > 2 * steps(result), (steps(scan), steps(result))
        assert np.abs(grey(scan) - grey(result)).mean() > 0.005


def test_the_fade_goes_from_scan_to_result(drawn: dict[str, np.ndarray]) -> None:
    scan, result = drawn["fade 0"], drawn["fade 1"]
    for row in range(3):
        assert alike(drawn["straight"][row], scan[row]) > 0.999
        assert alike(drawn["straight"][row + 3], result[row]) > 0.999
        assert np.abs(grey(scan[row]) - grey(result[row])).mean() > 0.002


def test_documentation_pictures_are_made(scans: Any, tmp_path: Path) -> None:
    if importlib.util.find_spec("trame_slicer") is None:
        pytest.skip(
            "trame-slicer: no wheel for this Python and platform, or the extra `slicer` is not installed"
        )
    script = HARNESS / "slice_view_pictures.py"
    arguments = [str(scans.nifti), str(scans.nifti), str(tmp_path), "--size", "120", "100"]
    subprocess.run([sys.executable, str(script), *arguments], check=True, capture_output=True, timeout=300)
    from matplotlib.image import imread

    assert imread(tmp_path / "side-by-side.png").shape[:2] == (202, 364)
    assert {path.name for path in tmp_path.glob("*.png")} >= {"fade.png", "scan-0.png", "result-2.png"}
