"""What tests are made of: heads, grids, scans on disk, the settings of a tiny training, a tiny model.

Plain functions, so that a fixture, a helper process or a benchmark can use them; ``import factories`` works in every
test. Nothing here imports PyTorch before it is needed.
"""

from __future__ import annotations

import itertools
import os
import socket
import uuid
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from srcyc.files import staging
from srcyc.volumes.geometry import Grid
from srcyc.volumes.volume import Volume, write_volume

if TYPE_CHECKING:
    from srcyc.data.store import TrainingScan
    from srcyc.models.card import ModelCard, ScanScore

# -- places ----------------------------------------------------------------------------------------------------------


def rotation(x: float, y: float, z: float) -> np.ndarray:
    """Turns by these angles (radians) about the three axes, one after the other: ``(3, 3)``."""
    matrix = np.eye(3)
    for angle, (a, b) in zip((x, y, z), ((1, 2), (2, 0), (0, 1)), strict=True):
        turn = np.eye(3)
        turn[a, a] = turn[b, b] = np.cos(angle)
        turn[a, b], turn[b, a] = -np.sin(angle), np.sin(angle)
        matrix = matrix @ turn
    return matrix


def make_affine(
    axes: np.ndarray, spacing: Sequence[float], origin: Sequence[float] = (-31.7, 12.3, 55.1)
) -> np.ndarray:
    """RAS affine of columns of directions, millimetres along each, and the first voxel's centre."""
    affine = np.eye(4)
    affine[:3, :3] = axes * np.asarray(spacing)
    affine[:3, 3] = origin
    return affine


#: Turned about all three axes, left-handed.
OBLIQUE_AXES = rotation(0.31, -0.17, 0.46) @ np.diag([-1.0, 1.0, 1.0])

# -- heads -----------------------------------------------------------------------------------------------------------


def _ball(
    axes: Sequence[np.ndarray], centre: Sequence[float], radii: Sequence[float], edge: float
) -> np.ndarray:
    """A filled ellipsoid with a smooth border; coordinates, radii and ``edge`` in half fields of view."""
    distance = np.sqrt(sum(((axis - c) / r) ** 2 for axis, c, r in zip(axes, centre, radii, strict=True)))
    return 1.0 / (1.0 + np.exp(np.clip((distance - 1.0) * min(radii) / edge, -30.0, 30.0)))


def make_phantom(shape: Sequence[int] = (40, 48, 36), seed: int = 0, noise: float = 0.01) -> np.ndarray:
    """A head of ellipsoids: scalp, dark skull, folded cortex, white matter, ventricles, a few bright lesions.

    Args:
        shape: voxels along each axis, two or three of them.
        seed: same seed, same head; another seed moves and resizes its parts.
        noise: standard deviation of the Gaussian noise added everywhere.

    Returns:
        float32 ``(1, *shape)``; tissue lies between 0 and about 1, air around 0.
    """
    rng = np.random.default_rng(seed)
    dims = len(shape)
    axes = np.meshgrid(*(np.linspace(-1.0, 1.0, n) for n in shape), indexing="ij", sparse=True)
    edge = 1.5 / max(shape)  # borders span about three voxels of the longest axis
    size = rng.uniform(0.95, 1.0, dims)
    centre = rng.uniform(-0.03, 0.03, dims)

    def ball(scale: float, offset: Sequence[float] | float = 0.0) -> np.ndarray:
        return _ball(axes, centre + np.asarray(offset), scale * size, edge)

    folds = np.ones((1,) * dims)
    for axis, frequency, phase in zip(
        axes, rng.uniform(9.0, 14.0, dims), rng.uniform(0.0, 6.3, dims), strict=True
    ):
        folds = folds * np.cos(frequency * axis + phase)

    head = 0.75 * ball(0.9) - 0.65 * ball(0.82)
    brain, white = ball(0.75), ball(0.58)
    head = head + brain * (0.45 + 0.12 * folds) + 0.3 * white
    side = np.zeros(dims)
    side[0] = 0.14
    for sign in (-1.0, 1.0):
        head = head - 0.6 * _ball(
            axes, centre + sign * side, np.full(dims, 0.12) * (1.0 + np.arange(dims) / 2), edge
        )
    for _ in range(4):
        lesion = _ball(
            axes, centre + rng.uniform(-0.4, 0.4, dims), np.full(dims, rng.uniform(0.04, 0.09)), edge
        )
        head = head + 0.3 * lesion
    head = np.clip(head, 0.0, None) + noise * rng.standard_normal(tuple(shape))
    return head[np.newaxis].astype(np.float32)


