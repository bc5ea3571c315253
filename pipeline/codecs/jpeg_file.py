"""Whether a JPEG file is all there: its decoder fills what is missing with grey, and only warns."""

from __future__ import annotations

import re
import struct
from dataclasses import dataclass

from pipeline.errors import InvalidImage

# Encoders write about ten. Each costs the decoder a pass over the whole picture, however few bytes it has.
MAX_JPEG_SCANS = 64

# What the decoder reads ahead of what it needs: the bits of one 64-bit register.
_FILLER = bytes(8)

_BASELINE_FRAMES = (0xC0, 0xC1)  # sequential, Huffman
_PROGRESSIVE_FRAME = 0xC2
_FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
_SCAN = 0xDA
_END = b"\xff\xd9"
# Inside a scan 0xFF stands before a zero, before a restart marker, or before another 0xFF.
_MARKER = re.compile(rb"\xff[^\x00\xff\xd0-\xd7]")


@dataclass(frozen=True)
class _Scan:
    """One pass over the picture: which components, coefficients ``first`` to ``last``, down to bit ``low``."""

    components: bytes
    first: int
    last: int
    low: int
    data_start: int


def without_end(data: bytes) -> bytes:
    """The JPEG as a decoder must see it, to refuse what is cut short.

    At the mark of its end libjpeg makes the missing rows up; where the file merely stops, it reports that. So a
    picture in one scan, as nearly all are, loses its mark, and gets a few bytes for the decoder to read ahead. What
    follows the picture (other pictures, archives) goes too. Of a picture in several scans all must be there; rows
    missing from the last one cost only details.

    Raises:
        InvalidImage: A scan is missing, or there are too many.
    """
    frame, components, first = _read_frame(data)
    if frame in _BASELINE_FRAMES and len(first.components) == len(components):
        end = data.find(_END, first.data_start)
        return data[: end if end >= 0 else len(data)] + _FILLER
    if frame in (*_BASELINE_FRAMES, _PROGRESSIVE_FRAME):
        _check_scans(data, components, first, progressive=frame == _PROGRESSIVE_FRAME)
    return data


def _read_frame(data: bytes) -> tuple[int, bytes, _Scan]:
    """Kind of the frame, ids of its components, and its first scan. The header has been judged: it ends in a scan."""
    frame, components = 0, b""
    position = 2
    while (marker := data[position + 1]) != _SCAN:
        if marker == 0xFF:
            position += 1
            continue
        if marker in _FRAMES:
            frame, components = marker, data[position + 10 : position + 10 + 3 * data[position + 9] : 3]
        position += 2 + struct.unpack_from(">H", data, position + 2)[0]
    return frame, components, _read_scan(data, position)


def _read_scan(data: bytes, position: int) -> _Scan:
    length, count = struct.unpack_from(">HB", data, position + 2)
    first, last, bits = struct.unpack_from("BBB", data, position + 5 + 2 * count)
    return _Scan(data[position + 5 : position + 5 + 2 * count : 2], first, last, bits & 15, position + 2 + length)


def _check_scans(data: bytes, components: bytes, scan: _Scan, *, progressive: bool) -> None:
    missing = {(component, place) for component in components for place in range(64 if progressive else 1)}
    for _ in range(MAX_JPEG_SCANS):
        if not progressive:
            missing -= {(component, 0) for component in scan.components}
        elif scan.low == 0:
            missing -= {
                (component, place) for component in scan.components for place in range(scan.first, scan.last + 1)
            }
        position = _next_scan(data, scan.data_start)
        if position is None:
            break
        scan = _read_scan(data, position)
    else:
        raise InvalidImage("Invalid image data: too many JPEG scans")
    if missing:
        raise InvalidImage("Invalid image data: the JPEG file is truncated")


def _next_scan(data: bytes, position: int) -> int | None:
    while found := _MARKER.search(data, position):
        position = found.start()
        if found[0] == _END:
            return None
        if data[position + 1] == _SCAN:
            return position
        position += 2 + struct.unpack_from(">H", data, position + 2)[0]
    return None
