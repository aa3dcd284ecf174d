"""Read DICOM series as volumes, and write volumes as series derived from them.

Geometry comes from the headers (pydicom, float64); voxels from GDCM through ITK. ITK's own series reader is not used:
it only warns about missing slices and stacks repeated positions. Neither are highdicom's volumes, which need pydicom 3
where MONAI Label holds 2.
"""

from srcyc.volumes.dicom.derived import SeriesWritten, made_by_srcyc, write_dicom_series
from srcyc.volumes.dicom.files import is_dicom_file, is_directory_file
from srcyc.volumes.dicom.listing import is_series_address, list_series, listing_of
from srcyc.volumes.dicom.reader import (
    files_of,
    parts_of_one_series,
    read_dicom_folder,
    read_dicom_header,
)
from srcyc.volumes.dicom.series import DicomSeries, Listing, choose
from srcyc.volumes.dicom.tree import LeftOut, is_dicom_folder

__all__ = [
    "DicomSeries",
    "LeftOut",
    "Listing",
    "SeriesWritten",
    "choose",
    "files_of",
    "is_dicom_file",
    "is_dicom_folder",
    "is_directory_file",
    "is_series_address",
    "list_series",
    "listing_of",
    "made_by_srcyc",
    "parts_of_one_series",
    "read_dicom_folder",
    "read_dicom_header",
    "write_dicom_series",
]
