"""What a result says within its own file of how it was made: it may lose its sidecar, but not that."""

from __future__ import annotations

from srcyc.inference.report import AnyReport
from srcyc.volumes.formats.raw import Origin

#: For a place where a reader of the image sees it.
CAUTION = "not for diagnostic use"

#: Digits of a hash that a line has room for; the whole of it is among the fields.
_DIGITS = 12
_LONGEST_MODEL = 24


def origin_of(report: AnyReport, content: str = "volume") -> Origin:
    """Tell the origin of a result's volume, or of what else belongs to it.

    Args:
        report: on the result.
        content: ``volume``, ``labels``, or the name of a map.

    Returns:
        software and version, name and SHA-256 of the model, of the scan's files, and what it is not for.
    """
    model = report.model
    what = "" if content == "volume" else f"{content} "
    line = f"{what}{report.software} {model.name[:_LONGEST_MODEL]} {model.sha256[:_DIGITS]} {CAUTION}"
    fields = {
        "software": report.software,
        "content": content,
        "model": model.name,
        "model_sha256": model.sha256,
        "model_licence": model.licence,
        "input_sha256": report.input.sha256 or "",
        "note": report.note,
    }
    return Origin(line, fields)
