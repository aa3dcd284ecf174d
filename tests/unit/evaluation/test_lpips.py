from __future__ import annotations

import subprocess
import sys
import urllib.request
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy import ndimage
from torch import Tensor
from torch.nn import functional

from srcyc.errors import DataError, ModelError, SRCycError
from srcyc.evaluation.lpips import LPIPS

#: AlexNet's convolutions: shape, stride, padding, and whether a max pooling comes before.
LAYERS = [
    ((64, 3, 11, 11), 4, 2, False),
    ((192, 64, 5, 5), 1, 2, True),
    ((384, 192, 3, 3), 1, 1, True),
    ((256, 384, 3, 3), 1, 1, False),
    ((256, 256, 3, 3), 1, 1, False),
]
TORCHVISION_INDEX = (0, 3, 6, 8, 10)


@pytest.fixture(scope="module")
def tensors() -> dict[str, np.ndarray]:
    """AlexNet with weights of its size, random, as the shared file names them."""
    rng = np.random.default_rng(0)
    found = {}
    for n, (shape, *_) in enumerate(LAYERS):
        scale = (2 / np.prod(shape[1:])) ** 0.5
        found[f"alexnet.conv{n}.weight"] = (scale * rng.standard_normal(shape)).astype(np.float16)
        found[f"alexnet.conv{n}.bias"] = (0.05 * rng.standard_normal(shape[0])).astype(np.float16)
        found[f"alexnet.lin{n}.weight"] = rng.uniform(0, 1, (1, shape[0], 1, 1)).astype(np.float16)
    return found


@pytest.fixture(scope="module")
def weights(tensors: dict[str, np.ndarray], tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("weights") / "alexnet.npz"
    np.savez(path, **tensors, **{"vgg16.conv0.weight": np.zeros((64, 3, 3, 3), np.float16)})
    return path


@pytest.fixture(scope="module")
def lpips(weights: Path) -> LPIPS:
    return LPIPS(weights)


@pytest.fixture(scope="module")
def head(phantom) -> np.ndarray:
    return phantom((48, 44, 40))[0]


def textbook(tensors: dict[str, np.ndarray], a: Tensor, b: Tensor) -> float:
    """LPIPS of two pictures ``(H, W)`` in [-1, 1], as the paper's equation 1 writes it."""
    weights = {key: torch.from_numpy(array.astype(np.float32)) for key, array in tensors.items()}
    shift = torch.tensor([-0.030, -0.088, -0.188]).view(1, 3, 1, 1)
    scale = torch.tensor([0.458, 0.448, 0.450]).view(1, 3, 1, 1)
    x = (torch.stack([a, b])[:, None].expand(-1, 3, -1, -1) - shift) / scale
    total = 0.0
    for n, (_, stride, padding, pooled) in enumerate(LAYERS):
        x = functional.max_pool2d(x, 3, 2) if pooled else x
        x = functional.conv2d(
            x, weights[f"alexnet.conv{n}.weight"], weights[f"alexnet.conv{n}.bias"], stride, padding
        ).relu()
        unit = x / (x.norm(dim=1, keepdim=True) + 1e-10)
        squared = (unit[0] - unit[1]).square()
        total += float((weights[f"alexnet.lin{n}.weight"][0] * squared).sum(dim=0).mean())
    return total


def test_it_is_the_mean_of_the_papers_distance_over_slices_of_three_axes(
    tensors: dict[str, np.ndarray], lpips: LPIPS, head: np.ndarray
) -> None:
    image = ndimage.gaussian_filter(head, 1)
    crops = [torch.from_numpy(2 * x[2:, 3:, 1:] / 0.9 - 1).clamp(-1, 1) for x in (image, head)]
    mask = np.zeros(head.shape, bool)
    mask[2, 3, 1] = mask[-1, -1, -1] = True
    distances = []
    for axis in range(3):
        # 46, 41 and 39 voxels: every second slice, at most 24.
        first = (crops[0].shape[axis] - 1) % 2 // 2
        slices = range(first, crops[0].shape[axis], 2)
        distances += [textbook(tensors, *(x.select(axis, n) for x in crops)) for n in slices]
    assert lpips(image, head, mask, 0.9) == pytest.approx(np.mean(distances), rel=1e-4)


def test_equal_volumes_have_no_distance_and_blur_has_more_the_stronger_it_is(
    lpips: LPIPS, head: np.ndarray
) -> None:
    distances = [lpips(ndimage.gaussian_filter(head, s), head, head > 0.1, 1.0) for s in (0, 0.5, 1, 2)]
    assert distances[0] == 0
    assert distances == sorted(distances)
    assert distances[1] > 1e-4


def test_what_lies_outside_the_masks_box_does_not_count(lpips: LPIPS, head: np.ndarray) -> None:
    mask = np.zeros(head.shape, bool)
    mask[8:40, 4:36, 4:36] = True
    elsewhere = head.copy()
    elsewhere[:6] += 1
    assert lpips(elsewhere, head, mask, 1.0) == 0
    assert lpips(elsewhere, head, None, 1.0) > 0


def test_the_intensity_unit_does_not_count(lpips: LPIPS, head: np.ndarray) -> None:
    image = ndimage.gaussian_filter(head, 1)
    assert lpips(700 * image, 700 * head, None, 700.0) == pytest.approx(
        lpips(image, head, None, 1.0), rel=1e-4
    )


def test_a_thin_volume_is_judged_in_its_own_plane_and_a_small_one_refused(
    lpips: LPIPS, head: np.ndarray
) -> None:
    thin, small = head[..., 18:22], head[:30, :30]
    assert lpips.fits(thin.shape)
    assert lpips(ndimage.gaussian_filter(thin, 1), thin, None, 1.0) > 0
    assert not lpips.fits(small.shape)
    with pytest.raises(DataError, match=r"31 voxels.*30 x 30 x 40"):
        lpips(small, small, None, 1.0)


def test_a_mask_smaller_than_the_network_needs_is_widened(lpips: LPIPS, head: np.ndarray) -> None:
    mask = np.zeros(head.shape, bool)
    mask[-1, 20, 0] = True
    assert lpips(ndimage.gaussian_filter(head, 1), head, mask, 1.0) > 0


def test_building_it_is_silent_and_leaves_the_random_state_alone(
    weights: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    before = torch.random.get_rng_state()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        LPIPS(weights)
    assert torch.equal(torch.random.get_rng_state(), before)
    assert capfd.readouterr() == ("", "")


def test_torchvisions_file_does_as_well_with_the_packages_heads(
    tensors: dict[str, np.ndarray], tmp_path: Path, head: np.ndarray
) -> None:
    state = {"classifier.1.weight": torch.zeros(2, 2)}
    convolutions = {}
    for n, index in enumerate(TORCHVISION_INDEX):
        for kind in ("weight", "bias"):
            convolutions[f"alexnet.conv{n}.{kind}"] = tensors[f"alexnet.conv{n}.{kind}"]
            state[f"features.{index}.{kind}"] = torch.from_numpy(
                tensors[f"alexnet.conv{n}.{kind}"].astype(np.float32)
            )
    torch.save(state, tmp_path / "alexnet.pth")
    np.savez(tmp_path / "headless.npz", **convolutions)
    image = ndimage.gaussian_filter(head, 1)
    found = [LPIPS(tmp_path / name)(image, head, None, 1.0) for name in ("alexnet.pth", "headless.npz")]
    assert found[0] == found[1] > 0


def _without(key: str):  # type: ignore[no-untyped-def]
    return lambda tensors: {name: array for name, array in tensors.items() if name != key}


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (_without("alexnet.conv3.bias"), "none"),
        (_without("alexnet.lin2.weight"), "lin2"),
        (lambda t: {**t, "alexnet.conv5.weight": t["alexnet.conv4.weight"]}, "alexnet.conv5.weight"),
        (lambda t: {**t, "alexnet.conv0.weight": t["alexnet.conv1.weight"]}, "shape"),
        (lambda t: {**t, "alexnet.conv0.bias": np.full(64, np.nan, np.float16)}, "NaN"),
        (lambda t: {"vgg16.conv0.weight": np.zeros(3)}, "none"),
    ],
    ids=["no bias", "no head", "further convolution", "wrong shape", "NaN", "another network"],
)
def test_a_file_that_is_not_exactly_alexnet_is_refused(tensors, tmp_path: Path, change, reason: str) -> None:  # type: ignore[no-untyped-def]
    np.savez(tmp_path / "other.npz", **change(tensors))
    with pytest.raises(ModelError, match=reason) as caught:
        LPIPS(tmp_path / "other.npz")
    assert str(tmp_path / "other.npz") in str(caught.value)


