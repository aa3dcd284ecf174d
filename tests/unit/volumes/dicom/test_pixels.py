"""What is decoded is bounded, rescaled frame by frame, and says what is padding."""

from __future__ import annotations

import shutil
import struct
import time
import zlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from dicom_files import (
    COLUMNS,
    ROWS,
    SLICES,
    expected_voxels,
    make_enhanced,
    make_series,
    make_slice,
    save,
)
from pydicom.dataset import Dataset
from pydicom.encaps import encapsulate

from srcyc.errors import VolumeError
from srcyc.volumes.dicom import is_dicom_file
from srcyc.volumes.dicom.codestreams import claimed_sizes
from srcyc.volumes.volume import read_grid, read_volume

DEFLATED = "1.2.840.10008.1.2.1.99"


def deflate(data: Dataset, path: Path, extra: bytes = b"") -> None:
    """Write a data set in the deflated transfer syntax, with more behind it."""
    save(path.parent, [data], [path.name])
    whole = path.read_bytes()
    end = 144 + int.from_bytes(whole[140:144], "little")
    meta = whole[:end].replace(b"1.2.840.10008.1.2.1\0", DEFLATED.encode())
    # The syntax is two bytes longer than the one that it takes the place of.
    place = meta.index(DEFLATED.encode())
    meta = meta[: place - 2] + struct.pack("<H", len(DEFLATED)) + meta[place:]
    meta = meta[:140] + struct.pack("<I", len(meta) - 144) + meta[144:]
    packer = zlib.compressobj(9, zlib.DEFLATED, -zlib.MAX_WBITS)
    parts = [meta, packer.compress(whole[end:])]
    block = bytes(2**20)
    for _ in range(len(extra)):
        parts.append(packer.compress(block))
    path.write_bytes(b"".join([*parts, packer.flush()]))


def test_deflated_files(tmp_path: Path) -> None:
    folder = tmp_path / "series"
    for index, data in enumerate(make_series()):
        deflate(data, folder / f"IM{index}")
    assert is_dicom_file(folder / "IM0")
    volume = read_volume(folder)
    np.testing.assert_array_equal(volume.data[0], expected_voxels())
    assert read_grid(folder).shape == volume.shape


def test_a_deflated_bomb_is_refused_by_name(tmp_path: Path) -> None:
    """200 KB that inflate to 200 MB of zeros behind the pixels."""
    folder = save(tmp_path / "series", make_series(), ["a", "b", "c", "d"])
    deflate(make_slice(SLICES), folder / "e", extra=bytes(200))
    start = time.perf_counter()
    with pytest.raises(VolumeError, match=r"e: inflates to more than") as caught:
        read_volume(folder)
    assert time.perf_counter() - start < 20
    assert caught.value.remedy == "take it out"


def test_a_bomb_before_the_pixels(tmp_path: Path) -> None:
    """An element of 100 MB in the header: it is not inflated to its end."""
    data = make_slice(SLICES)
    data.add_new(0x00091010, "OB", bytes(100 * 2**20))
    folder = save(tmp_path / "series", make_series(), ["a", "b", "c", "d"])
    deflate(data, folder / "e")
    with pytest.raises(VolumeError, match="/e: "):
        read_volume(folder)


@pytest.mark.parametrize("keep", [-4, -20, 500])
def test_truncated_deflated_data(tmp_path: Path, keep: int) -> None:
    folder = save(tmp_path / "series", make_series(), ["a", "b", "c", "d"])
    deflate(make_slice(SLICES), folder / "e")
    (folder / "e").write_bytes((folder / "e").read_bytes()[:keep])
    with pytest.raises(VolumeError, match="/e: "):
        read_volume(folder)


ABSURD = {
    "rows": {"Rows": 65535, "Columns": 65535},
    "frames": {"NumberOfFrames": 2**31 - 1},
    "negative": {"NumberOfFrames": -3},
    "bits": {"BitsAllocated": 6400},
    "no bits": {"BitsAllocated": 0},
}


