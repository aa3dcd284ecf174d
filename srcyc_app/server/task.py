"""What a background process does: `python -m srcyc_app.server.task train|batch_infer REQUEST`, a JSON object.

It loads the app without MONAI Label's class, and so begins some seconds earlier than MONAI Label's own program.
"""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Sequence

from srcyc.documents import json_line
from srcyc_app.server.environment import app_of_settings


def main(arguments: Sequence[str]) -> int:
    """Meet the request, and print what came of it."""
    method, text = arguments
    logging.basicConfig(
        level=logging.INFO,
        format="[%(asctime)s] [%(process)s] [%(levelname)s] (%(name)s:%(lineno)d) - %(message)s",
    )
    request = json.loads(text)
    app = app_of_settings()
    result = app.train(request) if method == "train" else app.batch_infer(request)
    logging.getLogger(__name__).info("Result: %s", json_line(result))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
