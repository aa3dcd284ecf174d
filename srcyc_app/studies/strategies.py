"""Which scan comes next when a client asks for one."""

from __future__ import annotations

import random
from typing import Any

from monailabel.interfaces.datastore import Datastore
from monailabel.tasks.activelearning.random import Random


class RandomScan(Random):
    """MONAI Label's draw, the longer ago a scan was served the likelier; it also works twice within one second."""

    def __call__(self, request: dict[str, Any], datastore: Datastore) -> dict[str, Any] | None:
        try:
            return super().__call__(request, datastore)
        except ValueError:
            # All were served this very second, so that all weights are 0.
            return {"id": random.choice(datastore.get_unlabeled_images()), "weight": 0}
