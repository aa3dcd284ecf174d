"""What a run trains on: scans found, checked, assigned to domains, and split by person."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from srcyc.config import TrainingConfig
from srcyc.data.domains import (
    AssignedScan,
    Domain,
    ManifestEntry,
    assign_domains,
    draw_held_back,
    expand,
    person_of,
)
from srcyc.data.pairs import why_not_a_pair
from srcyc.data.store import ScanStore, TrainingScan
from srcyc.errors import DataError

#: An LR scan whose slices are less than this many times as thick as its pixels has nothing to teach.
LEAST_FACTOR = 1.2
_NO_LR = "mode generator-only trains on HR scans alone"

Pair = tuple[AssignedScan, AssignedScan]


@dataclass(frozen=True)
class TrainingSet:
    """The scans of a run.

    Attributes:
        lr: LR scans to train on; empty where the mode simulates them.
        hr: HR scans to train on.
        validation_hr: HR scans of held-back persons.
        validation_lr: LR scans of held-back persons.
        left_out: scans that are not used, each with its reason.
        pairs: of ``lr`` and ``hr``: aligned scans of one person each; empty except in paired mode with LR scans.
    """

    lr: list[AssignedScan]
    hr: list[AssignedScan]
    validation_hr: list[AssignedScan]
    validation_lr: list[AssignedScan]
    left_out: list[AssignedScan]
    pairs: list[Pair] = field(default_factory=list)

    def tables(self) -> list[tuple[str, list[AssignedScan]]]:
        """Give what there is to list: a title and its scans, without empty ones."""
        tables = [
            ("to train on", [*self.lr, *self.hr]),
            ("held back for validation", [*self.validation_lr, *self.validation_hr]),
            ("left out", self.left_out),
        ]
        return [(title, scans) for title, scans in tables if scans]


@dataclass(frozen=True)
class Sources:
    """Where the scans of a run are that is to begin.

    Attributes:
        lr: thick-slice scans, or folders of them.
        hr: thin-slice scans, or folders of them.
        manifest: what is known of some of them.
    """

    lr: Sequence[Path] = ()
    hr: Sequence[Path] = ()
    manifest: dict[Path, ManifestEntry] | None = None

    @classmethod
    def of(cls, manifest: Mapping[Path, ManifestEntry]) -> Sources:
        """Take the scans that a manifest names, each for what it says there.

        Raises:
            DataError: it does not say of one what it is.
        """
        if undecided := [path for path, entry in manifest.items() if entry.domain is None]:
            raise DataError(
                f"{undecided[0]}: the manifest does not say which domain it belongs to",
                remedy="write LR, HR or neither there, or name all scans by lr and hr",
                options=("lr", "hr"),
            )
        lr, hr = (
            [path for path, entry in manifest.items() if entry.domain is domain]
            for domain in (Domain.LR, Domain.HR)
        )
        return cls(lr, hr, dict(manifest))

    def gather(self, config: TrainingConfig, store: ScanStore) -> TrainingSet:
        """Find the scans, leave out what cannot be used, pair, and hold persons back.

        A person held back is so in both domains: nothing of that person is trained on. Every scan is read once, into
        the store; LR scans are not looked at in generator-only mode.

        Args:
            config: of the run.
            store: where the scans are kept, normalised.

        Raises:
            DataError: too few persons are left in a domain that the mode needs, or an unknown person is to be held
                back.
            OutputError: the store's disk is full.
        """
        manifest = self.manifest or {}
        given_lr = bool(self.lr) or any(entry.domain is Domain.LR for entry in manifest.values())
        sorting = _Sorting(config, manifest, store, paired=config.mode == "paired" and given_lr)
        if config.mode == "generator-only":
            sorting.ignore(self.lr)
        else:
            sorting.add(self.lr, Domain.LR)
        sorting.add(self.hr, Domain.HR)
        if sorting.needs_lr:
            _require(sorting, Domain.LR, 1)
        _require(sorting, Domain.HR, persons_needed(config))
        return _split(sorting, _pair(sorting) if sorting.paired else [])


class _Sorting:
    """Scans by domain, and those left out.

    Args:
        config: of the run.
        manifest: what is known of some of them.
        store: where they are kept.
        paired: real pairs are trained on.
    """

    def __init__(
        self,
        config: TrainingConfig,
        manifest: dict[Path, ManifestEntry],
        store: ScanStore,
        *,
        paired: bool,
    ) -> None:
        self.config = config
        self.manifest = manifest
        self.store = store
        self.paired = paired
        self.used: dict[Domain, list[AssignedScan]] = {Domain.LR: [], Domain.HR: []}
        self.left_out: dict[Domain, list[AssignedScan]] = {Domain.LR: [], Domain.HR: []}
        self._seen: set[tuple[Path, Domain]] = set()

    @property
    def needs_lr(self) -> bool:
        return self.config.mode == "unpaired" or self.paired

    @property
    def all_left_out(self) -> list[AssignedScan]:
        return [*self.left_out[Domain.LR], *self.left_out[Domain.HR]]

    def add(self, paths: Sequence[Path], domain: Domain) -> None:
        """Sort scans that the caller gives as of one domain."""
        found = assign_domains(
            paths, domain=domain, manifest=self.manifest, spacing_of=lambda path: self.store.get(path).spacing
        )
        for scan in found:
            # With a manifest one folder may be given as both domains.
            if (scan.path, scan.domain) in self._seen:
                continue
            self._seen.add((scan.path, scan.domain))
            if scan.domain is Domain.NEITHER:
                self.left_out[domain].append(scan)
            elif reason := self._problem(scan):
                self.leave_out(scan, reason)
            else:
                self.used[scan.domain].append(scan)

    def ignore(self, paths: Sequence[Path]) -> None:
        """List LR scans without reading them."""
        for path in expand(paths):
            person = self.manifest.get(path.resolve(), ManifestEntry(None, None)).person
            self.leave_out(AssignedScan(path, Domain.LR, "", person or person_of(path), None), _NO_LR)

    def leave_out(self, scan: AssignedScan, reason: str) -> None:
        self.left_out[scan.domain].append(replace(scan, reason=reason))

    def load(self, scan: AssignedScan) -> TrainingScan:
        return self.store.get(scan.path)

    def _problem(self, scan: AssignedScan) -> str | None:
        """Say in one sentence why no patch can be drawn from a scan."""
        data = self.config.data
        if scan.domain is Domain.LR and self.config.mode == "generator-only":
            return _NO_LR
        loaded = self.load(scan)
        shape = loaded.image.shape
        if scan.domain is Domain.LR:
            need = (data.size, data.size, data.slices[0])
        else:
            # The HR scan of a real pair gives what the LR patch covers: whether it does is looked at pair by pair.
            need = (1, 1, 1) if self.paired else (data.size,) * 3
        if any(n < s for n, s in zip(shape, need, strict=True)):
            return (
                f"{loaded.name}: {' x '.join(map(str, shape))} voxels is smaller than a training patch of "
                f"{' x '.join(map(str, need))}; set data.size to a smaller patch."
            )
        if scan.domain is Domain.LR and loaded.factor < LEAST_FACTOR:
            return (
                f"{loaded.name}: its slices are {loaded.factor:.2f} times as thick as its pixels, an LR scan's at "
                f"least {LEAST_FACTOR:g} times; give it as an HR scan if it is thin on every axis."
            )
        return None


def persons_needed(config: TrainingConfig) -> int:
    """Give how many persons with HR scans a run needs; without validation one is enough."""
    if config.data.validation_fraction == 0 and not config.data.held_back:
        return 1
    return config.data.least_persons


def _require(sorting: _Sorting, domain: Domain, needed: int) -> None:
    """Refuse a domain with too few persons.

    Raises:
        DataError: says how many are needed, how many there are, and why the first scan was left out.
    """
    count = len(_persons(sorting.used[domain]))
    if count >= needed:
        return
    if domain is Domain.LR:
        option, purpose, otherwise = "lr", "", ", or train without by set mode=generator-only"
    else:
        option = "hr"
        purpose = " (to train on some and hold others back)" if needed > 1 else ""
        otherwise = ", or do without validation by set data.validation_fraction=0" if count else ""
    raise DataError(
        f"{count} person(s) with usable {domain.value} scans, {needed} needed{purpose}"
        f"{_first_reason(sorting.left_out[domain])}",
        remedy=f"add more persons to {option}{otherwise}",
        options=(option, "set"),
    )


def _first_reason(left_out: Sequence[AssignedScan]) -> str:
    if not left_out:
        return ""
    return f"; {len(left_out)} left out, the first because: {left_out[0].reason.rstrip('.')}"


def _pair(sorting: _Sorting) -> list[Pair]:
    """Pair the scans of each person; scans that end up in no pair are left out, unless the person is held back.

    Raises:
        DataError: no pair, or pairs of too few persons.
    """
    data = sorting.config.data
    pairs: list[Pair] = []
    reasons: dict[Path, str] = {}
    for lr in sorting.used[Domain.LR]:
        thick = sorting.load(lr)
        slices = min(data.slices[1], thick.image.shape[2])
        partners = [hr for hr in sorting.used[Domain.HR] if hr.person == lr.person]
        if not partners:
            reasons[lr.path] = f"no HR scan of {lr.person} to pair it with"
        for hr in partners:
            reason = why_not_a_pair(thick, sorting.load(hr), (data.size, data.size, slices))
            if reason is None:
                pairs.append((lr, hr))
            else:
                reasons.setdefault(lr.path, reason)
                reasons.setdefault(hr.path, reason)
    in_pairs = {scan.path for pair in pairs for scan in pair}
    for domain, scans in sorting.used.items():
        for scan in scans:
            if scan.path not in in_pairs and scan.person not in data.held_back:
                sorting.leave_out(
                    scan, reasons.get(scan.path, f"no LR scan of {scan.person} to pair it with")
                )
        sorting.used[domain] = [
            scan for scan in scans if scan.path in in_pairs or scan.person in data.held_back
        ]
    count, needed = len(_persons(lr for lr, _ in pairs)), persons_needed(sorting.config)
    if count < needed:
        raise DataError(
            f"{count} person(s) with an aligned pair of an LR and an HR scan, {needed} needed"
            f"{_first_reason(sorting.all_left_out)}",
            remedy="give more pairs, or train on simulated ones without lr",
            options=("lr",),
        )
    return pairs


def _split(sorting: _Sorting, pairs: list[Pair]) -> TrainingSet:
    """Hold persons back.

    Raises:
        DataError: an unknown person is to be held back, or nobody would be left to train on.
    """
    data = sorting.config.data
    lr = sorting.used[Domain.LR] if sorting.needs_lr else []
    hr = sorting.used[Domain.HR]
    if data.held_back:
        known = _persons([*sorting.used[Domain.LR], *hr, *sorting.all_left_out])
        if unknown := set(data.held_back) - known:
            raise DataError(
                f"data.held_back names {', '.join(sorted(unknown))}: no scan of them",
                remedy=f"known: {', '.join(sorted(known))}",
            )
        held_back = frozenset(data.held_back)
    else:
        held_back = draw_held_back(_persons(hr), _persons(lr), data.validation_fraction, sorting.config.seed)
    training = TrainingSet(
        lr=[scan for scan in lr if scan.person not in held_back],
        hr=[scan for scan in hr if scan.person not in held_back],
        validation_hr=[scan for scan in hr if scan.person in held_back],
        validation_lr=[scan for scan in lr if scan.person in held_back],
        left_out=sorting.all_left_out,
        pairs=[pair for pair in pairs if pair[0].person not in held_back],
    )
    for domain, left in ((Domain.HR, training.hr), (Domain.LR, training.lr)):
        if not left and (domain is Domain.HR or sorting.needs_lr):
            raise DataError(
                f"data.held_back holds back everybody with {domain.value} scans: nobody is left to train on",
                remedy="give scans of more persons or name fewer",
            )
    return training


def _persons(scans: Iterable[AssignedScan]) -> set[str]:
    return {scan.person for scan in scans}
