"""What a client may say of an image or a label: checked, so that whatever is stored can be read again and sent."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

from srcyc.documents import checked_json, json_object
from srcyc_app.refusals import unusable
from srcyc_app.studies.domains import TAGS
from srcyc_app.studies.identifiers import is_plain_component

#: Told by the server, never by a client.
RESERVED = frozenset(
    (
        "name",
        "ts",
        "path",
        "spacing",
        "shape",
        "error",
        "seen",
        "domain_reason",
        "domain_tag",
        "made_from",
        "report",
        "added_by",
    )
)
_RESERVED_OF_LABELS = frozenset(("name", "ts", "path"))

_MOST_CHARACTERS = 1 << 18
_DEEPEST = 32


def checked_image_info(info: Any) -> dict[str, Any]:
    """Give a client's image info back, domain and person in their normal spelling; ``""`` takes a tag away.

    Raises:
        Refusal: 422: not an object, a reserved key, a tag that is none, more than can be kept.
    """
    checked = _checked(info, RESERVED)
    if "domain" in checked:
        text = str(checked["domain"] or "").strip()
        if text and text.lower() not in TAGS:
            raise unusable(f"domain {text[:60]!r}: tag a scan LR, HR, SR or neither, or '' for none.")
        checked["domain"] = TAGS.get(text.lower(), "")
    if "person" in checked:
        person = checked["person"] if checked["person"] is not None else ""
        if not isinstance(person, (str, int)) or (str(person) and not is_plain_component(str(person))):
            raise unusable(
                f"person {str(person)[:60]!r}: give a plain name without separators or leading dots, '' for none."
            )
        checked["person"] = str(person)
    if "strategy" in checked and not _is_served_record(checked["strategy"]):
        raise unusable("strategy: give {NAME: {'ts': seconds since 1970, not in the future}}.")
    return checked


def checked_label_info(info: Any) -> dict[str, Any]:
    """Give a client's label info back.

    Raises:
        Refusal: 422: not an object, a reserved key, more than can be kept.
    """
    return _checked(info, _RESERVED_OF_LABELS)


def merged(info: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """Apply checked changes to an image's info.

    Raises:
        Refusal: 422: more than can be kept.
    """
    result = {**info, **changes}
    for key in ("domain", "person"):
        if result.get(key) == "":
            del result[key]
    _require_small({key: value for key, value in result.items() if key not in RESERVED})
    return result


def _checked(info: Any, reserved: frozenset[str]) -> dict[str, Any]:
    if info is None:
        return {}
    if not isinstance(info, Mapping):
        raise unusable('info: give a JSON object, such as {"domain": "HR"}.')
    if taken := sorted(reserved & {str(key) for key in info}):
        raise unusable(f"info: {', '.join(taken)}: told by the server; leave it out.")
    return _require_small(info)


def _require_small(info: Mapping[str, Any]) -> dict[str, Any]:
    """Give a copy; refuse what the state file could not hold or a reply could not carry."""
    if _depth(info) > _DEEPEST:
        raise unusable(f"info: nested more than {_DEEPEST} levels deep; say less of an image.")
    try:
        text = checked_json(dict(info))
    except ValueError as error:
        raise unusable(f"info: holds what JSON cannot say ({str(error)[:80]}); send plain values.") from error
    if len(text) > _MOST_CHARACTERS:
        raise unusable(f"info: {len(text)} characters, at most {_MOST_CHARACTERS} are kept of an image.")
    return json_object(text)


def _depth(value: Any) -> int:
    """Count the levels without recursion: what is too deep for Python's stack must be told too."""
    deepest, level = 0, [value]
    while level and deepest <= _DEEPEST:
        deepest += 1
        level = [
            child
            for item in level
            if isinstance(item, (Mapping, list, tuple))
            for child in (item.values() if isinstance(item, Mapping) else item)
        ]
    return deepest


def _is_served_record(value: Any) -> bool:
    """Tell whether a value is what active learning keeps: when an image was last served, and to whom."""
    return isinstance(value, Mapping) and all(
        isinstance(record, Mapping)
        and isinstance(record.get("ts", 0), (int, float))
        and 0 <= record.get("ts", 0) <= time.time() + 1
        for record in value.values()
    )
