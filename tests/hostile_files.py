"""Files that claim what is not so, or unpack to far more than they are: for whoever reads files of strangers."""

from __future__ import annotations

import gzip
import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

from pydicom import dcmread


def mha(size: str, *, kind: str = "MET_UCHAR", data: bytes = b"1", **more: str) -> bytes:
    lines = {
        "ObjectType": "Image",
        "NDims": "3",
        "ElementSpacing": "1 1 4",
        "ElementType": kind,
        "DimSize": size,
        **more,
    }
    head = "".join(f"{key} = {value}\n" for key, value in lines.items())
    return (head + "ElementDataFile = LOCAL\n").encode() + data


def nrrd(sizes: str, *, encoding: str = "raw", kind: str = "uchar", data: bytes = b"1") -> bytes:
    lines = (f"type: {kind}", "dimension: 3", f"sizes: {sizes}", f"encoding: {encoding}", "spacings: 1 1 4")
    return ("NRRD0004\n" + "\n".join((*lines, "endian: little")) + "\n\n").encode() + data


def nifti(shape: tuple[int, int, int], *, code: int = 4, bits: int = 16, data: bytes = b"") -> bytes:
    head = bytearray(352)
    head[0:4], head[344:348] = struct.pack("<i", 348), b"n+1\0"
    head[40:56] = struct.pack("<8h", 3, *shape, 1, 1, 1, 1)
    head[70:74], head[76:108] = struct.pack("<2h", code, bits), struct.pack("<8f", 1, 1, 1, 4, 1, 1, 1, 1)
    head[108:112], head[123] = struct.pack("<f", 352), 2
    return bytes(head) + data


def bomb(size: int) -> bytes:
    """Zeros, compressed a thousand times."""
    packer = zlib.compressobj(9, zlib.DEFLATED, 31)
    block = bytes(1 << 20)
    return b"".join(packer.compress(block) for _ in range(size >> 20)) + packer.flush()


SMALL = nifti((20, 20, 8), data=bytes(6400))

