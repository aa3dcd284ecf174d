"""Which of a datastore's scans are LR, HR, results, or neither, and why; what a training is given."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from monailabel.interfaces.datastore import Datastore

from srcyc.data.domains import AssignedScan, Domain, ManifestEntry, domain_of_spacing, person_of

#: A result of super-resolution: shown, never trained on.
SR = "SR"
#: What a scan can be tagged, by its spelling in lower case.
TAGS = {"lr": "LR", "hr": "HR", "sr": SR, "neither": "neither"}

_NEITHER = Domain.NEITHER.value


def assigned_domain(info: Mapping[str, Any]) -> tuple[str, str]:
    """Assign a domain to a scan: its tag wins, then a file that cannot be read, then its name, then its spacing.

    Args:
        info: image info of a datastore; one that says ``domain_reason`` was assigned already and is taken as it is.

    Returns:
        ``"LR"``, ``"HR"``, ``"SR"`` or ``"neither"``, and one clause that says why.
    """
    if info.get("made_from"):
        return SR, f"made from {info['made_from']}"
    tag = TAGS.get(str(info.get("domain") or "").strip().lower())
    if tag and "domain_reason" in info:
        return tag, str(info["domain_reason"])
    spacing = _spacing(info)
    by_spacing = domain_of_spacing(spacing) if spacing else None
    if tag:
        return tag, f"{by_spacing[1]}; tagged {tag}" if by_spacing else f"tagged {tag}"
    if info.get("error"):
        return _NEITHER, str(info["error"])
    if str(info.get("name", "")).split(".")[0].endswith("_sr"):
        # Where the tag of a result was lost, it must not be trained on for its thin slices.
        return SR, "its name ends in _sr, as those of results do; tag it otherwise if it is a scan"
    if by_spacing is None:
        return _NEITHER, "its spacing is not known; tag it LR or HR"
    return by_spacing[0].value, by_spacing[1]


def person_in(image: str, info: Mapping[str, Any]) -> str:
    """Give the person of a scan: the tag's, else guessed from the file's name."""
    # Of the name alone: the folders above the studies are the same for all scans.
    name = Path(str(info.get("name") or image))
    guessed = person_of(name)
    # A series within a tree is called after what was scanned: the tree is whose it is.
    within = len(name.parts) > 1 and guessed == name.name.split(".")[0]
    return str(info.get("person") or "") or (name.parts[0] if within else guessed)


def scans_in(datastore: Datastore, domain: str) -> list[str]:
    """List the ids of a domain's readable scans, sorted."""
    found = []
    for image in datastore.list_images():
        info = datastore.get_image_info(image)
        if not info.get("error") and assigned_domain(info)[0] == domain:
            found.append(image)
    return sorted(found)


def training_scans(datastore: Datastore) -> tuple[dict[Path, ManifestEntry], list[AssignedScan]]:
    """Give what a training may use: a manifest as :func:`srcyc.data.domains.read_manifest` gives it.

    Persons are those of the tags, else guessed from the file's name.

    Returns:
        LR and HR scans by path, and what is left out with the reason.
    """
    entries: dict[Path, ManifestEntry] = {}
    left_out: list[AssignedScan] = []
    for image in sorted(datastore.list_images()):
        info = datastore.get_image_info(image)
        domain, reason = assigned_domain(info)
        person = person_in(image, info)
        usable = domain in (Domain.LR.value, Domain.HR.value)
        if usable and not info.get("error"):
            path = Path(datastore.get_image_uri(image)).resolve()
            entries[path] = ManifestEntry(Domain(domain), person)
            continue
        shown = Path(str(info.get("path") or info.get("name") or image))
        reason = (
            str(info["error"])
            if usable
            else f"a result of super-resolution: {reason}"
            if domain == SR
            else reason
        )
        left_out.append(AssignedScan(shown, Domain.NEITHER, reason, person, _spacing(info)))
    return entries, left_out


def _spacing(info: Mapping[str, Any]) -> tuple[float, float, float] | None:
    """Give the spacing, mm, if it is there and three positive numbers."""
    value = info.get("spacing")
    if not isinstance(value, (list, tuple)) or len(value) != 3:
        return None
    if not all(isinstance(v, (int, float)) and 0 < v < float("inf") for v in value):
        return None
    x, y, z = (float(v) for v in value)
    return x, y, z
