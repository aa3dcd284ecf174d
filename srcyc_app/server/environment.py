"""MONAI Label's settings: this process's, and what its subprocesses read from their environment."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import srcyc_app
from srcyc.documents import json_line

if TYPE_CHECKING:
    from srcyc_app.core import AppCore


def configure(studies: str, port: int, conf: Mapping[str, str]) -> None:
    """Set what MONAI Label reads, here and in subprocesses; what the user set in the environment stays.

    Args:
        studies: absolute path, or the address of a DICOMweb server.
        port: of the server.
        conf: the app's ``conf``.
    """
    from monailabel.config import settings

    settings.MONAI_LABEL_APP_DIR = str(Path(srcyc_app.__file__).resolve().parent)
    settings.MONAI_LABEL_STUDIES = studies
    settings.MONAI_LABEL_APP_CONF = dict(conf)
    settings.MONAI_LABEL_SERVER_PORT = port
    # Each scoring method would start a process after every training; mlflow fails on current releases.
    settings.MONAI_LABEL_TASKS_SCORING = False
    settings.MONAI_LABEL_AUTO_UPDATE_SCORING = False
    settings.MONAI_LABEL_TRACKING_ENABLED = False


def app_of_settings() -> AppCore:
    """Load the app on the studies that the settings name.

    Raises:
        SRCycError: it cannot be loaded.
    """
    from monailabel.config import settings

    from srcyc_app.core import AppCore

    return AppCore(
        settings.MONAI_LABEL_APP_DIR, settings.MONAI_LABEL_STUDIES, dict(settings.MONAI_LABEL_APP_CONF)
    )


def of_subprocess(**more: str) -> dict[str, str]:
    """Give the environment with which a subprocess loads the same app on the same studies."""
    from monailabel.config import settings

    environment = dict(os.environ)
    for key, value in settings.model_dump().items():
        if value is not None:
            environment[key] = _text(value)
    # One scan of the studies folder is enough for a task, and it never changes what the server watches.
    environment["MONAI_LABEL_DATASTORE_AUTO_RELOAD"] = "false"
    environment.setdefault("PYTHONPATH", "")
    return {**environment, **more}


def _text(value: Any) -> str:
    return json_line(value) if isinstance(value, dict | list) else str(value)
