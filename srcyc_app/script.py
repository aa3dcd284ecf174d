"""The app without a server: what a server would be asked for, from the command line."""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from srcyc.documents import json_text
from srcyc.errors import ConfigError, OutputError, SRCycError

if TYPE_CHECKING:
    from srcyc_app.core import AppCore

_log = logging.getLogger(__name__)

_EPILOGUE = """\
examples:
  python srcyc_app/main.py --studies sample-data info
  python srcyc_app/main.py --studies sample-data infer brain1_image -o thin.nii.gz --set target_spacing=1
  python srcyc_app/main.py --studies sample-data batch
  python srcyc_app/main.py --studies sample-data train --set preset=quick --set name=mine
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the app once.

    Returns:
        the exit code: 0 done, 2 bad input, 1 a failure, 128 + the signal's number if stopped.
    """
    arguments = _parser().parse_args(argv)
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    logging.getLogger("monailabel").setLevel(logging.WARNING)
    try:
        answer = _run(_app(arguments), arguments)
    except SRCycError as error:
        from srcyc_app.refusals import worded

        _log.error("%s", worded(error))
        return error.exit_code
    sys.stdout.write(json_text(answer))
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="main.py",
        description="SRCyc's MONAI Label app without a server. Prints one JSON document.",
        epilog=_EPILOGUE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--studies", required=True, metavar="DIR", help="the studies folder")
    parser.add_argument(
        "--model-dir", metavar="DIR", help="retrained models and runs; default: model beside main.py"
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="info|infer|batch|train")
    commands.add_parser("info", help="what the app offers, and the scans it sees")
    infer = commands.add_parser("infer", help="super-resolve one scan")
    infer.add_argument("image", help="an image id, or a file")
    infer.add_argument(
        "-o", "--output", required=True, type=Path, metavar="FILE", help="where to put the result"
    )
    batch = commands.add_parser("batch", help="super-resolve all thick-slice scans of the studies folder")
    train = commands.add_parser("train", help="train on the scans of the studies folder, or go on")
    for command in (infer, batch, train):
        command.add_argument(
            "--set",
            dest="settings",
            metavar="KEY=VALUE",
            action="append",
            default=[],
            help="an option, as `info` lists them under config",
        )
    return parser


def _app(arguments: argparse.Namespace) -> AppCore:
    from monailabel.config import settings

    from srcyc_app.core import AppCore

    # Scans that come later are not looked for.
    settings.MONAI_LABEL_DATASTORE_AUTO_RELOAD = False

    conf = {"decode_apart": "false"}
    if arguments.model_dir:
        conf["model_dir"] = arguments.model_dir
    return AppCore(str(Path(__file__).parent), str(Path(arguments.studies).resolve()), conf)


def _run(app: AppCore, arguments: argparse.Namespace) -> dict[str, Any]:
    if arguments.command == "info":
        return dict(app.info())
    request = {"model": "srcyc", **_options(arguments.settings)}
    if arguments.command == "batch":
        return app.batch_infer({**request, "images": "all"})
    if arguments.command == "train":
        return app.train(request)
    return _infer(app, request, arguments.image, arguments.output)


def _infer(app: AppCore, request: dict[str, Any], image: str, output: Path) -> dict[str, Any]:
    from srcyc.files import copied
    from srcyc.volumes.image_files import volume_suffix

    suffix = volume_suffix(output)
    if suffix is None:
        raise OutputError(f"{output}: let the name end in .nii, .nii.gz, .nrrd or .mha.")
    if output.exists():
        raise OutputError(f"{output}: already exists; choose another name.")
    result = app.infer({**request, "image": image, "result_extension": suffix})
    params = result["params"]
    made = Path(result["file"])
    try:
        copied(made, output)
    finally:
        made.unlink(missing_ok=True)
    return {**params, "output": str(output)}


def _options(settings: Sequence[str]) -> dict[str, str]:
    options = {}
    for setting in settings:
        key, separator, value = setting.partition("=")
        if not separator or not key:
            raise ConfigError(f"--set {setting!r}: write KEY=VALUE, e.g. target_spacing=1.")
        options[key] = value
    return options
