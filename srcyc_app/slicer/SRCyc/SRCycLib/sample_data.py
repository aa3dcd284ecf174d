"""The sample scans, as data sets of Slicer's module Sample Data."""

from __future__ import annotations

import hashlib
from pathlib import Path

from SRCycLib.local_server import find_studies

CATEGORY = "SRCyc"

#: Scans with thick slices: file, name of its node.
_SCANS = (("brain1_image.nrrd", "ThickBrain1"), ("brain2_image.nrrd", "ThickBrain2"))

_THUMBNAIL = Path(__file__).resolve().parents[1] / "Resources" / "Icons" / "SRCyc.png"


def folder() -> Path:
    """Give the folder of the sample scans: the extension's, or that of the clone that the module lies in."""
    own = Path(__file__).resolve().parent / "sample-data"
    return own if own.is_dir() else Path(find_studies() or own)


def register() -> None:
    """Offer the sample scans; called when Slicer has started."""
    # Slicer's own module, which is not there while this one is loaded.
    import SampleData

    for file, name in _SCANS:
        path = folder() / file
        if path.is_file():
            SampleData.SampleDataLogic.registerCustomSampleDataSource(
                category=CATEGORY,
                sampleName=name,
                thumbnailFileName=str(_THUMBNAIL),
                uris=path.as_uri(),
                fileNames=file,
                nodeNames=name,
                checksums=f"SHA256:{hashlib.sha256(path.read_bytes()).hexdigest()}",
            )
