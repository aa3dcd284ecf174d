from __future__ import annotations

import os
import subprocess
import sys
import urllib.error
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from scipy.ndimage import gaussian_filter
from torch import nn

from srcyc.config import TrainingConfig
from srcyc.data.patches import Batch
from srcyc.errors import ConfigError, InputError, MissingExtraError, ModelError, SRCycError
from srcyc.losses import PerceptualLoss, VGGFeatures, imagenet
from srcyc.losses.vgg import Backbone
from srcyc.physics.acquisition import AxisAcquisition
from srcyc.physics.resampling import apply_along
from srcyc.training.step import TrainingStep, build_networks

torchvision_vgg = pytest.importorskip("torchvision.models.vgg", reason="torchvision is not installed")

CONFIGURATION = {"vgg16": "D", "vgg19": "E"}
MEAN = torch.tensor([0.485, 0.456, 0.406]).view(1, 3, 1, 1)
STD = torch.tensor([0.229, 0.224, 0.225]).view(1, 3, 1, 1)


def random_features(backbone: str) -> nn.Sequential:
    """torchvision's own convolutional part, with random weights: what ours is compared with."""
    torch.manual_seed(0)
    layers = torchvision_vgg.make_layers(torchvision_vgg.cfgs[CONFIGURATION[backbone]], batch_norm=False)
    for layer in layers:
        if isinstance(layer, nn.Conv2d):
            nn.init.normal_(layer.weight, std=(2 / (9 * layer.in_channels)) ** 0.5)
            nn.init.normal_(layer.bias, std=0.1)
    return layers.eval()


@pytest.fixture(scope="module", params=["vgg16", "vgg19"])
def backbone(request: pytest.FixtureRequest) -> Backbone:
    return request.param  # type: ignore[no-any-return]


@pytest.fixture(scope="module")
def reference(backbone: str) -> nn.Sequential:
    return random_features(backbone)


@pytest.fixture(scope="module")
def weights(
    backbone: str, reference: nn.Sequential, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Path]:
    path = tmp_path_factory.mktemp("weights") / f"{backbone}.pth"
    state = {f"features.{key}": value for key, value in reference.state_dict().items()}
    torch.save({**state, "classifier.0.weight": torch.zeros(2, 2)}, path)
    yield path
    path.unlink()


