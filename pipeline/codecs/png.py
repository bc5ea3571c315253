"""A PNG writer several times faster than libpng's: NumPy filters the rows, ISA-L packs them, in several threads."""

from __future__ import annotations

import os
import struct
import zlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import numpy as np
from isal import isal_zlib
from numpy.typing import NDArray

from pipeline.errors import ShapeMismatch

Bytes2D = NDArray[np.uint8]
Filter = Callable[[Bytes2D, Bytes2D, int, Bytes2D], None]

_COLOUR_TYPES = {1: 0, 3: 2, 4: 6}  # channels: grey, RGB, RGBA
# ISA-L's own scale, 0 to 3; beyond 1 a photo takes longer and shrinks by less than 1 %.
_LEVEL = 1
# Bytes filtered at a time: with their neighbours they stay in the processor's cache.
_BLOCK_BYTES = 2**17
# Bytes below which a thread of its own costs more than it saves.
_BAND_BYTES = 2**21
_MAX_THREADS = 4
_SAMPLE_BLOCKS = 4
_SAMPLE_ROWS = 8
_ADLER_BASE = 65521


def encode_png(pixels: NDArray[np.uint8], *, icc_profile: bytes | None = None, threads: int | None = None) -> bytes:
    """A PNG file that holds exactly ``pixels``.

    Args:
        pixels: uint8; grey (H, W), RGB (H, W, 3) or RGBA (H, W, 4), at least one pixel. Need not be contiguous.
        icc_profile: RGB colour profile for the file to carry.
        threads: How many to use at most; None is one per processor, up to four.

    Raises:
        ShapeMismatch: ``pixels`` is none of these.

    The filter is chosen for the whole image, by packing a sample with each. Bands of rows are packed independently
    and joined as one deflate stream. W3C, "Portable Network Graphics Specification", third edition.
    """
    channels = 1 if pixels.ndim == 2 else pixels.shape[-1]
    if pixels.ndim not in (2, 3) or channels not in _COLOUR_TYPES or pixels.dtype != np.uint8 or pixels.size == 0:
        raise ShapeMismatch(f"A PNG cannot hold an array of {pixels.dtype} {pixels.shape}.")
    height, width = pixels.shape[:2]
    rows = np.ascontiguousarray(pixels).reshape(height, width * channels)
    header = struct.pack(">IIBBBBB", width, height, 8, _COLOUR_TYPES[channels], 0, 0, 0)
    parts = [b"\x89PNG\r\n\x1a\n", *_chunk(b"IHDR", header)]
    if icc_profile is not None:
        parts += _chunk(b"iCCP", b"icc\0\0" + zlib.compress(icc_profile))
    for data in _deflate(rows, channels, threads or _default_threads()):
        parts += _chunk(b"IDAT", data)
    parts += _chunk(b"IEND", b"")
    return b"".join(parts)


def _chunk(kind: bytes, data: bytes) -> tuple[bytes, bytes, bytes]:
    return struct.pack(">I", len(data)) + kind, data, struct.pack(">I", isal_zlib.crc32(data, isal_zlib.crc32(kind)))


def _default_threads() -> int:
    return min(_MAX_THREADS, len(os.sched_getaffinity(0)))


class _Band(NamedTuple):
    packed: bytes
    adler: int
    size: int


