"""What stands in a PNG file, chunk by chunk, before a decoder sees it."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator

from isal import isal_zlib

from pipeline.errors import InvalidImage

# libpng's own writers put 8 KiB into a chunk: 50 MiB are 6,400 of them. Each costs time before any pixel comes.
MAX_PNG_CHUNKS = 100_000

# Profiles of presses, the largest there are, have some 2 MB.
MAX_PROFILE_BYTES = 4 * 2**20

# What the first frame needs. Texts, of which a few bytes may unpack to gigabytes, and animations stay away from it.
_PICTURE_CHUNKS = frozenset({b"IHDR", b"PLTE", b"tRNS", b"eXIf", b"IDAT", b"IEND"})
_BIT_DEPTH = 24  # where IHDR, always the first chunk, tells it
_CHANNELS = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}
# Adam7: the first column and row of each pass, and the steps between them.
_PASSES = ((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2))
_INFLATE_STEP = 2**20


def bit_depth(data: bytes) -> int:
    """Bits per sample, 1 to 16."""
    return data[_BIT_DEPTH]


def split_png(data: bytes) -> tuple[bytes, bytes | None]:
    """The PNG with nothing but its picture, and its colour profile.

    Raises:
        InvalidImage: It ends before its last chunk does, or has too many.
    """
    kept = [data[:8]]
    icc_profile = None
    for kind, start, end in _chunks(data):
        if kind in _PICTURE_CHUNKS:
            kept.append(data[start:end])
        elif kind == b"iCCP":
            icc_profile = _inflate_profile(data[start + 8 : end - 4])
    return b"".join(kept), icc_profile


def check_rows(data: bytes) -> None:
    """Raises InvalidImage if the file holds fewer rows than its header says; Pillow would fill them with black."""
    missing = _packed_rows_size(data)
    inflater = isal_zlib.decompressobj()
    for kind, start, end in _chunks(data):
        if kind != b"IDAT":
            continue
        packed = data[start + 8 : end - 4]
        while packed and missing > 0 and not inflater.eof:
            missing -= len(inflater.decompress(packed, _INFLATE_STEP))
            packed = inflater.unconsumed_tail
    while missing > 0 and (rest := inflater.decompress(b"", _INFLATE_STEP) if not inflater.eof else b""):
        missing -= len(rest)
    if missing > 0:
        raise InvalidImage("Invalid image data: the PNG file is truncated")


def _chunks(data: bytes) -> Iterator[tuple[bytes, int, int]]:
    """Kind, start and end of each chunk up to IEND."""
    position = 8
    for _ in range(MAX_PNG_CHUNKS):
        length, kind = struct.unpack_from(">I4s", data, position)
        end = position + 12 + length
        if end > len(data):
            raise InvalidImage("Invalid image data: the PNG file is truncated")
        yield kind, position, end
        if kind == b"IEND":
            return
        position = end
    raise InvalidImage("Invalid image data: too many PNG chunks")


def _inflate_profile(chunk: bytes) -> bytes | None:
    packed = chunk.partition(b"\0")[2][1:]  # after the profile's name and the method of compression
    inflater = zlib.decompressobj()
    try:
        profile = inflater.decompress(packed, MAX_PROFILE_BYTES)
    except zlib.error:
        return None
    return profile if inflater.eof else None


def _packed_rows_size(data: bytes) -> int:
    """Bytes of all rows, unpacked, each with its filter's number in front."""
    width, height, depth, colour_type, _, _, interlaced = struct.unpack_from(">IIBBBBB", data, 16)
    bits = depth * _CHANNELS[colour_type]
    passes = _PASSES if interlaced else ((0, 0, 1, 1),)
    sizes = ((-(-(width - x) // step_x), -(-(height - y) // step_y)) for x, y, step_x, step_y in passes)
    return sum(rows * (1 + (columns * bits + 7) // 8) for columns, rows in sizes if columns > 0 and rows > 0)