@pytest.mark.parametrize("compressed", [False, True], ids=["native", "compressed"])
@pytest.mark.parametrize("values", ABSURD.values(), ids=ABSURD.keys())
def test_absurd_sizes_are_refused_before_anything_is_allocated(
    tmp_path: Path, values: dict[str, int], compressed: bool
) -> None:
    data = make_slice(SLICES)
    for key, value in values.items():
        setattr(data, key, value)
    if compressed:
        data.file_meta.TransferSyntaxUID = "1.2.840.10008.1.2.4.90"
        data.PixelData = encapsulate([data.PixelData])
        data["PixelData"].is_undefined_length = True
    folder = save(tmp_path / "series", make_series(), ["a", "b", "c", "d"])
    save(folder, [data], ["e"])
    for read in (read_volume, read_grid):
        with pytest.raises(VolumeError, match="/e: "):
            read(folder)


def test_an_absurd_enhanced_file(tmp_path: Path) -> None:
    data = make_enhanced()
    data.Rows = data.Columns = 60000
    save(tmp_path, [data], ["one.dcm"])
    with pytest.raises(VolumeError, match="promises 60000 x 60000 x 4"):
        read_grid(tmp_path / "one.dcm")


@pytest.mark.parametrize(
    ("name", "marker", "offset"),
    [("compressed_j2k", b"\xff\x4f\xff\x51", 8), ("compressed_jpegls", b"\xff\xf7", 5)],
)
def test_frames_that_claim_to_be_larger_than_the_header_says(
    shared_dir: Path, tmp_path: Path, name: str, marker: bytes, offset: int
) -> None:
    """A decoder would allocate what the codestream claims."""
    folder = tmp_path / "series"
    shutil.copytree(shared_dir / "data" / "dicom" / "vendors" / name, folder)
    file = sorted(folder.iterdir())[-1]
    data = bytearray(file.read_bytes())
    place = data.index(marker) + offset
    data[place : place + (8 if offset == 8 else 4)] = (
        struct.pack(">II", 20000, 20000) if offset == 8 else struct.pack(">HH", 20000, 20000)
    )
    file.write_bytes(data)
    with pytest.raises(VolumeError, match="20000 x 20000") as caught:
        read_volume(folder)
    assert file.name in str(caught.value)


def test_sizes_that_jpeg_frames_claim() -> None:
    """Tables before the frame's header are passed over; fragments that go on with a frame claim nothing."""
    table = b"\xff\xc4\x00\x05\xff\xc0\x00"
    frame = (
        b"\xff\xd8\xff\xe0\x00\x04ab" + table + b"\xff\xff\xc3\x00\x0b\x0c\x01\x02\x03\x04\x01\x00\x00\x00"
    )
    items = [b"", frame, b"more of it", frame[:9]]
    pixel_data = b"".join(b"\xfe\xff\x00\xe0" + struct.pack("<I", len(item)) + item for item in items)
    assert list(claimed_sizes(pixel_data)) == [(0x0102, 0x0304)]


def test_an_unknown_transfer_syntax_is_refused_by_name(tmp_path: Path) -> None:
    folder = save(tmp_path / "series", make_series(), ["a", "b", "c", "d"])
    file = folder / "e"
    save(folder, [make_slice(SLICES)], ["e"])
    file.write_bytes(file.read_bytes().replace(b"1.2.840.10008.1.2.1\0", b"1.2.840.10008.9.9.9\0"))
    with pytest.raises(VolumeError, match="/e: "):
        read_volume(folder)


def test_more_than_the_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = save(tmp_path / "series", make_series())
    monkeypatch.setattr("srcyc.memory.available_memory", lambda: 1000)
    with pytest.raises(VolumeError, match="memory"):
        read_volume(folder)


# -- rescale -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("slopes", [(1.0, 1.0, 1.0, 1.0), (0.25, 0.25, 0.25, 0.25), (1.0, 0.3, 7.0, 2.5)])
def test_enhanced_frames_have_their_own_rescale(tmp_path: Path, slopes: Sequence[float]) -> None:
    volume = read_volume(save(tmp_path / "series", [make_enhanced((3, 0, 2, 1), slopes)]))
    np.testing.assert_allclose(volume.data[0], expected_voxels() * np.array(slopes) - 1, rtol=1e-6)