def _deflate(rows: Bytes2D, channels: int, threads: int) -> list[bytes]:
    """The filtered rows as one zlib stream, in pieces."""
    best = _choose_filter(rows, channels)
    count = max(1, min(threads, rows.size // _BAND_BYTES))
    edges = [len(rows) * band // count for band in range(count + 1)]

    def pack(band: int) -> _Band:
        return _pack_band(rows, edges[band], edges[band + 1], channels, best, last=band == count - 1)

    if count == 1:
        bands = [pack(0)]
    else:
        with ThreadPoolExecutor(count) as executor:
            bands = list(executor.map(pack, range(count)))
    adler = 1
    for band in bands:
        adler = _combine_adler(adler, band.adler, band.size)
    pieces = [band.packed for band in bands]
    pieces[0] = b"\x78\x01" + pieces[0]
    pieces[-1] += struct.pack(">I", adler)
    return pieces


def _choose_filter(rows: Bytes2D, channels: int) -> int:
    """The filter that packs a sample of the rows best."""
    starts = np.linspace(0, max(0, len(rows) - _SAMPLE_ROWS), _SAMPLE_BLOCKS).astype(int).tolist()

    def packed_size(kind: int) -> int:
        blocks = [_filter(rows, start, min(start + _SAMPLE_ROWS, len(rows)), channels, kind) for start in starts]
        return len(isal_zlib.compress(np.concatenate(blocks), _LEVEL))

    return min(_FILTERS, key=packed_size)


def _pack_band(rows: Bytes2D, start: int, stop: int, channels: int, kind: int, *, last: bool) -> _Band:
    packer = isal_zlib.compressobj(_LEVEL, isal_zlib.DEFLATED, -isal_zlib.MAX_WBITS)
    step = max(1, _BLOCK_BYTES // rows.shape[1])
    packed = []
    adler = 1
    for top in range(start, stop, step):
        block = _filter(rows, top, min(top + step, stop), channels, kind)
        adler = isal_zlib.adler32(block, adler)
        packed.append(packer.compress(block))
    packed.append(packer.flush(isal_zlib.Z_FINISH if last else isal_zlib.Z_FULL_FLUSH))
    return _Band(b"".join(packed), adler, (stop - start) * (rows.shape[1] + 1))


def _combine_adler(first: int, second: int, second_size: int) -> int:
    """Adler-32 of two pieces joined, as zlib's ``adler32_combine``."""
    low = ((first & 0xFFFF) + (second & 0xFFFF) - 1) % _ADLER_BASE
    high = ((first >> 16) + (second >> 16) + second_size * ((first & 0xFFFF) - 1)) % _ADLER_BASE
    return high << 16 | low


def _filter(rows: Bytes2D, top: int, bottom: int, channels: int, kind: int) -> Bytes2D:
    """Rows ``top`` to ``bottom``, each with its filter's number in front."""
    current = rows[top:bottom]
    above = rows[top - 1 : bottom - 1] if top > 0 else _below_nothing(rows[:bottom])
    filtered = np.empty((bottom - top, rows.shape[1] + 1), np.uint8)
    filtered[:, 0] = kind
    _FILTERS[kind](current, above, channels, filtered[:, 1:])
    return filtered


def _below_nothing(rows: Bytes2D) -> Bytes2D:
    return np.concatenate([np.zeros_like(rows[:1]), rows[:-1]])


def _keep(current: Bytes2D, above: Bytes2D, channels: int, out: Bytes2D) -> None:
    out[:] = current


def _minus_left(current: Bytes2D, above: Bytes2D, channels: int, out: Bytes2D) -> None:
    out[:, :channels] = current[:, :channels]
    np.subtract(current[:, channels:], current[:, :-channels], out=out[:, channels:])


def _minus_above(current: Bytes2D, above: Bytes2D, channels: int, out: Bytes2D) -> None:
    np.subtract(current, above, out=out)


def _minus_average(current: Bytes2D, above: Bytes2D, channels: int, out: Bytes2D) -> None:
    np.subtract(current[:, :channels], above[:, :channels] >> 1, out=out[:, :channels])
    left, above = current[:, :-channels], above[:, channels:]
    # The average, rounded down, without leaving 8 bits: what both have plus half of what only one has.
    average = left ^ above
    average >>= 1
    average += left & above
    np.subtract(current[:, channels:], average, out=out[:, channels:])


# By their number in the specification. Paeth, the fourth, gains 1 % over the average and takes six times as long.
_FILTERS: dict[int, Filter] = {0: _keep, 1: _minus_left, 2: _minus_above, 3: _minus_average}
