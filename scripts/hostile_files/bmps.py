"""BMP files: every header, depth and compression, damaged, and lying."""

from __future__ import annotations

import struct
from collections.abc import Iterator

import numpy as np

from scripts.hostile_files.specimen import BOMB, INVALID, OK, RESOLUTION, SMALL, Specimen, picture, saved

WIDTH, HEIGHT = 96, 70
EITHER = f"{OK}|{INVALID}"
MASKS = {
    "565": (16, (0xF800, 0x7E0, 0x1F)),
    "555": (16, (0x7C00, 0x3E0, 0x1F)),
    "888": (32, (0xFF0000, 0xFF00, 0xFF)),
    "reversed": (32, (0xFF, 0xFF00, 0xFF0000)),
    "none": (32, (0, 0, 0)),
    "overlapping": (32, (0xFFFF, 0xFFFF00, 0xFFFFFFFF)),
    "scattered": (16, (0x5555, 0xAAAA, 0x1)),
}


def bmps(seed: int) -> Iterator[Specimen]:
    for name, data, outcomes in _all(seed):
        yield Specimen(f"bmp-{name}.bmp", data, tuple(outcomes.split("|")))


def bmp(
    bits: int,
    pixels: bytes,
    *,
    size: tuple[int, int] = (WIDTH, HEIGHT),
    compression: int = 0,
    header_size: int = 40,
    colours: int = 0,
    palette: bytes = b"",
    planes: int = 1,
    offset: int | None = None,
) -> bytes:
    head = struct.pack("<IiiHHIIiiII", header_size, *size, planes, bits, compression, 0, 2835, 2835, colours, 0)
    head += bytes(max(0, header_size - 40))
    start = 14 + len(head) + len(palette) if offset is None else offset
    return struct.pack("<2sIHHI", b"BM", start + len(pixels), 0, 0, start) + head + palette + pixels


