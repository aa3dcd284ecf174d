"""The sizes that compressed frames claim: a decoder allocates what they say, not what the header says."""

from __future__ import annotations

from collections.abc import Iterator

_ITEM = b"\xfe\xff\x00\xe0"
_JPEG, _JPEG_2000 = b"\xff\xd8", b"\xff\x4f\xff\x51"
#: How far into a fragment the codestream of JPEG 2000 begins, where a JP2 wrapper stands before it.
_WRAPPER = 4096
#: Markers that begin a frame's header: SOF0 to SOF15 without DHT, JPG and DAC, and JPEG-LS's SOF55.
_FRAMES = {*range(0xC0, 0xD0), 0xF7} - {0xC4, 0xC8, 0xCC}
#: Markers without a length.
_BARE = {0x01, *range(0xD0, 0xD9)}


def claimed_sizes(pixel_data: bytes) -> Iterator[tuple[int, int]]:
    """Give rows and columns of every JPEG, JPEG-LS and JPEG 2000 codestream in encapsulated pixel data."""
    for fragment in _fragments(pixel_data):
        place = fragment.find(_JPEG_2000, 0, _WRAPPER)
        if place >= 0:
            # SOC, SIZ, Lsiz, Rsiz; then 32 bits each of Xsiz, Ysiz, XOsiz, YOsiz.
            x, y, left, top = (
                int.from_bytes(fragment[place + start : place + start + 4], "big")
                for start in (8, 12, 16, 20)
            )
            yield y - top, x - left
        elif fragment[:2] == _JPEG and (size := _jpeg_size(fragment)) is not None:
            yield size


def _fragments(pixel_data: bytes) -> Iterator[bytes]:
    place = 0
    while pixel_data[place : place + 4] == _ITEM:
        length = int.from_bytes(pixel_data[place + 4 : place + 8], "little")
        yield pixel_data[place + 8 : place + 8 + length]
        place += 8 + length


def _jpeg_size(stream: bytes) -> tuple[int, int] | None:
    """Read rows and columns from the header of the first frame."""
    place = 2
    while place + 9 <= len(stream) and stream[place] == 0xFF:
        marker = stream[place + 1]
        if marker == 0xFF or marker in _BARE:
            place += 1 if marker == 0xFF else 2
        elif marker in _FRAMES:
            return int.from_bytes(stream[place + 5 : place + 7], "big"), int.from_bytes(
                stream[place + 7 : place + 9], "big"
            )
        else:
            place += 2 + int.from_bytes(stream[place + 2 : place + 4], "big")
    return None