def make_head(
    shape: Sequence[int] = (24, 26, 8), affine: np.ndarray | None = None, seed: int = 0, peak: float = 1000.0
) -> Volume:
    """A phantom of whole numbers without negative ones; by default small, slices four times as thick as wide."""
    data = np.rint(peak * np.clip(make_phantom(shape, seed), 0, None)).astype(np.float32)
    affine = np.diag([1.0, 1.0, 4.0, 1.0]) if affine is None else affine
    return Volume(data, affine, np.dtype(np.int16))


def make_blob(grid: Grid, centre: np.ndarray, sigma: float) -> np.ndarray:
    """A bright ball, 1000 at a place in the world (RAS mm), on a grid: float32 ``(1, I, J, K)``."""
    index = np.stack(np.meshgrid(*map(np.arange, grid.shape), indexing="ij"), axis=-1)
    distance = np.linalg.norm(grid.index_to_world(index) - centre, axis=-1)
    return (1000 * np.exp(-0.5 * (distance / sigma) ** 2)).astype(np.float32)[None]


# -- scans on disk ---------------------------------------------------------------------------------------------------


def save_head(
    path: Path, shape: Sequence[int] = (24, 26, 8), spacing: Sequence[float] = (1, 1, 4), seed: int = 0
) -> Path:
    """Write a head as int16."""
    path.parent.mkdir(parents=True, exist_ok=True)
    return write_volume(
        make_head(shape, make_affine(np.eye(3), spacing, (0, 0, 0)), seed), path, dtype=np.int16
    )


#: People whose heads :func:`save_people` writes: thin slices of the first two, thick ones of the others.
PEOPLE = {"hr": "ab", "lr": "cd"}


def save_people(folder: Path, people: Mapping[str, str] = PEOPLE, *, in_domains: bool = False) -> Path:
    """Write ``sub-a_T1w.nii.gz`` and so on: what a tiny training needs; ``in_domains`` in ``hr/`` and ``lr/``."""
    for domain, shape, thick in (("hr", (40, 44, 48), 1.0), ("lr", (40, 40, 12), 4.0)):
        for person in people.get(domain, ""):
            place = folder / domain if in_domains else folder
            save_head(place / f"sub-{person}_T1w.nii.gz", shape, (1, 1, thick), ord(person))
    return folder


def save_series(volume: Volume, folder: Path) -> Path:
    """Write a volume as a DICOM series of MR images, the slices along its last axis."""
    from pydicom.dataset import Dataset, FileMetaDataset
    from pydicom.uid import ExplicitVRLittleEndian

    folder.mkdir(parents=True)
    affine = np.diag([-1.0, -1.0, 1.0, 1.0]) @ volume.affine
    series, study = (f"2.25.{uuid.uuid5(uuid.NAMESPACE_URL, f'{folder.name}-{what}').int}" for what in "ab")
    for number in range(volume.shape[2]):
        voxels = np.rint(volume.data[0, :, :, number].T).astype(np.int16)
        meta = FileMetaDataset()
        meta.MediaStorageSOPClassUID = "1.2.840.10008.5.1.4.1.1.4"
        meta.MediaStorageSOPInstanceUID = f"{series}.{number + 1}"
        meta.TransferSyntaxUID = ExplicitVRLittleEndian
        data = Dataset()
        data.file_meta = meta
        data.is_little_endian, data.is_implicit_VR = True, False
        data.SOPClassUID, data.SOPInstanceUID = meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID
        data.Modality, data.PatientID, data.SeriesDescription = "MR", "phantom", "t1 tra"
        data.SeriesInstanceUID, data.StudyInstanceUID = series, study
        data.SeriesNumber, data.InstanceNumber = 5, number + 1
        data.Rows, data.Columns = voxels.shape
        data.PixelSpacing = [volume.spacing[1], volume.spacing[0]]
        data.SliceThickness = volume.spacing[2]
        axes = affine[:3, :2] / np.linalg.norm(affine[:3, :2], axis=0)
        data.ImageOrientationPatient = [round(float(v), 8) for v in axes.T.ravel()]
        place = affine[:3, 3] + number * affine[:3, 2]
        data.ImagePositionPatient = [round(float(v), 6) for v in place]
        data.SamplesPerPixel, data.PhotometricInterpretation = 1, "MONOCHROME2"
        data.BitsAllocated, data.BitsStored, data.HighBit, data.PixelRepresentation = 16, 16, 15, 1
        data.PixelData = voxels.tobytes()
        data.save_as(folder / f"IM{number:04d}.dcm", write_like_original=False)
    return folder


def training_scan(
    name: str,
    image: np.ndarray,
    spacing: tuple[float, float, float] = (1, 1, 1),
    thickness_ratio: float = 0.8,
) -> TrainingScan:
    """A scan to train on, ``(I, J, K)``, along the world's axes."""
    from srcyc.data.store import TrainingScan

    i, j, k = image.shape
    return TrainingScan(name, image, Grid((i, j, k), np.diag([*spacing, 1.0])), thickness_ratio)


