"""What a page of the documentation tells its readers to type."""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping
from pathlib import Path

_DOCS = Path(__file__).resolve().parents[1] / "docs"


def blocks(page: str, language: str) -> list[str]:
    """The code of a page in one language."""
    return re.findall(rf"```{language}\n(.*?)```", (_DOCS / page).read_text(encoding="utf-8"), re.DOTALL)


def command(page: str, begins: str, places: Mapping[str, object]) -> list[str]:
    """The arguments of the one command of a page that begins so, its places replaced by those of a test."""
    lines = [line for block in blocks(page, "sh") for line in block.splitlines() if line.startswith(begins)]
    assert len(lines) == 1, (page, begins, lines)
    arguments = shlex.split(lines[0])
    assert set(places) <= set(arguments), set(places) - set(arguments)
    return [str(places.get(word, word)) for word in arguments]