def test_compressed_enhanced_frames_with_their_own_rescale(tmp_path: Path) -> None:
    """RLE, which pydicom can write: the frames are decoded by GDCM from the file without their slopes."""
    data = make_enhanced(slopes=(1.0, 2.0, 3.0, 4.0))
    data.compress("1.2.840.10008.1.2.5")
    volume = read_volume(save(tmp_path / "series", [data]))
    np.testing.assert_array_equal(volume.data[0], expected_voxels() * np.array([1, 2, 3, 4]) - 1)


def test_one_rescale_for_all_frames(tmp_path: Path) -> None:
    data = make_enhanced()
    shared = data.SharedFunctionalGroupsSequence[0]
    for group in data.PerFrameFunctionalGroupsSequence:
        shared.PixelValueTransformationSequence = group.PixelValueTransformationSequence
        del group.PixelValueTransformationSequence
    volume = read_volume(save(tmp_path / "series", [data]))
    np.testing.assert_array_equal(volume.data[0], expected_voxels() * 2 - 1)


@pytest.mark.parametrize(("key", "value"), [("RescaleSlope", "abc"), ("RescaleIntercept", "1e999")])
def test_a_rescale_that_is_no_number(tmp_path: Path, key: str, value: str) -> None:
    slices = make_series()
    save(tmp_path / "series", slices)
    slices[1].RescaleSlope = slices[1].RescaleIntercept = "00001"
    save(tmp_path / "series", [slices[1]], ["IM0001.dcm"])
    file = tmp_path / "series" / "IM0001.dcm"
    tag = b"\x28\0\x53\x10" if key == "RescaleSlope" else b"\x28\0\x52\x10"
    whole = file.read_bytes()
    place = whole.index(tag) + 8
    length = int.from_bytes(whole[place - 2 : place], "little")
    file.write_bytes(whole[:place] + value.encode().ljust(length)[:length] + whole[place + length :])
    with pytest.raises(VolumeError, match=r"IM0001\.dcm"):
        read_volume(tmp_path / "series")


# -- padding -------------------------------------------------------------------------------------------------


def padded(value: int, **fields: object) -> list[Dataset]:
    slices = make_series()
    for data in slices:
        stored = np.frombuffer(data.PixelData, np.int16).reshape(ROWS, COLUMNS).copy()
        stored[:2] = value
        data.PixelData = stored.tobytes()
        data.add_new(0x00280120, "SS", value)
        for key, more in fields.items():
            setattr(data, key, more)
    return slices


def expected_padding() -> np.ndarray:
    padding = np.zeros((COLUMNS, ROWS, SLICES), bool)
    padding[:, :2] = True
    return padding


@pytest.mark.parametrize("value", [-32768, -1, 2000])
def test_padding_is_told(tmp_path: Path, value: int) -> None:
    volume = read_volume(save(tmp_path / "series", padded(value)))
    np.testing.assert_array_equal(volume.padding, expected_padding())
    assert np.all(volume.data[0][volume.padding] == value)


def test_padding_with_a_rescale_of_each_slice(tmp_path: Path) -> None:
    slices = padded(-2000)
    for data, slope in zip(slices, (1, 2, 0.37, 5), strict=True):
        data.RescaleSlope, data.RescaleIntercept = slope, 11
    volume = read_volume(save(tmp_path / "series", slices))
    np.testing.assert_array_equal(volume.padding, expected_padding())


def test_a_range_of_padding(tmp_path: Path) -> None:
    slices = padded(-2000)
    for data in slices:
        stored = np.frombuffer(data.PixelData, np.int16).reshape(ROWS, COLUMNS).copy()
        stored[1] = -1500
        data.PixelData = stored.tobytes()
        data.add_new(0x00280121, "SS", -1000)
    volume = read_volume(save(tmp_path / "series", slices))
    np.testing.assert_array_equal(volume.padding, expected_padding())


def test_padding_of_an_unsigned_representation(tmp_path: Path) -> None:
    """Signed pixels, and the value in the unsigned representation."""
    slices = padded(-32768)
    for data in slices:
        del data[0x00280120]
        data.add_new(0x00280120, "US", 32768)
    volume = read_volume(save(tmp_path / "series", slices))
    np.testing.assert_array_equal(volume.padding, expected_padding())


