"""Which of a datastore's scans a training is given, and the refusal where they cannot be enough."""

from __future__ import annotations

from collections.abc import Sequence

from monailabel.interfaces.datastore import Datastore

from srcyc.config import TrainingConfig
from srcyc.data.domains import Domain
from srcyc.data.gathering import Sources, persons_needed
from srcyc_app.refusals import unusable
from srcyc_app.studies.domains import person_in, scans_in, training_scans

_HOW = "add some to the studies, or tag scans as such (PUT /datastore/image/info?image=ID with the form field info="


def given_scans(datastore: Datastore, config: TrainingConfig) -> tuple[Sources, dict[str, str]]:
    """Give the scans of a datastore to train on, and why the others are not used, by name."""
    manifest, left_out = training_scans(datastore)
    if config.mode == "paired":
        # Thick scans of people without a thin one are no pairs; without any, pairs are simulated.
        with_hr = {entry.person for entry in manifest.values() if entry.domain is Domain.HR}
        manifest = {
            path: entry
            for path, entry in manifest.items()
            if entry.domain is Domain.HR or entry.person in with_hr
        }
    return Sources.of(manifest), {scan.path.name: scan.reason for scan in left_out}


def check_scans(datastore: Datastore, config: TrainingConfig) -> None:
    """Refuse a training for which there are too few scans, by what the datastore tells of them; reads none.

    Raises:
        Refusal: 422, says what is missing and how to add it.
    """
    hr, lr = (_persons(datastore, domain) for domain in (Domain.HR, Domain.LR))
    if not hr:
        raise unusable(
            "no thin-slice (HR) scan is in the studies, which training needs to know what thin slices look like: "
            f'{_HOW}{{"domain": "HR"}}).'
        )
    if config.mode == "unpaired" and not lr:
        raise unusable(
            f'no thick-slice (LR) scan is in the studies: {_HOW}{{"domain": "LR"}}), or send mode: generator-only, '
            "which needs none."
        )
    needed = persons_needed(config)
    if len(hr) < needed:
        raise unusable(
            f"thin-slice (HR) scans of {len(hr)} person(s) ({_some(sorted(hr))}) are in the studies, {needed} are "
            "needed to train on some and hold others back: add scans of more people, tag whose each scan is "
            '(info={"person": "NAME"}), or do without validation by settings: data.validation_fraction=0.'
        )


def _persons(datastore: Datastore, domain: Domain) -> set[str]:
    return {person_in(image, datastore.get_image_info(image)) for image in scans_in(datastore, domain.value)}


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:3]) + (", …" if len(names) > 3 else "")
