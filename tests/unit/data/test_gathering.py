from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest

from srcyc.config import TrainingConfig
from srcyc.data.domains import AssignedScan, Domain, ManifestEntry
from srcyc.data.gathering import Sources, TrainingSet
from srcyc.data.store import ScanStore
from srcyc.errors import DataError
from srcyc.physics.simulation import simulate_thick
from srcyc.volumes.volume import Volume, write_volume


@pytest.fixture
def make(tmp_path: Path, phantom) -> Callable[..., Path]:  # type: ignore[no-untyped-def]
    def make(
        name: str, thick: float = 1.0, shape: tuple[int, int, int] = (24, 24, 24), seed: int = 0
    ) -> Path:
        path = tmp_path / f"{name}.nii"
        nib.save(nib.Nifti1Image(phantom(shape, seed)[0], np.diag([1, 1, thick, 1])), path)
        return path

    return make


@pytest.fixture
def store(tmp_path: Path) -> ScanStore:
    return ScanStore(tmp_path / "store")


def config(mode: str = "unpaired", **data: Any) -> TrainingConfig:
    return TrainingConfig.model_validate({"mode": mode, "data": {"size": 16, **data}})


def gather(
    config: TrainingConfig,
    lr: list[Path],
    hr: list[Path],
    manifest: dict[Path, ManifestEntry] | None,
    store: ScanStore,
) -> TrainingSet:
    return Sources(lr, hr, manifest).gather(config, store)


def persons(scans: list[AssignedScan]) -> list[str]:
    return [scan.person for scan in scans]


def everybody(scans: TrainingSet) -> dict[str, list[str]]:
    return {
        name: persons(getattr(scans, name))
        for name in ("lr", "hr", "validation_lr", "validation_hr", "left_out")
    }


def test_unpaired_scans_are_split_by_person_in_both_domains(
    make: Callable[..., Path], store: ScanStore
) -> None:
    hr = [make(f"sub-{n}_T1w") for n in range(6)]
    lr = [make(f"sub-{n}_T2w", thick=4, shape=(24, 24, 10)) for n in range(3, 9)]
    scans = gather(config(validation_fraction=0.34), lr, hr, None, store)
    held_back = {*persons(scans.validation_hr), *persons(scans.validation_lr)}
    assert held_back.isdisjoint({*persons(scans.hr), *persons(scans.lr)})
    assert len(scans.validation_hr) == 2
    assert len(scans.validation_lr) >= 2
    assert sorted(persons(scans.hr + scans.validation_hr)) == [f"sub-{n}" for n in range(6)]
    assert sorted(persons(scans.lr + scans.validation_lr)) == [f"sub-{n}" for n in range(3, 9)]
    assert everybody(scans) == everybody(gather(config(validation_fraction=0.34), lr, hr, None, store))
    assert scans.pairs == scans.left_out == []


