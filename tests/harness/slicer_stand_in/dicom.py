"""``slicer.dicomDatabase``: what DICOM files say, by the instances' UIDs."""

from __future__ import annotations

import pydicom
from PySide6.QtCore import QObject


class ctkDICOMDatabase(QObject):
    """The files that Slicer's DICOM module has taken in."""

    def __init__(self) -> None:
        super().__init__()
        self._files: dict[str, str] = {}

    @property
    def isOpen(self) -> bool:
        return True

    def insert(self, filePath: str, storeFile: bool = True, generateThumbnail: bool = True) -> None:
        self._files[str(pydicom.dcmread(filePath, stop_before_pixels=True).SOPInstanceUID)] = filePath

    def fileForInstance(self, sopInstanceUID: str) -> str:
        return self._files.get(sopInstanceUID, "")

    def instanceValue(self, sopInstanceUID: str, tag: str) -> str:
        # What is not known is empty, as the real one says.
        file = self.fileForInstance(sopInstanceUID)
        group, element = (int(part, 16) for part in tag.split(","))
        found = pydicom.dcmread(file, stop_before_pixels=True).get((group, element)) if file else None
        return "" if found is None else str(found.value)
