"""One piece of work for the library in a process of its own: ``python -m SRCycLib.engine_worker REQUEST.json``.

As :mod:`SRCycLib.worker` does for a server: the file holds ``action``, ``arguments`` and ``parent`` (Slicer's process);
standard output gets one JSON object per line: ``pid``, ``progress``, and last ``result`` or ``error``.
"""

from __future__ import annotations

import importlib
import json
import os
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

from SRCycLib import engine_needs, engine_pip
from SRCycLib.processes import end_with

Progress = Callable[[str, float], None]

#: What a request may say besides the library's own options; the rest of these goes with a server only.
_OURS = ("weights", "device", "precision", "result_extension", "result_dtype", "store")


class EngineError(Exception):
    """Its text is a sentence for the user: what is wrong, and what to do."""


def main(arguments: list[str]) -> int:
    """Meet a request; give the exit code."""
    say = _take_stdout()
    file = Path(arguments[0])
    say({"pid": os.getpid()})
    try:
        request = json.loads(file.read_text(encoding="utf-8"))
        end_with(file, int(request["parent"]), request.get("folders", ()))
        action = _ACTIONS[request["action"]]

        def progress(state: str, share: float) -> None:
            say({"progress": {"state": state, "share": share}})

        result = action(progress=progress, **request["arguments"])
    except EngineError as error:
        say({"error": str(error)})
        return 1
    except Exception as error:  # noqa: BLE001 - whatever it is, the user gets a sentence, and the details go to the log
        say({"error": _sentence(error), "details": traceback.format_exc()})
        return 1
    say({"result": result})
    return 0


def _take_stdout() -> Callable[[dict[str, Any]], None]:
    """Keep standard output for ourselves: what libraries print goes to standard error."""
    out = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)

    def say(what: dict[str, Any]) -> None:
        out.write(json.dumps(what) + "\n")
        out.flush()

    return say


def _look(progress: Progress) -> dict[str, Any]:
    return engine_needs.look()


def _pip(module: str, words: list[str], settings: dict[str, str], progress: Progress) -> dict[str, Any]:
    return engine_pip.run(module, words, settings, progress)


def _infer(file: str, folder: str, params: dict[str, Any], progress: Progress) -> dict[str, Any]:
    """Super-resolve a scan; arguments and result are those of :meth:`SRCycLib.client.Client.infer`."""
    progress("starting", 0.0)
    _load_library()
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


def _load_library() -> None:
    package = engine_needs.library()
    if package is None:
        raise EngineError(
            "The library srcyc is not beside this module: install the extension again, or download the whole of SRCyc."
        )
    try:
        engine_needs.load(package)
        importlib.import_module("srcyc.inference.super_resolver")
    except (ImportError, OSError) as error:
        # OSError: of a DLL that cannot be loaded.
        reason = " ".join(str(error).split())
        raise EngineError(
            f"What SRCyc needs on this computer is not complete ({reason}): restart Slicer and press Apply again; if "
            "that does not help, uninstall PyTorch with Slicer's module PyTorch Utils, and let SRCyc install it anew."
        ) from error


def _sentence(error: Exception) -> str:
    """Say an error of the library in words of the panel."""
    if hasattr(error, "fact"):
        return _worded(error)
    text = " ".join(str(error).split())
    if isinstance(error, MemoryError) or "out of memory" in text or "allocate memory" in text:
        return "This computer has too little memory: ask for a coarser target spacing, or use a server with more."
    if isinstance(error, OSError):
        where = f"{error.filename}: " if error.filename else ""
        return f"{where}{error.strerror or text}; check the disk and its permissions, and try once more."
    kind = type(error).__name__
    return f"The computation failed unexpectedly ({kind}): please report it with the details in the log."


def _worded(error: Any) -> str:
    """Put fact and remedy into one sentence in which options bear the panel's labels."""
    from srcyc.inference.options import InferenceOptions

    text = str(error.fact) if error.remedy is None else f"{error.fact}; {error.remedy}."
    for name in error.options:
        field = InferenceOptions.model_fields.get(name)
        label = (field.title if field else None) or name.replace("_", " ")
        text = text.replace(name, label)
    return text


_ACTIONS: dict[str, Callable[..., dict[str, Any]]] = {"look": _look, "pip": _pip, "infer": _infer}

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
