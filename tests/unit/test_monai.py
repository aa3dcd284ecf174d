"""In pipelines of MONAI: every way gives the voxels, and the place, that `SuperResolver` gives."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from factories import OBLIQUE_AXES, make_affine, make_head, save_series

pytest.importorskip("monai", reason="MONAI is not installed (extra monai)")
from monai.data import DataLoader, Dataset, MetaTensor, decollate_batch, list_data_collate
from monai.engines import SupervisedEvaluator
from monai.transforms import (
    Compose,
    EnsureChannelFirst,
    EnsureChannelFirstd,
    LoadImage,
    LoadImaged,
    SaveImaged,
)

from srcyc import SuperResolution, SuperResolver, read_volume, write_volume
from srcyc.errors import ConfigError, NothingToDoError, VolumeError
from srcyc.models.model_file import PublishedModel
from srcyc.monai import SuperResolutionInferer, SuperResolve, SuperResolved, VolumeReader

THICK = make_affine(OBLIQUE_AXES, (1.0, 1.0, 4.0))
HALF_TURN = np.diag([-1.0, -1.0, 1.0, 1.0])


@pytest.fixture
def model(published: Callable[..., PublishedModel]) -> PublishedModel:
    return published(depth=1, spacing_range=(0.8, 2.0))


@pytest.fixture
def scan(tmp_path: Path) -> Path:
    return write_volume(make_head((20, 22, 6), THICK), tmp_path / "thick.nii.gz", dtype=np.int16)


def expected(model: PublishedModel, path: Path, **wishes: Any) -> SuperResolution:
    return SuperResolver(model)(read_volume(path), **wishes)


def assert_same(image: MetaTensor, wanted: SuperResolution) -> None:
    np.testing.assert_array_equal(image.numpy(), wanted.volume.data)
    np.testing.assert_allclose(image.affine.numpy(), wanted.volume.affine, atol=1e-9)


def test_array_transform_after_monai_s_own_reader(model: PublishedModel, scan: Path) -> None:
    image = Compose([LoadImage(), EnsureChannelFirst(), SuperResolve(model)])(scan)
    wanted = expected(model, scan)
    assert_same(image, wanted)
    assert image.shape[-1] == 24
    report = json.loads(image.meta["srcyc_report"])
    assert report["thickness"] == wanted.report.thickness.model_dump()
    assert report["model"]["sha256"] == model.sha256


def test_dictionary_transform_from_dicom_to_a_file(model: PublishedModel, tmp_path: Path) -> None:
    """The slice thickness of the series arrives; the writer keeps the thin grid even where it resamples."""
    folder = save_series(make_head((20, 22, 6), THICK), tmp_path / "series")
    pipeline = Compose(
        [
            LoadImaged("image", reader=VolumeReader),
            EnsureChannelFirstd("image"),
            SuperResolved("image", model, target_spacing=(1, 1, 2), uncertainty=True, correction_map=True),
            SaveImaged(
                "image", output_dir=tmp_path / "out", output_postfix="sr", resample=True, print_log=False
            ),
        ]
    )
    item = pipeline({"image": folder, "age": 40})
    wanted = expected(model, folder, target_spacing=(1, 1, 2), uncertainty=True, correction_map=True)
    assert wanted.report.thickness.source == "read"
    assert_same(item["image"], wanted)
    assert item["age"] == 40
    np.testing.assert_array_equal(item["image_uncertainty"].numpy(), wanted.uncertainty.data)
    np.testing.assert_array_equal(item["image_correction"].numpy(), wanted.correction.data)
    np.testing.assert_allclose(item["image_correction"].affine.numpy(), wanted.correction.affine, atol=1e-9)
    (path,) = (tmp_path / "out").rglob("*_sr.nii.gz")
    written = read_volume(path)
    np.testing.assert_array_equal(written.data, wanted.volume.data)
    np.testing.assert_allclose(written.affine, wanted.volume.affine, atol=1e-4)


def test_inferer_in_an_evaluator_with_batches_of_two(model: PublishedModel, tmp_path: Path) -> None:
    """Two scans of one shape at different places; the engine's network is what computes."""
    paths = [
        write_volume(
            make_head((20, 22, 6), make_affine(OBLIQUE_AXES, (1, 1, 4), (seed, 0, 0)), seed=seed),
            tmp_path / f"{seed}.nii.gz",
        )
        for seed in (1, 2)
    ]
    load = Compose([LoadImaged("image"), EnsureChannelFirstd("image")])
    loader = DataLoader(Dataset([{"image": path} for path in paths], load), batch_size=2)
    results: list[MetaTensor] = []
    engine = SupervisedEvaluator(
        device=torch.device("cpu"),
        val_data_loader=loader,
        network=model.network,
        inferer=SuperResolutionInferer(model),
        postprocessing=lambda item: results.append(item["pred"]) or item,
        decollate=True,
    )
    engine.run()
    assert len(results) == 2
    for image, path in zip(results, paths, strict=True):
        assert_same(image, expected(model, path))
    # Other weights, other voxels: it is not the model's own copy that runs.
    with torch.no_grad():
        for parameter in model.network.parameters():
            parameter.mul_(0.5)
    (again, _) = decollate_batch(SuperResolutionInferer(model)(next(iter(loader))["image"], model.network))
    assert not np.array_equal(again.numpy(), results[0].numpy())