#: Name -> content. None may cost more than its own size justifies.
HOSTILE: dict[str, Callable[[], bytes]] = {
    "claims-20-GB.mha": lambda: mha("2700 2700 2700"),
    "claims-9-GB.nrrd": lambda: nrrd("2080 2080 2080"),
    "claims-more-than-there-is.mha": lambda: mha("99999 99999 99999"),
    "overflows.mha": lambda: mha("4294967295 4294967295 4294967295"),
    "below-zero.mha": lambda: mha("-5 8 8"),
    "no-numbers.mha": lambda: mha("a b c"),
    "no-axes.mha": lambda: mha("8 8 8", NDims="-1"),
    "many-axes.mha": lambda: mha("8 8 8", NDims="2147483647"),
    "axes-twice.mha": lambda: mha("8 8 8").replace(b"NDims = 3", b"NDims = 3\nNDims: 400000"),
    "axes-behind.mha": lambda: mha("8 8 8").replace(b"ElementData", b"ElementDataFiles = x\nNDims = -1\nElementData"),
    "axes-in-a-line.mha": lambda: mha("8 8 8", Comment="x" * 65520 + " NDims = -1"),
    "doubles.mha": lambda: mha("400 400 300", kind="MET_DOUBLE"),
    "channels.mha": lambda: mha("64 64 64", ElementNumberOfChannels="100000"),
    "compressed.mha": lambda: mha("64 64 64", CompressedData="True", data=zlib.compress(b"1")),
    "compressed-size.mha": lambda: mha(
        "64 64 64", CompressedData="True", CompressedDataSize="99999999999", data=zlib.compress(b"1")
    ),
    "printf.mha": lambda: mha("8 8 8").replace(b"LOCAL", b"%s%n%s 1 8 1"),
    "header-size.mha": lambda: mha("64 64 64", HeaderSize="99999999999"),
    "a-long-line.mha": lambda: b"ObjectType = " + b"x" * 5_000_000 + b"\n" + mha("8 8 8"),
    "no-end.mha": lambda: b"Comment = x\n" * 400_000,
    "overflows.nrrd": lambda: nrrd("4294967296 4294967296 4294967296"),
    "below-zero.nrrd": lambda: nrrd("-1 8 8"),
    "dimension.nrrd": lambda: nrrd("8 8 8").replace(b"dimension: 3", b"dimension: 2147483647"),
    "gzip-of-nothing.nrrd": lambda: nrrd("360 360 360", encoding="gzip", data=gzip.compress(b"1")),
    "gzip-bomb.nrrd": lambda: nrrd("16 16 16", encoding="gzip", data=bomb(600 << 20)),
    "text.nrrd": lambda: nrrd("300 300 300", encoding="ascii", data=b"1 " * 9),
    "hex.nrrd": lambda: nrrd("300 300 300", encoding="hex", data=b"ff"),
    "a-long-line.nrrd": lambda: b"NRRD0004\ncontent: " + b"x" * 5_000_000 + b"\n",
    "a-long-field.nrrd": lambda: nrrd("8 8 8").replace(b"endian", b"x" * 2000 + b"\nendian"),
    "a-long-size.nrrd": lambda: nrrd("8" * 5000 + " 8 8"),
    "printf.nrrd": lambda: nrrd("8 8 8").replace(b"endian", b"data file: %s%n%d 1 8 1\nendian"),
    "many-lines.nrrd": lambda: b"NRRD0004\n" + b"# x\n" * 100_000,
    "block.nrrd": lambda: nrrd("64 64 64", kind="block").replace(b"endian", b"block size: 2147483647\nendian"),
    "claims-64-TB.nii": lambda: nifti((32000, 32000, 32000)),
    "claims-60-MB-voxels.nii": lambda: nifti((400, 400, 400)),
    "doubles.nii": lambda: nifti((360, 360, 360), code=64, bits=64),
    "below-zero.nii": lambda: nifti((-5, 4, 4)),
    "offset.nii": lambda: SMALL[:108] + struct.pack("<f", 3e38) + SMALL[112:],
    "offset-back.nii": lambda: SMALL[:108] + struct.pack("<f", -1e9) + SMALL[112:],
    "offset-nan.nii": lambda: SMALL[:108] + struct.pack("<f", float("nan")) + SMALL[112:],
    "extensions.nii": lambda: SMALL[:348] + b"\1\0\0\0" + struct.pack("<2i", 2_000_000_000, 6) + SMALL[352:],
    "huge-header.nii": lambda: struct.pack("<i", 540) + b"\xff" * 600,
    "bits.nii": lambda: nifti((20, 20, 8), code=4, bits=32767, data=bytes(6400)),
    "a-bomb-behind.nii.gz": lambda: gzip.compress(SMALL) + bomb(600 << 20),
    "bomb.nii.gz": lambda: bomb(600 << 20),
    "honest-but-too-large.nii.gz": lambda: gzip.compress(nifti((400, 400, 400)), 1) + bomb(128 << 20),
    "claims-64-TB.nii.gz": lambda: gzip.compress(nifti((32000, 32000, 32000))),
    "nothing-inside.nii.gz": lambda: gzip.compress(b""),
    "many-members.nii.gz": lambda: gzip.compress(b"") * 200_000,
    "broken-check.nii.gz": lambda: gzip.compress(SMALL)[:-8] + bytes(8),
    "name.nii.gz": lambda: b"\x1f\x8b\x08\x08" + bytes(6) + b"x" * 3_000_000,
    "empty.nii": lambda: b"",
    "zeros.nii": lambda: bytes(400),
    "text.nrrd.nrrd": lambda: b"hello" * 1000,
}  # fmt: skip


#: Read as what they are, at no more cost than that: what they claim besides is not looked at.
HARMLESS = {"gzip-bomb.nrrd", "extensions.nii", "bits.nii", "a-bomb-behind.nii.gz"}


def _deflated(folder: Path) -> None:
    """Hundreds of megabytes behind a header that says so in a few."""
    packer = zlib.compressobj(9, zlib.DEFLATED, -15)
    block = bytes(1 << 20)
    content = b"".join(packer.compress(block) for _ in range(560)) + packer.flush()
    for path in folder.iterdir():
        data = dcmread(path)
        data.file_meta.TransferSyntaxUID = "1.2.840.10008.1.2.1.99"
        data.save_as(path)
        raw = path.read_bytes()
        path.write_bytes(raw[: raw.index(b"1.2.840.10008.1.2.1.99") + 22] + content)


def _changed(**values: Any) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        for path in folder.iterdir():
            data = dcmread(path)
            for key, value in values.items():
                setattr(data, key, value)
            data.save_as(path)

    return change


def _raw(change: Callable[[bytes], bytes]) -> Callable[[Path], None]:
    def apply(folder: Path) -> None:
        for path in folder.iterdir():
            path.write_bytes(change(path.read_bytes()))

    return apply


SERIES: dict[str, Callable[[Path], None]] = {
    "rows": _changed(Rows=65535, Columns=65535),
    "frames": _changed(NumberOfFrames=2_000_000_000),
    "bits": _changed(BitsAllocated=64),
    "deflated": _deflated,
    "cut short": _raw(lambda raw: raw[: len(raw) // 2]),
    "a length beyond the file": _raw(lambda raw: raw.replace(b"OW\0\0", b"OW\0\0\xff\xff\xff\x7f", 1)),
    "no pixels": _raw(lambda raw: raw[:400]),
}
