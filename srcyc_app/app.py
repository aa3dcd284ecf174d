"""The app as MONAI Label's own server loads it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from monailabel.interfaces.app import MONAILabelApp
from monailabel.interfaces.datastore import Datastore

from srcyc_app.core import AppCore
from srcyc_app.refusals import forbidden, not_found
from srcyc_app.server.stock import guard, is_stock_server


class SRCycApp(AppCore, MONAILabelApp):
    """MONAI Label's class, in which all that matters is the core's, and what its routes leave open is closed.

    Arguments and errors are :class:`~srcyc_app.core.AppCore`'s.
    """

    #: Asked for by what MONAI Label's class does when it is complete.
    _auto_update_scoring = False

    def __init__(self, app_dir: str, studies: str, conf: Mapping[str, str] | None = None) -> None:
        # MONAI Label's constructor would make parts of its own in the place of the core's.
        AppCore.__init__(self, app_dir, studies, conf)
        hosts = self.conf.get("allowed_hosts", "").replace(" ", "").split(",")
        self._allowed_hosts = [name for name in hosts if name]
        if is_stock_server():
            # From the first request on, also of an app that MONAI Label loads anew while it runs.
            self.server_mode(True)

    def on_init_complete(self) -> None:
        """Close what MONAI Label's own server leaves open."""
        super().on_init_complete()
        guard(self._allowed_hosts, lambda: self.max_upload)

    def bundle_path(self, model: Any) -> str:
        """Give the folder that MONAI Label's background tasks may import from besides what is installed.

        Where there is none it takes the one that a client names. The app's own is among them anyway, and no client
        writes there.
        """
        return str(self.app_dir)

    def infer_wsi(self, request: dict[str, Any], datastore: Datastore | None = None) -> dict[str, Any]:
        """Refuse whole-slide images: MONAI Label would open whatever file a client names as one.

        Raises:
            Refusal: 404, always.
        """
        raise not_found("there are no whole-slide images here; ask for /infer/srcyc.")

    def scoring(self, request: dict[str, Any], datastore: Datastore | None = None) -> dict[str, Any]:
        """Refuse scoring, which compares labels.

        Raises:
            Refusal: 404, always.
        """
        raise not_found("there are no scoring methods here.")

    def model_file(self, model: str, validate: bool = True) -> str | None:
        """Keep MONAI Label's server, which asks nobody for a password, from sending, replacing or removing model files.

        Raises:
            Refusal: 403, always.
        """
        raise forbidden(
            "model files are neither sent nor changed by this server; `srcyc serve --allow-model-files` does so."
        )