# -- ports -----------------------------------------------------------------------------------------------------------

#: Below those that Linux gives to connections. Each process begins elsewhere, so that what one has found free and not
#: taken yet is not found by another.
_PORTS = itertools.cycle(range(10_000, 32_000))
for _ in range(131 * os.getpid() % 22_000):
    next(_PORTS)


def free_port() -> int:
    """A port of 127.0.0.1 that nobody listens on."""
    while True:
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port := next(_PORTS)))
            except OSError:
                continue
            return port


# -- a tiny training -------------------------------------------------------------------------------------------------

#: Tiny networks, a few steps per tenth of a second on any processor; keys as ``--set`` and the trainer take them.
TINY_TRAINING: Mapping[str, Any] = {
    "report_every": 2,
    "validate_every": 8,
    "checkpoint_every": 4,
    "precision": "fp32",
    "pool_size": 3,
    "early_stopping": 0,
    "data.size": 16,
    "data.batch_size": 1,
    "data.workers": 0,
    "g_hr.name": "sliceresdnet",
    "g_hr.features": 8,
    "g_hr.depth": 1,
    "g_lr.features": 4,
    "g_lr.blocks": 1,
    "g_lr.head_kernel": 3,
    "d_hr.features": 4,
    "d_hr.layers": 2,
    "d_lr.features": 4,
    "d_lr.layers": 1,
    "validation.crop": 32,
    "validation.thicknesses": [3.0],
}


def tiny_words(**changes: Any) -> str:
    """The settings of a tiny training as ``KEY=VALUE …``; a change's ``__`` stands for the dot of its key."""
    changed = {key.replace("__", "."): value for key, value in changes.items()}
    return " ".join(
        f"{key}={value}".replace(", ", ",") for key, value in {**TINY_TRAINING, **changed}.items()
    )


def tiny_settings(**changes: Any) -> dict[str, Any]:
    """The same, nested as in a settings file and as ``TrainingConfig.model_validate`` takes it."""
    nested: dict[str, Any] = {}
    changed = {key.replace("__", "."): value for key, value in changes.items()}
    for key, value in {**TINY_TRAINING, **changed}.items():
        group, _, name = key.rpartition(".")
        (nested.setdefault(group, {}) if group else nested)[name] = value
    return nested


def save_tiny_settings(path: Path, **changes: Any) -> Path:
    """Write them as a YAML file for ``srcyc train --config``."""
    import yaml

    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(yaml.safe_dump(tiny_settings(**changes), sort_keys=False))
    return path


# -- models ----------------------------------------------------------------------------------------------------------


def make_card(**changes: Any) -> ModelCard:
    """What is said of an untrained model."""
    from srcyc.models.card import ModelCard
    from srcyc.networks import SliceResDNetConfig

    values: dict[str, Any] = {
        "name": "test-model",
        "title": "untrained",
        "network": SliceResDNetConfig(features=8, depth=2),
        "spacing_range": (0.3, 2.0),
        "factor_range": (1.5, 8.0),
        "contrasts": ("T1w",),
        "trained_on": "nothing",
        "licence": "Apache-2.0",
        "created": "2024-01-01T00:00:00+00:00",
        "software": "srcyc test",
    }
    return ModelCard(**{**values, **changes})


def make_score(**changes: Any) -> ScanScore:
    """What a model scores on one scan, as its card has it."""
    from srcyc.models.card import ScanScore

    values: dict[str, Any] = {
        "scan": "a_T1w",
        "contrast": "T1w",
        "thickness": 4.0,
        "axis": 2,
        "psnr": 30.0,
        "psnr_over_cubic": 3.0,
        "psnr_over_classical": 1.5,
        "ssim": 0.9,
        "ssim_over_cubic": 0.1,
        "ssim_over_classical": 0.05,
    }
    return ScanScore(**{**values, **changes})


def save_model(path: Path, *, features: int = 8, depth: int = 1, seed: int = 0, **card: Any) -> Path:
    """Publish an untrained network: it adds nearly nothing, so its result is nearly the classical inverse."""
    import torch

    from srcyc.models.model_file import publish_model
    from srcyc.networks import SliceResDNet

    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(seed)
        network = SliceResDNet(features=features, depth=depth)
        for parameter in network.parameters():
            # A new network begins by adding nothing, and an error in what it adds would not show.
            if not parameter.any():
                parameter.normal_(std=0.01)
    publish_model(network, make_card(**{"name": path.stem, "network": network.config, **card}), path)
    return path


def leave_unfinished(path: Path) -> Path:
    """Leave what a process does that is killed while it writes a result: a hidden folder with a part of it."""
    with staging(path.parent, path.name) as folder:
        pass
    folder.mkdir()
    (folder / path.name).write_bytes(b"half of it")
    return folder