@pytest.mark.parametrize(
    ("name", "content"),
    [("none.npz", None), ("broken.npz", b"PK"), ("broken.pth", b"x"), ("x.h5", b"x"), ("list.pt", [1])],
)
def test_an_unreadable_file_is_one_sentence(tmp_path: Path, name: str, content: object) -> None:
    if isinstance(content, bytes):
        (tmp_path / name).write_bytes(content)
    elif content is not None:
        torch.save(content, tmp_path / name)
    with pytest.raises(ModelError, match=name):
        LPIPS(tmp_path / name)


def test_without_the_package_it_says_how_to_install_it(weights: Path) -> None:
    program = (
        "import sys; sys.modules['lpips'] = None\n"
        "from srcyc.errors import SRCycError; from srcyc.evaluation.lpips import LPIPS\n"
        "try: LPIPS(sys.argv[1])\n"
        "except SRCycError as error: sys.exit(str(error))\n"
    )
    ran = subprocess.run(
        [sys.executable, "-c", program, weights], capture_output=True, text=True, check=False
    )
    assert ran.returncode == 1
    assert "srcyc[perceptual]" in ran.stderr
    assert "Traceback" not in ran.stderr


def test_the_published_weights_tell_blur_from_sharpness(shared_dir: Path, head: np.ndarray) -> None:
    published = LPIPS(shared_dir / "data" / "perceptual" / "lpips_vgg16_alexnet_fp16.npz")
    distances = [
        published(ndimage.gaussian_filter(head, s), head, head > 0.1, 1.0) for s in (0, 0.5, 1, 2, 4)
    ]
    assert distances[0] == 0
    assert distances == sorted(distances)
    assert 0.2 < distances[-1] < 0.7


def test_a_failed_download_is_one_sentence(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setenv("https_proxy", "http://127.0.0.1:9")  # nobody listens
    monkeypatch.setattr(urllib.request, "_opener", None)  # it remembers the proxies of its first use
    with pytest.raises(SRCycError, match="could not be downloaded"):
        LPIPS("torchvision")
    assert capfd.readouterr() == ("", "")
