"""The sample scans, as data sets of Slicer's module Sample Data."""

from __future__ import annotations

import hashlib
from pathlib import Path

from SRCycLib.local_server import find_studies

CATEGORY = "SRCyc"

#: Scans with thick slices: file, name of its node.
_SCANS = (("brain1_image.nrrd", "ThickBrain1"), ("brain2_image.nrrd", "ThickBrain2"))

_THUMBNAIL = Path(__file__).resolve().parents[1] / "Resources" / "Icons" / "SRCyc.png"


def register() -> None:
    """Offer the sample scans that lie beside the module; called when Slicer has started."""
    # Slicer's own module, which is not there while this one is loaded.
    import SampleData

    folder = find_studies()
    for file, name in _SCANS:
        path = Path(folder) / file
        if folder and path.is_file():
            SampleData.SampleDataLogic.registerCustomSampleDataSource(
                category=CATEGORY,
                sampleName=name,
                thumbnailFileName=str(_THUMBNAIL),
                uris=path.as_uri(),
                fileNames=file,
                nodeNames=name,
                checksums=f"SHA256:{hashlib.sha256(path.read_bytes()).hexdigest()}",
            )
