from __future__ import annotations

import matplotlib.image
import nibabel as nib
import numpy as np
import pytest
from scipy import ndimage

from srcyc.errors import OutputError
from srcyc.evaluation.figure import Panel, comparison_figure, preview_figure, thick_scan_figure
from srcyc.physics.simulation import simulate_thick
from srcyc.volumes.volume import Volume

RAS = np.diag([1.0, 1.0, 1.2, 1.0])


def _stored(volume: Volume, codes: str) -> Volume:
    """The same anatomy with other array axes."""
    image = nib.Nifti1Image(volume.data[0], volume.affine)
    goal = nib.orientations.axcodes2ornt(codes)
    turned = image.as_reoriented(nib.orientations.ornt_transform(nib.io_orientation(volume.affine), goal))
    return Volume(np.asarray(turned.dataobj)[None], turned.affine)


def _preview(folder, name, codes, truth) -> np.ndarray:
    stored = _stored(truth, codes)
    thick, covered = simulate_thick(stored, 4.8)
    return matplotlib.image.imread(preview_figure(folder / name, thick, covered, headline="phantom"))


@pytest.fixture(scope="module")
def truth(phantom) -> Volume:
    data = phantom((48, 56, 40), noise=0.0)
    data[0, 34:38, 26:30, 18:22] = 3.0  # on the patient's right
    return Volume(data, RAS)


@pytest.mark.parametrize("codes", ["LPS", "PIR", "SAL"])
def test_the_picture_does_not_depend_on_how_the_scan_is_stored(truth, codes, tmp_path):
    expected = _preview(tmp_path, "ras.png", "RAS", truth)
    found = _preview(tmp_path, "other.png", codes, truth)
    assert found.shape == expected.shape
    assert np.abs(found - expected).mean() < 1e-3


def test_the_patients_right_is_on_the_left(truth, tmp_path):
    picture = _preview(tmp_path, "marked.png", "RAS", truth)
    # The lower left cell is the result's coronal view: behind the row titles, about a quarter of the width.
    height, width = picture.shape[:2]
    coronal = picture[height // 2 : int(0.93 * height), int(0.05 * width) : int(0.27 * width), :3].min(axis=2)
    labels, count = ndimage.label(coronal > 0.97)
    assert count
    largest = 1 + int(np.argmax(ndimage.sum_labels(coronal > 0, labels, range(1, count + 1))))
    _, x = ndimage.center_of_mass(labels == largest)
    assert x < 0.4 * coronal.shape[1]


def test_a_comparison_is_drawn_and_replaced(truth, tmp_path):
    _, covered = simulate_thick(truth, 4.8)
    panels = [Panel("cubic\nPSNR 20 dB", 0.9 * covered.data[0]), Panel("model\nPSNR 30 dB", covered.data[0])]
    path = tmp_path / "figure.png"
    path.write_bytes(b"old")
    comparison_figure(path, covered, panels, axis=2, headline="phantom")
    picture = matplotlib.image.imread(path)
    assert picture.shape[1] > 1500
    assert picture[..., :3].std() > 0.1
    assert [entry.name for entry in tmp_path.iterdir()] == ["figure.png"]


def test_a_constant_volume_can_be_drawn(tmp_path):
    flat = Volume(np.full((1, 12, 12, 4), 5.0, np.float32), np.diag([1.0, 1.0, 3.0, 1.0]))
    result = Volume(np.full((1, 12, 12, 12), 5.0, np.float32), flat.grid.resized((12, 12, 12)).affine)
    assert preview_figure(tmp_path / "flat.png", flat, result, headline="flat").stat().st_size > 0


def test_a_real_scan_is_drawn_with_a_column_per_method(truth, tmp_path):
    thick, covered = simulate_thick(truth, 4.8)
    columns = [Panel(f"{n}\n", covered.data[0]) for n in ("cubic", "classical", "model")]
    widths = []
    for count in (2, 3):
        path = thick_scan_figure(
            tmp_path / f"{count}.png", thick, covered, columns[:count], headline="phantom"
        )
        widths.append(matplotlib.image.imread(path).shape[1])
    assert widths[1] > 1.4 * widths[0]


def test_an_unwritable_place_is_one_sentence(truth, tmp_path):
    (tmp_path / "file").write_text("")
    thick, covered = simulate_thick(truth, 4.8)
    with pytest.raises(OutputError, match="choose another folder"):
        preview_figure(tmp_path / "file" / "x.png", thick, covered, headline="phantom")