def _rows(seed: int, bits: int) -> bytes:
    return np.random.default_rng(seed).bytes((WIDTH * bits + 31) // 32 * 4 * HEIGHT)


def _palette(bits: int) -> bytes:
    return b"".join(bytes([value, 255 - value, value // 2, 0]) for value in range(0, 256, 256 // 2**bits))


def _all(seed: int) -> Iterator[tuple[str, bytes, str]]:
    for mode in ("1", "L", "P", "RGB", "RGBA"):
        yield mode, saved(picture(seed, mode), "BMP"), OK
    for size, outcome in {(64, 64): OK, (65, 67): OK, (7000, 64): OK, (63, 64): SMALL, (7681, 64): RESOLUTION}.items():
        yield f"{size[0]}x{size[1]}", saved(picture(seed, size=size), "BMP"), outcome
    yield from _kinds(seed)
    yield from _run_lengths(seed)
    yield from _claims(seed)


def _kinds(seed: int) -> Iterator[tuple[str, bytes, str]]:
    for bits in (1, 4, 8):
        yield f"{bits}bit", bmp(bits, _rows(seed, bits), palette=_palette(bits)), OK
        downwards = bmp(bits, _rows(seed, bits), palette=_palette(bits), size=(WIDTH, -HEIGHT))
        yield f"{bits}bit-downwards", downwards, OK
    for bits in (16, 24, 32):
        yield f"{bits}bit", bmp(bits, _rows(seed, bits)), OK
        yield f"{bits}bit-downwards", bmp(bits, _rows(seed, bits), size=(WIDTH, -HEIGHT)), OK
    for bits in (0, 2, 3, 7, 48, 64, 65535):
        yield f"{bits}bit", bmp(bits, _rows(seed, 32)), INVALID
    for header_size in (52, 56, 64, 108, 124):
        yield f"header-{header_size}", bmp(24, _rows(seed, 24), header_size=header_size), OK
    for header_size in (0, 13, 39, 41, 125, 2**31 - 1):
        data = bmp(24, _rows(seed, 24))
        yield f"header-{header_size}", data[:14] + struct.pack("<I", header_size) + data[18:], INVALID
    core = struct.pack("<IHHHH", 12, WIDTH, HEIGHT, 1, 24)
    yield "header-12", struct.pack("<2sIHHI", b"BM", 0, 0, 0, 26) + core + _rows(seed, 24), OK
    for name, (bits, masks) in MASKS.items():
        data = bmp(bits, _rows(seed, bits), compression=3, palette=struct.pack("<III", *masks))
        yield f"masks-{name}", data, EITHER
    for compression in (4, 5, 6, 11, 99):
        yield f"compression-{compression}", bmp(24, _rows(seed, 24), compression=compression), INVALID
    yield "planes-0", bmp(24, _rows(seed, 24), planes=0), EITHER
    yield "palette-missing", bmp(8, _rows(seed, 8)), EITHER
    yield "palette-of-4-billion", bmp(8, _rows(seed, 8), palette=_palette(8), colours=2**32 - 1), EITHER
    yield "palette-of-3", bmp(8, _rows(seed, 8), palette=_palette(8)[:12], colours=3), EITHER


def _run_lengths(seed: int) -> Iterator[tuple[str, bytes, str]]:
    random = np.random.default_rng(seed)
    line = b"".join(bytes([8, value]) for value in random.integers(0, 256, WIDTH // 8).tolist())
    whole = (line + b"\0\0") * HEIGHT + b"\0\1"
    literal = (b"\0\x60" + random.bytes(WIDTH) + b"\0\0") * HEIGHT + b"\0\1"
    for name, data, outcome in (
        ("runs", whole, OK),
        ("literal", literal, OK),
        ("cut", whole[: len(whole) // 2], INVALID),
        ("no-end", whole[:-2], EITHER),
        ("early-end", line + b"\0\0\0\1", EITHER),
        ("too-wide", line * 50 + b"\0\1", EITHER),
        ("too-high", (line + b"\0\0") * (HEIGHT * 9) + b"\0\1", EITHER),
        ("jump-outside", b"\0\2\xff\xff" * 500 + whole, EITHER),
        ("jump-within", b"\0\2\5\5" + whole, EITHER),
        ("only-line-ends", b"\0\0" * 100_000, EITHER),
        ("literal-beyond-the-file", b"\0\xff" + bytes(9), INVALID),
        ("empty", b"", INVALID),
        ("zeros", bytes(3000), EITHER),
    ):
        yield f"rle8-{name}", bmp(8, data, palette=_palette(8), compression=1), outcome
        yield f"rle4-{name}", bmp(4, data, palette=_palette(4), compression=2), EITHER
    yield "rle8-of-24bit", bmp(24, whole, compression=1), EITHER
    many = np.ones((400_000, 2), np.uint8)
    yield "rle8-single-pixels", bmp(8, many.tobytes(), size=(2000, 200), palette=_palette(8), compression=1), EITHER


def _claims(seed: int) -> Iterator[tuple[str, bytes, str]]:
    pixels = _rows(seed, 24)
    for size, outcome in {
        (0, 70): INVALID,
        (96, 0): INVALID,
        (-96, 70): INVALID,
        (96, -(2**31)): BOMB,
        (2**31 - 1, 2**31 - 1): BOMB,
        (50_000, 50_000): BOMB,
        (7680, 4320): BOMB,
        (9000, 70): RESOLUTION,
        (97, 71): INVALID,
        (95, 69): OK,
    }.items():
        yield f"claims-{size[0]}x{size[1]}", bmp(24, pixels, size=size), outcome
    for offset in (0, 1, 40, 2**31, 2**32 - 1):
        yield (
            f"pixels-at-{offset}",
            bmp(24, pixels, offset=0)[:10] + struct.pack("<I", offset) + bmp(24, pixels)[14:],
            EITHER,
        )
    whole = bmp(24, pixels)
    for percent in (1, 40, 99):
        yield f"cut-{percent}", whole[: len(whole) * percent // 100], INVALID
    yield "before-a-zip", whole + b"PK\3\4" + bytes(300), OK
    yield "letters-only", b"BM", INVALID
    yield "letters-and-text", b"BMy dear friend, " * 20, INVALID