def test_a_world_of_lps_stays_one(model: PublishedModel, scan: Path) -> None:
    volume = read_volume(scan)
    affine = torch.from_numpy(HALF_TURN @ volume.affine)
    image = MetaTensor(torch.from_numpy(volume.data), affine=affine, meta={"space": "LPS"})
    done = SuperResolve(model)(image)
    wanted = expected(model, scan)
    np.testing.assert_array_equal(done.numpy(), wanted.volume.data)
    np.testing.assert_allclose(done.affine.numpy(), HALF_TURN @ wanted.volume.affine, atol=1e-9)
    assert done.meta["space"] == "LPS"


def test_stated_thickness_goes_before_the_image_s(model: PublishedModel, scan: Path) -> None:
    image = Compose([LoadImage(), EnsureChannelFirst()])(scan)
    image.meta["slice_thickness"] = 3.0
    sources = [
        json.loads(SuperResolve(model, **wishes)(image).meta["srcyc_report"])["thickness"]
        for wishes in ({}, {"slice_thickness": 2.5})
    ]
    assert [(source["source"], source["millimetres"]) for source in sources] == [
        ("read", 3.0),
        ("stated", 2.5),
    ]


def test_mistakes_are_refused_by_name(model: PublishedModel, scan: Path) -> None:
    image = Compose([LoadImage(), EnsureChannelFirst()])(scan)
    with pytest.raises(VolumeError, match="without an affine"):
        SuperResolve(model)(image.as_tensor())
    with pytest.raises(ConfigError, match="target_spacing 'fine'"):
        SuperResolved("image", model, target_spacing="fine")
    with pytest.raises(ConfigError, match="uncertainty"):
        SuperResolve(model, uncertainty=True)
    with pytest.raises(ConfigError, match="Conv3d"):
        SuperResolutionInferer(model)(image[None], torch.nn.Conv3d(1, 1, 1))
    with pytest.raises(KeyError, match="other"):
        SuperResolved("other", model)({"image": image})
    assert SuperResolved("other", model, allow_missing_keys=True)({"image": image})["image"] is image
    with pytest.raises(NothingToDoError, match="1 x 1 x 4"):
        SuperResolve(model, target_spacing=(1, 1, 4))(image)


def test_a_reader_is_chosen_by_what_is_read_and_gives_one_image(scan: Path) -> None:
    reader = VolumeReader()
    assert reader.verify_suffix(scan) and reader.verify_suffix([str(scan), "b.mha"])
    assert not reader.verify_suffix([scan, "b.txt"])
    with pytest.raises(VolumeError, match="2 volumes for one image"):
        reader.get_data(reader.read([scan, scan]))


def test_a_batch_has_one_shape_and_distrust_is_logged(
    model: PublishedModel, caplog: pytest.LogCaptureFixture
) -> None:
    images = []
    for thick in (4.0, 3.0):
        image = MetaTensor(torch.from_numpy(make_head((20, 22, 6)).data), affine=np.diag([1, 1, thick, 1]))
        image[0, 3, 4, 2] = float("nan")
        images.append(image)
    with pytest.raises(VolumeError, match="several shapes"):
        SuperResolutionInferer(model)(list_data_collate(images), model.network)
    assert "no value (NaN)" in caplog.text
