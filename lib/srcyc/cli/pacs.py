"""What `srcyc infer` does with a PACS: scans from a DICOMweb server, results to one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from srcyc.errors import ConfigError
from srcyc.pacs.remote import is_uid

if TYPE_CHECKING:
    from srcyc.pacs.web import DicomWeb


@dataclass
class Pacs:
    """The servers of one command.

    Attributes:
        source: address that scans come from; None: files.
        target: address that results go to; None: files only.
        login: file with the login for both; None: the environment, or none.
        study: UID of the study whose MR series are wanted.
    """

    source: str | None
    target: str | None
    login: Path | None
    study: str | None
    _open: dict[str, DicomWeb] = field(default_factory=dict)

    def check(
        self, inputs: Sequence[Path], series: Sequence[str], output: Path | None, format: str | None
    ) -> None:
        """Refuse what makes no sense together.

        Raises:
            ConfigError: says what to leave out or to give.
        """
        if self.source is None:
            if not inputs:
                raise ConfigError("no INPUT; give scans, or a DICOMweb server by --from-dicomweb.")
            if self.study is not None:
                raise ConfigError("--study: goes with --from-dicomweb; leave it out.")
        else:
            if inputs:
                raise ConfigError(
                    f"{inputs[0]}: scans come from the server; leave it or --from-dicomweb out."
                )
            if not (self.study or series):
                raise ConfigError("--from-dicomweb: give --study UID, --series UID, or both.")
            if not all(map(is_uid, series)):
                raise ConfigError("--series: with --from-dicomweb a series is given by its UID.")
        if self.target is None and output is None:
            raise ConfigError("no --output; give a file or a folder, or a DICOMweb server by --to-dicomweb.")
        if self.target is not None and format not in (None, "dicom", "dicom-enhanced"):
            raise ConfigError(f"--format {format}: a PACS takes DICOM; leave it or --to-dicomweb out.")
        for url in filter(None, (self.source, self.target)):
            self._server(url)

    def fetch(self, series: Sequence[str], room: Path) -> Path:
        """Fetch what is wanted, each series into a folder named by its UID, and give the one that holds them.

        Raises:
            ArchiveError: it is not there, or the server cannot be asked.
        """
        server = self._server(self.source or "")
        uids: Sequence[str | None] = series or [None]
        wanted = [found for uid in uids for found in server.find(study=self.study, series=uid)]
        folder = room / "scans"
        folder.mkdir()
        for one in dict.fromkeys(wanted):
            (folder / one.uid).mkdir()
            server.fetch(one, folder / one.uid)
        return folder

    def store(self, folders: Sequence[Path]) -> int:
        """Store the series of one result; give how many instances were sent.

        Raises:
            ArchiveError: they are not stored.
        """
        return self._server(self.target or "").store(
            [file for folder in folders for file in sorted(folder.iterdir())]
        )

    def _server(self, url: str) -> DicomWeb:
        if url not in self._open:
            try:
                from srcyc.pacs.web import DicomWeb, Login
            except ModuleNotFoundError as error:
                raise ConfigError(
                    f"DICOMweb needs the package {error.name}; install `srcyc[server]`."
                ) from error
            self._open[url] = DicomWeb(url, Login(self.login))
        return self._open[url]
