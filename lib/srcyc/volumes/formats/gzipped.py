"""Files packed with gzip: read as far as is wanted, never more, and written."""

from __future__ import annotations

import math
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt

from srcyc.errors import VolumeError
from srcyc.volumes.formats.raw import require_room

_MAGIC = b"\x1f\x8b"
#: Tells zlib that data are packed as gzip or as zlib does.
_ANY = 47
#: Bytes that are unpacked at a time, and that are read at a time.
_BLOCK, _PACKED_BLOCK = 1 << 20, 1 << 16
#: Bytes after what is wanted that are unpacked to reach the checksum, which guards what was read.
_DRAINED = 1 << 24


def is_packed(path: Path) -> bool:
    """Tell by content whether a file is gzip.

    Raises:
        OSError: it cannot be opened.
    """
    with path.open("rb") as stream:
        return stream.read(2) == _MAGIC


def read_start(path: Path, count: int) -> bytes:
    """Give the first bytes of a file, unpacked if it is packed; fewer if there are no more.

    Raises:
        VolumeError: damaged gzip data.
        OSError: the file cannot be opened.
    """
    buffer = bytearray(count)
    return bytes(buffer[: _fill(path, 0, memoryview(buffer), check=False)])


def read_voxels(
    path: Path, data: Path, start: int, shape: tuple[int, int, int], dtype: np.dtype[Any]
) -> npt.NDArray[Any]:
    """Read ``(I, J, K)`` voxels, first index fastest, from a file that may be packed.

    What lies behind, zeros and foreign bytes after the packed data included, is not looked at.

    Args:
        path: of the header.
        data: of the file with the voxels, often the same.
        start: where they begin in it, unpacked.
        shape: ``(I, J, K)``.
        dtype: as stored.

    Raises:
        VolumeError: there are fewer bytes, the gzip data is damaged, or they do not fit into memory.
        OSError: the file cannot be opened.
    """
    require_room(path, shape, dtype.itemsize)
    voxels = np.empty(math.prod(shape), dtype)
    buffer = voxels.view(np.uint8).data
    got = _fill(data, start, buffer, check=True)
    if got < len(buffer):
        raise VolumeError(
            f"{data}: truncated, the header promises {start + len(buffer)} bytes and {start + got} are there",
            remedy="copy the file again",
        )
    return voxels.reshape(shape, order="F")


def require_whole(data: Path, start: int, needed: int) -> None:
    """Refuse packed voxels, of gzip or zlib, that are damaged or end too early: not every reader notices.

    Args:
        data: of the file that holds them.
        start: where they begin in it.
        needed: their bytes, unpacked.

    Raises:
        VolumeError: they are.
        OSError: the file cannot be opened.
    """
    got = 0
    with data.open("rb") as stream:
        stream.seek(start)
        for piece in _unpacked(data, stream, _BLOCK):
            got += len(piece)
            if got >= needed + _DRAINED:
                break
    if got < needed:
        raise VolumeError(
            f"{data}: truncated, its header promises {needed} bytes of voxels and {got} are there",
            remedy="copy the file again",
        )


def packed(pieces: Iterable[bytes], dtype: np.dtype[Any]) -> Iterator[bytes]:
    """Pack the content of a file; the same content always gives the same bytes.

    The last bits of floating-point voxels are noise, in which nothing comes twice: looking for runs only takes a third
    of the time, for the same size. More effort than the least gains little of other voxels too.

    Args:
        pieces: of the content.
        dtype: of the voxels that most of it is.
    """
    strategy = zlib.Z_RLE if dtype.kind == "f" else zlib.Z_DEFAULT_STRATEGY
    packer = zlib.compressobj(1, wbits=31, strategy=strategy)
    for piece in pieces:
        yield packer.compress(piece)
    yield packer.flush()


def _fill(path: Path, start: int, buffer: memoryview, *, check: bool) -> int:
    """Fill a buffer; give how many bytes there were."""
    if not is_packed(path):
        with path.open("rb") as stream:
            stream.seek(start)
            return stream.readinto(buffer) or 0  # type: ignore[attr-defined]
    end = start + len(buffer)
    position = 0
    with path.open("rb") as stream:
        for piece in _unpacked(path, stream, min(_BLOCK, end)):
            wanted = piece[max(0, start - position) : max(0, end - position)]
            place = max(0, position - start)
            buffer[place : place + len(wanted)] = wanted
            position += len(piece)
            if position >= end + _DRAINED * check:
                break
    return max(0, min(position, end) - start)


def _unpacked(path: Path, stream: BinaryIO, most: int) -> Iterator[bytes]:
    """Give the unpacked bytes of one or more gzip members in pieces; zlib checks each one's checksum at its end.

    Args:
        path: of the file.
        stream: it, open.
        most: bytes of a piece.

    Raises:
        VolumeError: damaged or cut off.
    """
    member, pending = zlib.decompressobj(wbits=_ANY), b""
    while True:
        pending = pending or stream.read(_PACKED_BLOCK)
        try:
            piece = member.decompress(pending, most)
        except zlib.error as error:
            raise _damaged(path) from error
        if piece:
            yield piece
        if member.eof:
            pending = member.unused_data.lstrip(b"\0")
            if len(pending) < 2:
                pending = (pending + stream.read(_PACKED_BLOCK)).lstrip(b"\0")
            # Whatever else comes after a member is none of its bytes: nibabel and ITK pass over it too.
            if pending[:2] != _MAGIC:
                return
            member = zlib.decompressobj(wbits=_ANY)
        elif not pending and not piece:
            raise _damaged(path)
        else:
            pending = member.unconsumed_tail


def _damaged(path: Path) -> VolumeError:
    return VolumeError(
        f"{path}: truncated or damaged packed data ({path.stat().st_size} bytes)",
        remedy="copy the file again",
    )
