"""The module SampleData, as far as other modules use it: its signatures are those of Slicer 5.6."""

from __future__ import annotations

import hashlib
import urllib.request
from pathlib import Path
from types import ModuleType
from typing import Any

import slicer
import slicer.util


class SampleDataSource:
    """One data set of one file."""

    def __init__(
        self,
        sampleName: str,
        uris: str,
        fileNames: str,
        nodeNames: str,
        checksums: str | None = None,
        thumbnailFileName: str | None = None,
        loadFileType: str = "VolumeFile",
    ) -> None:
        self.sampleName = sampleName
        self.uris, self.fileNames, self.nodeNames, self.checksums = (
            [value] for value in (uris, fileNames, nodeNames, checksums)
        )
        self.thumbnailFileName = thumbnailFileName
        self.loadFileType = [loadFileType]

    def __eq__(self, other: object) -> bool:
        return isinstance(other, SampleDataSource) and vars(self) == vars(other)

    __hash__ = None  # type: ignore[assignment]


class SampleDataLogic:
    """Keeps ``slicer.modules.sampleDataSources``, and loads from it."""

    @staticmethod
    def registerCustomSampleDataSource(
        category: str = "Custom",
        sampleName: Any = None,
        uris: Any = None,
        fileNames: Any = None,
        nodeNames: Any = None,
        customDownloader: Any = None,
        thumbnailFileName: Any = None,
        loadFileType: str = "VolumeFile",
        loadFiles: Any = None,
        loadFileProperties: Any = None,
        checksums: Any = None,
    ) -> None:
        if customDownloader or loadFiles or loadFileProperties or not isinstance(uris, str):
            raise NotImplementedError("the stand-in takes data sets of one file only")
        source = SampleDataSource(
            sampleName, uris, fileNames, nodeNames, checksums, thumbnailFileName, loadFileType
        )
        sources = SampleDataLogic.sampleDataSourcesByCategory().setdefault(category, [])
        if source not in sources:
            sources.append(source)

    @staticmethod
    def sampleDataSourcesByCategory(category: str | None = None) -> Any:
        try:
            sources = slicer.modules.sampleDataSources
        except AttributeError:
            sources = slicer.modules.sampleDataSources = {}
        return sources if category is None else sources.get(category, [])

    def downloadSamples(self, sampleName: str) -> list[Any]:
        for sources in self.sampleDataSourcesByCategory().values():
            for source in sources:
                if source.sampleName == sampleName:
                    return self.downloadFromSource(source)
        return []

    def downloadFromSource(self, source: SampleDataSource) -> list[Any]:
        (uri,), (file,), (name,), (checksum,) = (
            source.uris,
            source.fileNames,
            source.nodeNames,
            source.checksums,
        )
        path = Path(slicer.app.cachePath) / file
        urllib.request.urlretrieve(uri, path)
        digest = f"SHA256:{hashlib.sha256(path.read_bytes()).hexdigest()}"
        if checksum is not None and checksum != digest:
            raise ValueError(f"{file} is damaged")
        return [slicer.util.loadVolume(str(path), {"name": name})]


def module() -> ModuleType:
    """Make the module."""
    made = ModuleType("SampleData")
    made.SampleDataSource = SampleDataSource  # type: ignore[attr-defined]
    made.SampleDataLogic = SampleDataLogic  # type: ignore[attr-defined]
    made.downloadSample = lambda name: SampleDataLogic().downloadSamples(name)[0]  # type: ignore[attr-defined]
    return made