def test_padding_that_is_nowhere_is_none(tmp_path: Path) -> None:
    slices = make_series()
    for data in slices:
        data.add_new(0x00280120, "SS", -32768)
    assert read_volume(save(tmp_path / "series", slices)).padding is None


def test_padding_in_enhanced_frames(tmp_path: Path) -> None:
    data = make_enhanced(slopes=(1, 2, 3, 4))
    stored = np.frombuffer(data.PixelData, np.int16).reshape(SLICES, ROWS, COLUMNS).copy()
    stored[:, :2] = -2000
    data.PixelData = stored.tobytes()
    data.add_new(0x00280120, "SS", -2000)
    volume = read_volume(save(tmp_path / "series", [data]))
    np.testing.assert_array_equal(volume.padding, expected_padding())


def test_padding_of_a_filled_gap(tmp_path: Path) -> None:
    slices = padded(-32768)
    more = make_slice(5)
    more.add_new(0x00280120, "SS", -32768)
    volume = read_volume(save(tmp_path / "series", [*slices, more]), fill_gaps=True)
    assert volume.padding is not None
    assert volume.shape[2] == 6
    # Half of it would be padding: no value of anything.
    np.testing.assert_array_equal(volume.padding[:, :, 4], expected_padding()[:, :, 0])
    assert not volume.padding[:, :, 5].any()


@pytest.mark.parametrize("value", [b"\x18\xfc", b""], ids=["a value", "none"])
def test_padding_of_an_unknown_kind(tmp_path: Path, value: bytes) -> None:
    slices = padded(-1000)
    for data in slices:
        del data[0x00280120]
        data.add_new(0x00280120, "UN", value)
    volume = read_volume(save(tmp_path / "series", slices))
    assert (volume.padding is not None) is bool(value)
    if value:
        np.testing.assert_array_equal(volume.padding, expected_padding())


def test_padding_that_one_slice_does_not_have(tmp_path: Path) -> None:
    slices = padded(-2000)
    del slices[1][0x00280120]
    volume = read_volume(save(tmp_path / "series", slices))
    wanted = expected_padding()
    wanted[..., 1] = False
    np.testing.assert_array_equal(volume.padding, wanted)


def test_colours_by_a_palette_are_no_grey_values(tmp_path: Path) -> None:
    slices = make_series()
    for data in slices:
        data.PhotometricInterpretation = "PALETTE COLOR"
        data.PixelRepresentation = 0
        for colour in ("Red", "Green", "Blue"):
            setattr(data, f"{colour}PaletteColorLookupTableDescriptor", [1024, 0, 16])
            setattr(data, f"{colour}PaletteColorLookupTableData", np.arange(1024, dtype="<u2").tobytes())
    with pytest.raises(VolumeError, match="do not fit the header's size"):
        read_volume(save(tmp_path / "series", slices))


def test_a_copy_that_is_encoded_in_another_way_is_one_still(tmp_path: Path) -> None:
    folder = save(tmp_path / "series", make_series(), ["a", "b", "c", "d"])
    deflate(make_slice(1), folder / "b copied")
    volume = read_volume(folder)
    np.testing.assert_array_equal(volume.data[0], expected_voxels())
    assert any("b copied of b" in warning for warning in volume.warnings)


def test_deflated_without_a_length_of_its_meta_information(tmp_path: Path) -> None:
    folder = save(tmp_path / "series", make_series(), ["a", "b", "c", "d"])
    deflate(make_slice(SLICES), folder / "e.dcm")
    whole = (folder / "e.dcm").read_bytes()
    (folder / "e.dcm").write_bytes(whole[:132] + whole[144:])
    with pytest.raises(VolumeError, match=r"e\.dcm: deflated, and .* no length"):
        read_volume(folder)


def test_a_size_that_is_several_numbers(tmp_path: Path) -> None:
    slices = make_series()
    slices[1].Rows = [ROWS, ROWS]
    with pytest.raises(VolumeError, match=r"IM0001\.dcm: the header's size is no number"):
        read_volume(save(tmp_path / "series", slices))