def test_scans_are_read_once(
    make: Callable[..., Path], store: ScanStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    import srcyc.data.store

    hr, lr = [make("sub-1"), make("sub-2")], [make("sub-3", thick=4, shape=(24, 24, 10))]
    read: list[Path] = []
    reader = srcyc.data.store.read_volume

    def counting(path: Path) -> Volume:
        read.append(path)
        return reader(path)

    monkeypatch.setattr(srcyc.data.store, "read_volume", counting)
    scans = gather(config(), lr, hr, None, store)
    gather(config(), lr, hr, None, store)
    for scan in [*scans.lr, *scans.hr]:
        store.get(scan.path)
    assert sorted(read) == sorted([*lr, *hr])


def test_broken_small_and_thin_lr_scans_are_left_out_with_their_reasons(
    make: Callable[..., Path], store: ScanStore, tmp_path: Path
) -> None:
    broken = tmp_path / "broken.nii"
    broken.write_bytes(b"nothing")
    lr = [
        make("l1", thick=4),
        make("few", thick=4, shape=(24, 24, 4)),
        make("thin", thick=1.1),
        tmp_path / "none.nii",
    ]
    scans = gather(
        config(), lr, [make("h1"), make("h2"), make("small", shape=(24, 12, 24)), broken], None, store
    )
    assert persons(scans.lr) == ["l1"]
    reasons = {scan.person: scan.reason for scan in scans.left_out}
    assert set(reasons) == {"few", "thin", "none", "small", "broken"}
    assert "24 x 24 x 4 voxels is smaller than a training patch of 16 x 16 x 8" in reasons["few"]
    assert "1.10 times as thick" in reasons["thin"]
    assert "no such file" in reasons["none"]
    assert "24 x 12 x 24 voxels is smaller than a training patch of 16 x 16 x 16" in reasons["small"]
    assert "broken.nii" in reasons["broken"]


@pytest.mark.parametrize("mode", ["unpaired", "generator-only", "paired"])
def test_one_hr_person_is_enough_only_if_allowed(
    mode: str, make: Callable[..., Path], store: ScanStore
) -> None:
    hr = [make("sub-1_a"), make("sub-1_b")]
    lr = [make("sub-2", thick=4, shape=(24, 24, 10))] if mode == "unpaired" else []
    with pytest.raises(DataError, match=r"^1 person\(s\) with usable HR scans, 2 needed"):
        gather(config(mode), lr, hr, None, store)
    for allowed in ({"least_persons": 1}, {"validation_fraction": 0}):
        scans = gather(config(mode, **allowed), lr, hr, None, store)
        assert len(scans.hr) == 2
        assert scans.validation_hr == scans.validation_lr == []
    with pytest.raises(DataError, match="3 needed"):
        gather(config(mode, least_persons=3), lr, hr, None, store)


def test_too_few_scans_are_refused_with_the_first_reason(
    make: Callable[..., Path], store: ScanStore, tmp_path: Path
) -> None:
    (tmp_path / "broken.nii").write_bytes(b"")
    hr = [make("h1"), make("h2")]
    with pytest.raises(DataError) as refused:
        gather(config(), [tmp_path / "broken.nii", tmp_path / "none.nii"], hr, None, store)
    message = str(refused.value)
    assert message.startswith("0 person(s) with usable LR scans, 1 needed")
    assert refused.value.remedy is not None
    assert refused.value.remedy.startswith("add more persons to lr")
    assert refused.value.options == ("lr", "set")
    assert "2 left out, the first because" in message
    assert "broken.nii: the file is empty" in message
    assert message.count(".") == message.count(".nii") + 1  # one sentence
    with pytest.raises(DataError, match=r"^0 person\(s\) with usable HR scans, 2 needed .*; .* to hr\.$"):
        gather(config("generator-only"), [], [], None, store)


def test_named_persons_are_held_back_in_both_domains(make: Callable[..., Path], store: ScanStore) -> None:
    hr = [make("sub-1_T1w"), make("sub-2_T1w")]
    lr = [make(f"sub-{n}_T2w", thick=4, shape=(24, 24, 10)) for n in (2, 3, 4)]
    scans = gather(config(held_back=("sub-2", "sub-3")), lr, hr, None, store)
    assert everybody(scans) == {
        "hr": ["sub-1"],
        "lr": ["sub-4"],
        "validation_hr": ["sub-2"],
        "validation_lr": ["sub-2", "sub-3"],
        "left_out": [],
    }
    with pytest.raises(
        DataError, match=r"held_back names zoe: no scan of them; known: sub-1, sub-2, sub-3, sub-4"
    ):
        gather(config(held_back=("zoe",)), lr, hr, None, store)
    with pytest.raises(DataError, match="everybody with LR scans"):
        gather(config(held_back=("sub-2", "sub-3", "sub-4")), lr, hr, None, store)
    with pytest.raises(DataError, match="everybody with HR scans"):
        gather(config(held_back=("sub-1", "sub-2")), lr, hr, None, store)


def test_generator_only_does_not_look_at_lr_scans(
    make: Callable[..., Path], store: ScanStore, tmp_path: Path
) -> None:
    (tmp_path / "broken.nii").write_bytes(b"")
    scans = gather(config("generator-only"), [tmp_path / "broken.nii"], [make("h1"), make("h2")], None, store)
    assert everybody(scans)["lr"] == everybody(scans)["validation_lr"] == []
    assert [scan.reason for scan in scans.left_out] == ["mode generator-only trains on HR scans alone"]
    manifest = {make("h3").resolve(): ManifestEntry(Domain.LR, "h3")}
    scans = gather(config("generator-only"), [], [make(f"h{n}") for n in (1, 2, 3)], manifest, store)
    assert [(scan.person, scan.reason) for scan in scans.left_out] == [
        ("h3", "mode generator-only trains on HR scans alone")
    ]


def test_a_manifest_alone_says_of_each_scan_what_it_is() -> None:
    thin, thick, other = (Path(f"/{name}.nii") for name in ("thin", "thick", "other"))
    manifest = {thin: ManifestEntry(Domain.HR, "a"), thick: ManifestEntry(Domain.LR, None)}
    sources = Sources.of({**manifest, other: ManifestEntry(Domain.NEITHER, None)})
    assert (sources.hr, sources.lr) == ([thin], [thick])
    with pytest.raises(DataError, match=r"other\.nii: .*domain"):
        Sources.of({**manifest, other: ManifestEntry(None, "b")})


def test_the_manifest_sorts_one_folder(make: Callable[..., Path], store: ScanStore, tmp_path: Path) -> None:
    names = {
        "a": (Domain.HR, "anna"),
        "b": (Domain.HR, "bert"),
        "c": (Domain.LR, "anna"),
        "d": (Domain.NEITHER, None),
    }
    manifest = {
        make(name, thick=4 if domain is Domain.LR else 1).resolve(): ManifestEntry(domain, person)
        for name, (domain, person) in names.items()
    }
    for given in (([], [tmp_path]), ([tmp_path], [tmp_path])):
        scans = gather(config(held_back=("bert",)), *given, manifest, store)
        assert everybody(scans) == {
            "hr": ["anna"],
            "lr": ["anna"],
            "validation_hr": ["bert"],
            "validation_lr": [],
            "left_out": ["d"],
        }


def test_tables_list_every_scan_once(make: Callable[..., Path], store: ScanStore, tmp_path: Path) -> None:
    scans = gather(config("generator-only"), [], [make("h1"), make("h2"), tmp_path / "none.nii"], None, store)
    tables = scans.tables()
    assert [title for title, _ in tables] == ["to train on", "held back for validation", "left out"]
    assert sorted(persons([scan for _, rows in tables for scan in rows])) == ["h1", "h2", "none"]


@pytest.fixture
def paired(tmp_path: Path, phantom) -> tuple[list[Path], list[Path]]:  # type: ignore[no-untyped-def]
    """Four persons with a pair each; the fourth one's HR scan is not where it says it is."""
    lr, hr = [], []
    for n in range(4):
        truth = Volume(100 * phantom((32, 32, 32), seed=n, noise=0.0), np.eye(4))
        thick, _ = simulate_thick(truth, 3.0)
        if n == 3:
            truth = Volume(np.roll(truth.data, (16, 16), (1, 2)), np.eye(4))
        lr.append(write_volume(thick, tmp_path / f"sub-{n}_thick.nii.gz"))
        hr.append(write_volume(truth, tmp_path / f"sub-{n}_thin.nii.gz"))
    return lr, hr


def test_pairs_are_of_one_person_each_and_aligned(
    paired: tuple[list[Path], list[Path]], make: Callable[..., Path], store: ScanStore
) -> None:
    lr, hr = paired
    alone = make("sub-8", thick=3, shape=(24, 24, 10))
    scans = gather(config("paired"), [*lr, alone], [*hr, make("sub-9")], None, store)
    assert [(thick.person, thin.person) for thick, thin in scans.pairs] == [
        (person, person) for person in persons(scans.lr)
    ]
    assert persons(scans.lr) == persons(scans.hr)
    assert len(scans.pairs) == 2
    assert len(scans.validation_hr) == len(scans.validation_lr) == 1
    reasons = {scan.path.name: scan.reason for scan in scans.left_out}
    assert set(reasons) == {"sub-3_thick.nii.gz", "sub-3_thin.nii.gz", "sub-8.nii", "sub-9.nii"}
    assert reasons["sub-8.nii"] == "no HR scan of sub-8 to pair it with"
    assert "not aligned in world coordinates" in reasons["sub-3_thin.nii.gz"]
    assert reasons["sub-9.nii"] == "no LR scan of sub-9 to pair it with"


def test_paired_mode_without_lr_scans_simulates_them(
    paired: tuple[list[Path], list[Path]], store: ScanStore
) -> None:
    scans = gather(config("paired"), [], paired[1], None, store)
    assert scans.pairs == scans.lr == scans.validation_lr == []
    assert len(scans.hr) == 3
    assert len(scans.validation_hr) == 1


def test_paired_mode_refuses_too_few_pairs(paired: tuple[list[Path], list[Path]], store: ScanStore) -> None:
    lr, hr = paired
    with pytest.raises(
        DataError, match=r"^1 person\(s\) with an aligned pair .* 2 needed.*not aligned in world"
    ):
        gather(config("paired"), lr[2:], hr[2:], None, store)
    assert len(gather(config("paired", least_persons=1), lr[2:], hr[2:], None, store).pairs) == 1


def test_a_person_held_back_by_name_needs_no_pair(
    paired: tuple[list[Path], list[Path]], make: Callable[..., Path], store: ScanStore
) -> None:
    lr, hr = paired
    scans = gather(config("paired", held_back=("sub-9",)), lr, [*hr, make("sub-9")], None, store)
    assert persons(scans.validation_hr) == ["sub-9"]
    assert len(scans.pairs) == 3