@pytest.fixture(scope="module")
def vgg16_weights(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    path = tmp_path_factory.mktemp("weights") / "vgg16.safetensors"
    save_file(
        {f"features.{key}": value for key, value in random_features("vgg16").state_dict().items()}, path
    )
    yield path
    path.unlink()


@pytest.fixture(scope="module")
def state(vgg16_weights: Path) -> dict[str, torch.Tensor]:
    """By convolution, counted."""
    read = imagenet.read_tensors(vgg16_weights, ".*")
    numbers = sorted({int(key.split(".")[1]) for key in read})
    return {
        f"{n}.{kind}": read[f"features.{number}.{kind}"]
        for n, number in enumerate(numbers)
        for kind in ("weight", "bias")
    }


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(1)


def small_loss(path: Path, **settings: object) -> PerceptualLoss:
    return PerceptualLoss(backbone="vgg16", layer="conv2_1", weights=path, **settings)


class TestFeatures:
    def test_they_equal_torchvisions(self, backbone: str, reference: nn.Sequential, weights: Path) -> None:
        image = torch.rand(2, 3, 37, 32)
        last = "conv5_3" if backbone == "vgg16" else "conv5_4"
        wanted = {"relu1_2": 4, "conv2_2": 8, "conv3_3": 15, last: 29 if backbone == "vgg16" else 35}
        found = VGGFeatures(backbone, list(wanted), weights=weights)(image)  # type: ignore[arg-type]
        for feature, depth in zip(found, wanted.values(), strict=True):
            torch.testing.assert_close(feature, reference[:depth]((image - MEAN) / STD), rtol=1e-4, atol=1e-4)

    def test_a_grey_image_is_repeated(self, vgg16_weights: Path) -> None:
        features = VGGFeatures("vgg16", ["conv1_2"], weights=vgg16_weights)
        grey = torch.rand(1, 1, 8, 8)
        torch.testing.assert_close(features(grey)[0], features(grey.expand(1, 3, 8, 8))[0])

    def test_layers_behind_the_last_one_are_dropped(self, vgg16_weights: Path) -> None:
        features = VGGFeatures("vgg16", ["conv2_1", "conv1_1"], weights=vgg16_weights)
        assert len(list(features.parameters())) == 2 * 3

    def test_they_are_frozen_and_stay_in_eval_mode(self, vgg16_weights: Path) -> None:
        features = VGGFeatures("vgg16", ["conv1_1"], weights=vgg16_weights).train()
        assert not features.training
        assert not any(parameter.requires_grad for parameter in features.parameters())

    def test_too_small_an_image_is_refused(self, vgg16_weights: Path) -> None:
        features = VGGFeatures("vgg16", ["conv3_1"], weights=vgg16_weights)
        assert features(torch.rand(1, 1, 4, 4))[0].shape == (1, 256, 1, 1)
        with pytest.raises(InputError, match=r"\(3, 9\).*needs 4"):
            features(torch.rand(1, 1, 3, 9))

    @pytest.mark.parametrize("layer", ["conv3_4", "conv6_1", "pool1", "conv"])
    def test_an_unknown_layer_is_refused(self, layer: str) -> None:
        with pytest.raises(ConfigError, match=f"vgg16 has no layer '{layer}'"):
            PerceptualLoss(backbone="vgg16", layer=layer)

    def test_an_unknown_backbone_is_refused(self) -> None:
        with pytest.raises(ConfigError, match=r"resnet.*vgg16, vgg19"):
            PerceptualLoss(backbone="resnet")  # type: ignore[arg-type]


class TestWeightFiles:
    def test_npz_in_half_precision(self, state: dict[str, torch.Tensor], tmp_path: Path) -> None:
        path = tmp_path / "vgg.npz"
        arrays = {f"vgg16.conv{key}": value.half().numpy() for key, value in state.items()}
        np.savez(path, **arrays, **{"alexnet.conv0.weight": np.zeros(3), "vgg16.lin0.weight": np.zeros(3)})
        read = VGGFeatures("vgg16", ["conv5_3"], weights=path).features.parameters()
        for value, wanted in zip(read, state.values(), strict=True):
            assert value.dtype == torch.float32
            assert torch.equal(value, wanted.half().float())

    def test_another_backbones_file_is_refused(self, vgg16_weights: Path) -> None:
        with pytest.raises(ModelError, match=r"vgg16\.safetensors.*vgg19"):
            PerceptualLoss(weights=vgg16_weights)

    def test_another_backbones_npz_is_refused(self, tmp_path: Path) -> None:
        np.savez(tmp_path / "vgg.npz", **{"vgg16.conv0.weight": np.zeros((64, 3, 3, 3), np.float16)})
        with pytest.raises(ModelError, match=r"vgg\.npz.*vgg19.*none"):
            PerceptualLoss(weights=tmp_path / "vgg.npz")

    @pytest.mark.parametrize(
        ("key", "value"),
        [
            ("12.bias", None),
            ("0.weight", torch.zeros(64, 3, 5, 5)),
            ("0.weight", torch.full((64, 3, 3, 3), torch.nan)),
            ("0.weight", "text"),
            ("13.bias", torch.zeros(512)),
        ],
        ids=["missing behind the layer", "shape", "NaN", "text", "too many"],
    )
    def test_a_file_that_is_not_exactly_the_backbone_is_refused(
        self, state: dict[str, torch.Tensor], tmp_path: Path, key: str, value: torch.Tensor | str | None
    ) -> None:
        arrays: dict[str, object] = {**state, key: value}
        path = tmp_path / "wrong.pt"
        torch.save({f"vgg16.conv{k}": v for k, v in arrays.items() if v is not None}, path)
        with pytest.raises(ModelError, match=r"wrong\.pt"):
            small_loss(path)

    @pytest.mark.parametrize("name", ["weights.pth", "weights.safetensors", "weights.npz", "weights.h5"])
    def test_a_foreign_file_is_refused(self, tmp_path: Path, name: str) -> None:
        (tmp_path / name).write_bytes(b"no weights at all")
        with pytest.raises(ModelError, match=f"{name}: cannot be read"):
            PerceptualLoss(weights=tmp_path / name)

    def test_a_pickled_object_is_not_executed(self, tmp_path: Path) -> None:
        torch.save({"features.0.weight": Path("anything")}, tmp_path / "object.pth")
        with pytest.raises(ModelError, match=r"object\.pth: cannot be read"):
            PerceptualLoss(weights=tmp_path / "object.pth")

    def test_a_missing_file_is_named(self, tmp_path: Path) -> None:
        with pytest.raises(ModelError, match=r"nowhere\.pth: does not exist"):
            PerceptualLoss(weights=tmp_path / "nowhere.pth")


class TestDownload:
    def test_the_default_is_torchvisions_vgg19_with_its_hash_checked(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        asked: list[tuple[str, object]] = []

        def offline(url: str, **options: object) -> None:
            asked.append((url, options["check_hash"]))
            raise urllib.error.URLError("no route to host")

        monkeypatch.setattr("torchvision.models._api.load_state_dict_from_url", offline)
        with pytest.raises(SRCycError, match=r"vgg19.*no route to host.*local weight file"):
            PerceptualLoss()
        assert "vgg19-" in asked[0][0] and asked[0][1] is True

    def test_a_downloaded_state_dict_is_used(self, monkeypatch: pytest.MonkeyPatch) -> None:
        reference = random_features("vgg16")
        state = {f"features.{key}": value for key, value in reference.state_dict().items()}
        monkeypatch.setattr("torchvision.models._api.load_state_dict_from_url", lambda *_, **__: state)
        image = torch.rand(1, 3, 8, 8)
        (found,) = PerceptualLoss(backbone="vgg16", layer="conv1_1").features(image)
        torch.testing.assert_close(found, reference[0]((image - MEAN) / STD))

    def test_a_missing_torchvision_is_explained(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setitem(sys.modules, "torchvision.models", None)
        with pytest.raises(MissingExtraError, match=r"torchvision.*srcyc\[perceptual\]"):
            PerceptualLoss()

    def test_importing_the_losses_does_not_import_torchvision(self) -> None:
        code = "import sys, srcyc.losses; sys.exit('torchvision' in sys.modules)"
        environment = {**os.environ, "PYTHONPATH": str(Path(imagenet.__file__).parents[2])}
        assert subprocess.run([sys.executable, "-c", code], check=False, env=environment).returncode == 0


class TestLoss:
    @pytest.mark.parametrize("shape", [(2, 1, 16, 16), (2, 3, 16, 16), (1, 1, 8, 9, 10)])
    def test_identical_images_cost_nothing_and_others_do(
        self, vgg16_weights: Path, shape: tuple[int, ...]
    ) -> None:
        loss = small_loss(vgg16_weights)
        image = torch.rand(shape)
        assert float(loss(image, image.clone())) == 0.0
        near, far = (float(loss(image + step * torch.randn_like(image), image)) for step in (0.01, 0.1))
        assert 0 < near < far

    def test_the_default_layer_is_the_last_convolution(self, backbone: Backbone, weights: Path) -> None:
        wanted = "conv5_3" if backbone == "vgg16" else "conv5_4"
        assert PerceptualLoss(backbone=backbone, weights=weights).features.layers == (wanted,)

    def test_it_is_the_mean_square_of_the_feature_difference(self, vgg16_weights: Path) -> None:
        reference = random_features("vgg16")
        image, target = torch.rand(2, 2, 1, 16, 16)
        found, wanted = (reference[:6]((x - MEAN) / STD) for x in (image, target))
        value = small_loss(vgg16_weights)(image, target)
        torch.testing.assert_close(value, (found - wanted).square().mean(), rtol=1e-4, atol=1e-6)

    def test_in_3d_it_is_the_mean_over_the_slices_of_all_axes(self, vgg16_weights: Path) -> None:
        loss = small_loss(vgg16_weights)
        image, target = torch.rand(2, 2, 1, 6, 7, 8)
        per_axis = []
        for axis in (2, 3, 4):
            pairs = zip(image.unbind(axis), target.unbind(axis), strict=True)
            per_axis.append(torch.stack([loss(x, t) for x, t in pairs]).mean())
        torch.testing.assert_close(loss(image, target), torch.stack(per_axis).mean())

    def test_the_gradient_flows_to_the_input_only(self, vgg16_weights: Path) -> None:
        loss = small_loss(vgg16_weights)
        image, target = torch.rand(2, 1, 1, 8, 8, 8)
        image.requires_grad_()
        target.requires_grad_()
        before = loss(image, target)
        before.backward()
        assert image.grad is not None and target.grad is None
        assert all(parameter.grad is None for parameter in loss.features.parameters())
        with torch.no_grad():
            assert loss(image - 1e-3 * image.grad / image.grad.abs().max(), target) < before

    def test_some_slices_evenly_spaced(self, vgg16_weights: Path) -> None:
        loss = small_loss(vgg16_weights, slices_per_axis=2)
        image = torch.rand(1, 1, 8, 8, 8)
        elsewhere, inside = image.clone(), image.clone()
        elsewhere[:, :, 0, 0, 0] += 1
        inside[:, :, 2, 0, 0] += 1
        assert float(loss(elsewhere, image)) == 0.0
        assert float(loss(inside, image)) > 0.0
        full = small_loss(vgg16_weights, slices_per_axis=99)
        torch.testing.assert_close(full(inside, image), small_loss(vgg16_weights)(inside, image))

    def test_vgg_is_no_part_of_a_checkpoint_or_optimiser(self, vgg16_weights: Path) -> None:
        holder = nn.Module()
        holder.add_module("perceptual", small_loss(vgg16_weights))
        assert not holder.state_dict() and not list(holder.parameters()) and not list(holder.buffers())
        holder.load_state_dict({}, strict=True)

    def test_it_follows_the_device_of_the_images(self, vgg16_weights: Path) -> None:
        loss = small_loss(vgg16_weights)
        on_meta = torch.empty(1, 1, 16, 16, device="meta")  # stands for any other device
        assert loss.to("meta")(on_meta, on_meta).device.type == "meta"

    @pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
    def test_it_costs_the_same_on_cuda(self, vgg16_weights: Path) -> None:
        loss = small_loss(vgg16_weights)
        image, target = torch.rand(2, 1, 1, 16, 16)
        on_cuda = loss.to("cuda")(image.cuda(), target.cuda())
        torch.testing.assert_close(on_cuda.cpu(), loss(image, target), rtol=1e-2, atol=1e-5)

    def test_under_bf16_autocast(self, vgg16_weights: Path) -> None:
        loss = small_loss(vgg16_weights)
        image, target = torch.rand(2, 1, 1, 8, 8, 8)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            value = loss(image, target)
            half = loss(image.bfloat16(), target.bfloat16())
        assert value.dtype == half.dtype == torch.float32
        torch.testing.assert_close(value, loss(image, target), rtol=0.05, atol=0.0)
        torch.testing.assert_close(half, value, rtol=0.05, atol=0.0)

    def test_bad_arguments_are_refused(self, vgg16_weights: Path) -> None:
        loss = small_loss(vgg16_weights)
        with pytest.raises(InputError, match="one shape"):
            loss(torch.zeros(2, 1, 8, 8), torch.zeros(1, 1, 8, 8))
        with pytest.raises(InputError, match="1 or 3 channels"):
            loss(torch.zeros(1, 2, 8, 8), torch.zeros(1, 2, 8, 8))
        with pytest.raises(InputError, match="images or volumes"):
            loss(torch.zeros(1, 1, 8), torch.zeros(1, 1, 8))
        with pytest.raises(InputError, match="1 or 3, H, W"):
            loss.features(torch.zeros(1, 2, 8, 8))
        with pytest.raises(ConfigError, match="slices_per_axis is 0"):
            PerceptualLoss(slices_per_axis=0)

    def test_with_real_weights_blur_is_worse_than_a_brightness_shift_of_equal_mse(
        self, shared_dir: Path
    ) -> None:
        path = shared_dir / "data" / "perceptual" / "lpips_vgg16_alexnet_fp16.npz"
        if not path.is_file():
            pytest.skip(f"{path.name} is not in the shared folder")
        rng = np.random.default_rng(0)
        sharp = (gaussian_filter(rng.normal(size=(64, 64)), 2) > 0).astype(np.float32)
        sharp = gaussian_filter(sharp, 0.6) * 0.6 + 0.2
        blurred = gaussian_filter(sharp, 1.5)
        # in brightness, by the same mean square error
        shifted = sharp + np.sqrt(np.mean((blurred - sharp) ** 2))
        loss = PerceptualLoss(backbone="vgg16", layer="conv3_3", weights=path)
        target, by_blur, by_shift = (
            torch.from_numpy(x)[None, None].float() for x in (sharp, blurred, shifted)
        )
        assert float(loss(target, target)) == 0.0
        assert float(loss(by_blur, target)) > 2 * float(loss(by_shift, target)) > 0.0


@pytest.mark.parametrize("relative", [False, True])
def test_it_is_a_term_of_a_training_step(vgg16_weights: Path, relative: bool) -> None:
    """An untrained network gives the classical inverse: that is how far it is, and nothing gained."""
    chosen = {"backbone": "vgg16", "weights": vgg16_weights, "slices_per_axis": 2, "relative": relative}
    config = TrainingConfig.model_validate(
        {
            "mode": "generator-only",
            "losses": {"lambda_content": 0, "lambda_perceptual": 1},
            "perceptual": {**chosen, "layer": "conv2_1"},
            "g_hr": {"name": "sliceresdnet", "features": 8, "depth": 1},
        }
    )
    axis, truth = AxisAcquisition.of(16, 4), torch.rand(1, 1, 16, 16, 16)
    slices = apply_along(truth, axis.matrix, -1)
    batch = Batch(slices, (truth,), (axis,), True, torch.zeros_like(slices))
    step = TrainingStep(build_networks(config, torch.device("cpu")), config)
    (found,) = step(batch, 0.0).values()
    if relative:
        assert float(found) == pytest.approx(1, abs=0.05)
    else:
        inverse = apply_along(slices, axis.upscaling, -1)
        images = (image[..., batch.counted(0)] for image in (inverse, truth))
        torch.testing.assert_close(found, PerceptualLoss(**chosen, layer="conv2_1")(*images))  # type: ignore[arg-type]


class TestTheRelativeForm:
    @pytest.fixture
    def loss(self, vgg16_weights: Path) -> PerceptualLoss:
        return PerceptualLoss(backbone="vgg16", weights=vgg16_weights, slices_per_axis=3, relative=True)

    @pytest.fixture
    def truth(self) -> torch.Tensor:
        return torch.rand(1, 1, 16, 18, 20, generator=torch.Generator().manual_seed(1))

    def blurred(self, truth: torch.Tensor, sigma: float) -> torch.Tensor:
        return torch.from_numpy(gaussian_filter(truth.numpy(), (0, 0, 0, 0, sigma)))

    def test_one_means_nothing_gained_and_zero_the_truth(
        self, loss: PerceptualLoss, truth: torch.Tensor
    ) -> None:
        assert loss.features.layers == ("relu1_2", "relu2_2", "relu3_3")
        baseline = self.blurred(truth, 2)
        assert float(loss(truth, truth, baseline)) == pytest.approx(0, abs=1e-6)
        assert float(loss(baseline, truth, baseline)) == pytest.approx(1, abs=0.1)
        assert float(loss(self.blurred(truth, 0.5), truth, baseline)) < 0.9

    def test_it_looks_at_slices_that_the_thick_axis_lies_in(
        self, loss: PerceptualLoss, truth: torch.Tensor
    ) -> None:
        image = self.blurred(truth, 1).requires_grad_()
        loss(image, truth, self.blurred(truth, 2)).backward()
        seen = image.grad[0, 0] != 0  # type: ignore[index]
        # Three slices across each of the first two axes, all along the third.
        assert int(seen.any(dim=2).all(dim=1).sum()) == 3
        assert int(seen.any(dim=2).all(dim=0).sum()) == 3
        assert bool(seen.any(dim=0).any(dim=0).all())

    def test_a_baseline_is_for_it_and_no_other(
        self, loss: PerceptualLoss, vgg16_weights: Path, truth: torch.Tensor
    ) -> None:
        with pytest.raises(InputError, match="baseline"):
            loss(truth, truth)
        with pytest.raises(InputError, match="baseline"):
            small_loss(vgg16_weights)(truth, truth, truth)
        with pytest.raises(InputError, match="shape"):
            loss(truth, truth, truth[..., 1:])
