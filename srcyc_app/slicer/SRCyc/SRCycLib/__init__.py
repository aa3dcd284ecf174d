"""What the module SRCyc is made of; `client` and `worker` run outside Slicer too."""

from __future__ import annotations

#: Of the module, which understands servers and libraries of the same series.
VERSION = "0.1.0"


def series(version: str) -> tuple[int, ...]:
    """Give what two versions have in common that understand each other: while the first number is 0, the second too."""
    numbers = []
    for part in version.split(".")[:2]:
        digits = part[: len(part) - len(part.lstrip("0123456789"))]
        numbers.append(int(digits) if digits else -1)
    return tuple(numbers) if numbers[0] == 0 else tuple(numbers[:1])
