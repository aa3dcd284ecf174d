"""One piece of work for the library in a process of its own: ``python -m SRCycLib.engine_worker REQUEST.json``.

As :mod:`SRCycLib.worker` does for a server: the file holds ``action``, ``arguments`` and ``parent`` (Slicer's process);
standard output gets one JSON object per line: ``pid``, ``progress``, and last ``result`` or ``error``.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from SRCycLib import VERSION, engine_needs, engine_pip, series
from SRCycLib.processes import Problem, Say, answer

Progress = Callable[[str, float], None]

#: What a request may say besides the library's own options; the rest of these goes with a server only.
_OURS = ("weights", "device", "precision", "result_extension", "result_dtype", "store")


def main(file: str) -> int:
    """Meet a request; give the exit code."""
    return answer(Path(file), _meet)


def _meet(request: dict[str, Any], say: Say) -> dict[str, Any]:
    def progress(state: str, share: float) -> None:
        say({"progress": {"state": state, "share": share}})

    try:
        return _ACTIONS[request["action"]](progress=progress, **request["arguments"])
    except Problem:
        raise
    except Exception as error:
        if said := _sentence(error):
            raise Problem(said) from error
        raise


def _look(progress: Progress) -> dict[str, Any]:
    return engine_needs.look()


def _pip(module: str, words: list[str], settings: dict[str, str], progress: Progress) -> dict[str, Any]:
    return engine_pip.run(module, words, settings, progress)


def _infer(file: str, folder: str, params: dict[str, Any], progress: Progress) -> dict[str, Any]:
    """Super-resolve a scan; arguments and result are those of :meth:`SRCycLib.client.Client.infer`."""
    progress("starting", 0.0)
    with _library():
        from srcyc.inference.options import InferenceOptions
        from srcyc.inference.results import write_result
        from srcyc.inference.super_resolver import SuperResolver
        from srcyc.models.model_file import find_model
        from srcyc.volumes.volume import read_volume

    wishes = {name: value for name, value in params.items() if name not in _OURS and value not in ("", None)}
    options = InferenceOptions.of(wishes)
    resolver = SuperResolver.load(
        find_model(params.get("weights") or engine_needs.DEFAULT_MODEL),
        device=params.get("device") or "auto",
        precision=params.get("precision") or "auto",
    )
    progress("reading", 0.0)
    source = Path(file)
    scan = read_volume(source)
    progress("running", 0.0)
    result = resolver(scan, options, progress=lambda share: progress("running", share))
    progress("writing", 0.0)
    place = Path(folder) / f"{source.stem}_sr{params.get('result_extension') or '.nrrd'}"
    written = write_result(result, scan, place, sidecar=False, private=True)
    maps = {name: str(path) for name, path in written.maps.items()}
    return {"volume": str(place), "maps": maps, "report": written.sidecar}


@contextlib.contextmanager
def _library() -> Iterator[None]:
    """Make the library importable; it is imported inside the block.

    Raises:
        Problem: it is not there, of another version, or does not find what it needs.
    """
    package = engine_needs.library()
    if package is None:
        raise Problem(
            "The library srcyc is not beside this module: install the extension again, or download the whole of SRCyc."
        )
    version = engine_needs.version_of(package)
    another = (
        f"The library srcyc in {package}, {version or 'of no version'}, is not the one that this module is made for, "
        f"{VERSION}: install the extension again, or remove that library."
    )
    if series(version) != series(VERSION):
        raise Problem(another)
    try:
        engine_needs.load(package)
        yield
    except (ImportError, OSError) as error:
        if isinstance(error, ImportError) and (error.name or "").partition(".")[0] == "srcyc":
            raise Problem(another) from error
        # OSError: of a DLL that cannot be loaded.
        reason = " ".join(str(error).split())
        raise Problem(
            f"What SRCyc needs on this computer is not complete ({reason}): restart Slicer and press Apply again; if "
            "that does not help, uninstall PyTorch with Slicer's module PyTorch Utils, and let SRCyc install it anew."
        ) from error


def _sentence(error: Exception) -> str:
    """Say an error of the library in words of the panel; '' if it is none, nor one of memory."""
    if hasattr(error, "worded"):
        return str(error.worded(_label))
    text = str(error)
    if isinstance(error, MemoryError) or "out of memory" in text or "allocate memory" in text:
        return "This computer has too little memory: ask for a coarser target spacing, or use a server with more."
    return ""


def _label(option: str) -> str:
    """Give the panel's name of one of the library's options."""
    from srcyc.inference.options import InferenceOptions

    field = InferenceOptions.model_fields.get(option)
    return (field.title if field else None) or option.replace("_", " ")


_ACTIONS: dict[str, Callable[..., dict[str, Any]]] = {"look": _look, "pip": _pip, "infer": _infer}

if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
