"""PNG files: every colour type and depth, odd, damaged, and lying."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator

import numpy as np

from scripts.hostile_files.specimen import (
    BOMB,
    BROKEN_EXIF,
    BROKEN_PROFILES,
    INVALID,
    OK,
    RESOLUTION,
    SMALL,
    Specimen,
    exif,
    picture,
    saved,
    srgb_profile,
)

SIGNATURE = b"\x89PNG\r\n\x1a\n"
WIDTH, HEIGHT = 96, 70
DEPTHS = {0: (1, 2, 4, 8, 16), 2: (8, 16), 3: (1, 2, 4, 8), 4: (8, 16), 6: (8, 16)}
CHANNELS = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}
KEYS = {0: b"\0\1", 2: b"\0\1\0\1\0\1", 3: bytes(range(0, 256, 16))}
PASSES = ((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2))
PALETTE = bytes(range(256)) * 3


def pngs(seed: int) -> Iterator[Specimen]:
    for name, data, outcomes in _all(seed):
        yield Specimen(f"png-{name}.png", data, tuple(outcomes.split("|")))


def _all(seed: int) -> Iterator[tuple[str, bytes, str]]:
    for colour_type, depths in DEPTHS.items():
        for depth in depths:
            yield from _of_a_kind(seed, colour_type, depth)
    plain = saved(picture(seed), "PNG")
    yield from _sizes(seed)
    yield from _headers(seed)
    yield from _with_metadata(plain)
    yield from _data(seed)
    yield from _chunks(seed, plain)
    yield from _animations(seed)


def chunk(kind: bytes, data: bytes = b"") -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def header(colour_type: int, depth: int, *, size: tuple[int, int] = (WIDTH, HEIGHT), rest: bytes = b"\0\0\0") -> bytes:
    return chunk(b"IHDR", struct.pack(">IIBB", *size, depth, colour_type) + rest)


def rows(seed: int, colour_type: int, depth: int, *, interlaced: bool = False, height: int = HEIGHT) -> bytes:
    """Unpacked noise of the right size, each row with a filter of its own."""
    random = np.random.default_rng(seed)
    bits = depth * CHANNELS[colour_type]
    made = []
    for x, y, step_x, step_y in PASSES if interlaced else ((0, 0, 1, 1),):
        columns, lines = -(-(WIDTH - x) // step_x), -(-(height - y) // step_y)
        for line in range(lines):
            made.append(bytes([line % 5]) + random.bytes((columns * bits + 7) // 8))
    return b"".join(made)


def png(start: bytes, data: bytes, *, before: bytes = b"", end: bytes | None = None) -> bytes:
    return SIGNATURE + start + before + chunk(b"IDAT", data) + (chunk(b"IEND") if end is None else end)


def _of_a_kind(seed: int, colour_type: int, depth: int) -> Iterator[tuple[str, bytes, str]]:
    name = f"type{colour_type}-{depth}bit"
    palette = chunk(b"PLTE", PALETTE[: 3 * 2**depth]) if colour_type == 3 else b""
    key = palette + chunk(b"tRNS", KEYS[colour_type][: 2**depth]) if colour_type in KEYS else b""
    for interlaced in (False, True):
        start = header(colour_type, depth, rest=bytes([0, 0, interlaced]))
        kind = f"{name}-interlaced" if interlaced else name
        whole = rows(seed, colour_type, depth, interlaced=interlaced)
        yield kind, png(start, zlib.compress(whole), before=palette), OK
        yield f"{kind}-few-rows", png(start, zlib.compress(whole[: len(whole) // 2]), before=palette), INVALID
        if key:
            yield f"{kind}-transparent", png(start, zlib.compress(whole), before=key), OK


def _sizes(seed: int) -> Iterator[tuple[str, bytes, str]]:
    for size, outcome in {(64, 64): OK, (65, 67): OK, (7680, 64): OK, (64, 7680): OK, (63, 64): SMALL}.items():
        yield f"{size[0]}x{size[1]}", saved(picture(seed, size=size), "PNG"), outcome
    for size, outcome in {
        (7681, 70): RESOLUTION,
        (4321, 4321): RESOLUTION,
        (1, 1): SMALL,
        (9, 7681): RESOLUTION,
    }.items():
        yield f"claims-{size[0]}x{size[1]}", png(header(2, 8, size=size), bytes(100_000)), outcome
    for side in (30_000, 2**31 - 1, 2**32 - 1):
        yield f"claims-{side}-square", png(header(2, 8, size=(side, side)), b""), BOMB
    for size in ((0, 70), (96, 0), (0, 0)):
        yield f"claims-{size[0]}x{size[1]}", png(header(2, 8, size=size), b""), INVALID
    for mode in ("1", "L", "P", "RGB"):
        solid = picture(seed, "RGBA", (64, 64)).resize((3000, 2500), box=(0, 0, 1, 1)).convert(mode)
        yield f"solid-{mode}", saved(solid, "PNG"), BOMB
    yield "small-and-solid", saved(picture(seed, "RGB", (64, 64)).resize((2000, 2000), box=(0, 0, 1, 1)), "PNG"), OK


def _headers(seed: int) -> Iterator[tuple[str, bytes, str]]:
    data = zlib.compress(rows(seed, 2, 8))
    for colour_type, depth in (
        (0, 3),
        (0, 0),
        (0, 32),
        (1, 8),
        (2, 4),
        (3, 16),
        (4, 4),
        (5, 8),
        (6, 1),
        (7, 8),
        (255, 255),
    ):
        yield f"kind-{colour_type}-{depth}", png(header(colour_type, depth), data), INVALID
    yield "compression-1", png(header(2, 8, rest=b"\1\0\0"), data), f"{INVALID}|{OK}"
    yield "filtering-1", png(header(2, 8, rest=b"\0\1\0"), data), f"{INVALID}|{OK}"
    yield "interlacing-2", png(header(2, 8, rest=b"\0\0\2"), data), f"{INVALID}|{OK}"
    yield "header-crc-wrong", png(header(2, 8)[:-1] + b"?", data), f"{INVALID}|{OK}"
    yield "header-twice", png(header(2, 8) * 2, data), f"{INVALID}|{OK}"
    yield "header-missing", SIGNATURE + chunk(b"IDAT", data) + chunk(b"IEND"), INVALID
    yield "header-short", SIGNATURE + chunk(b"IHDR", struct.pack(">II", WIDTH, HEIGHT)) + chunk(b"IDAT", data), INVALID
    yield "header-long", SIGNATURE + chunk(b"IHDR", struct.pack(">IIBBBBBB", 96, 70, 8, 2, 0, 0, 0, 0)), INVALID
    indices = zlib.compress(rows(seed, 3, 8))
    for name, palette, outcome in (
        ("missing", b"", INVALID),
        ("empty", chunk(b"PLTE"), f"{INVALID}|{OK}"),
        ("short", chunk(b"PLTE", PALETTE[:9]), f"{OK}|{INVALID}"),
        ("uneven", chunk(b"PLTE", PALETTE[:10]), f"{INVALID}|{OK}"),
        ("long", chunk(b"PLTE", PALETTE * 3), f"{INVALID}|{OK}"),
        ("twice", chunk(b"PLTE", PALETTE) * 2, f"{INVALID}|{OK}"),
        ("after-transparency", chunk(b"tRNS", b"\0\1") + chunk(b"PLTE", PALETTE), f"{OK}|{INVALID}"),
        ("transparency-long", chunk(b"PLTE", PALETTE) + chunk(b"tRNS", bytes(999)), f"{OK}|{INVALID}"),
    ):
        yield f"palette-{name}", png(header(3, 8), indices, before=palette), outcome


def _with_metadata(plain: bytes) -> Iterator[tuple[str, bytes, str]]:
    bomb = zlib.compress(bytes(64 * 2**20), 9)
    extras = {
        "ztxt-bomb": chunk(b"zTXt", b"note\0\0" + bomb),
        "itxt-bomb": chunk(b"iTXt", b"note\0\1\0\0\0" + bomb),
        "icc-bomb": chunk(b"iCCP", b"icc\0\0" + bomb),
        "text-5-megabytes": chunk(b"tEXt", b"note\0" + bytes(5 * 2**20)),
        "texts-50000": chunk(b"tEXt", b"a\0b") * 50_000,
        "exif-5-megabytes": chunk(b"eXIf", b"II*\0" + bytes(5 * 2**20)),
        "orientation-6": chunk(b"eXIf", exif(6)[6:]),
        "exif-in-text": chunk(b"zTXt", b"Raw profile type exif\0\0" + zlib.compress(b"\nexif\n9\n" + b"zz" * 9)),
        "gamma-0": chunk(b"gAMA", bytes(4)),
        "chromaticities-0": chunk(b"cHRM", bytes(32)),
        "density-huge": chunk(b"pHYs", b"\xff" * 8 + b"\1"),
        "significant-bits-99": chunk(b"sBIT", b"\x63" * 3),
        "background-short": chunk(b"bKGD", b"\0"),
        "time-wrong": chunk(b"tIME", b"\xff" * 7),
        "ancillary-crc-wrong": chunk(b"tEXt", b"note\0hello")[:-1] + b"?",
        "unknown-critical": chunk(b"ABCD", b"hello"),
        "name-of-zeros": chunk(b"\0\0\0\0", b"hello"),
    }
    for name, tags in BROKEN_EXIF.items():
        extras[f"exif-{name}"] = chunk(b"eXIf", tags[6:])
    for name, profile in {"good": srgb_profile(), **BROKEN_PROFILES}.items():
        extras[f"icc-{name}"] = chunk(b"iCCP", b"icc\0\0" + zlib.compress(profile))
    for name, extra in extras.items():
        yield name, plain[:33] + extra + plain[33:], OK
    yield "texts-200000", plain[:33] + chunk(b"tEXt") * 200_000 + plain[33:], INVALID


def _data(seed: int) -> Iterator[tuple[str, bytes, str]]:
    start, whole = header(2, 8), rows(seed, 2, 8)
    packed = zlib.compress(whole)
    yield "data-missing", SIGNATURE + start + chunk(b"IEND"), INVALID
    yield "data-empty", png(start, b""), INVALID
    yield "data-cut", png(start, packed[: len(packed) // 2]), INVALID
    yield "data-too-much", png(start, zlib.compress(whole + bytes(50_000))), OK
    yield "data-bomb", png(start, zlib.compress(whole + bytes(100 * 2**20), 9)), OK
    yield "data-16bit-bomb", png(header(2, 16), zlib.compress(rows(seed, 2, 16) + bytes(100 * 2**20), 9)), OK
    yield "data-checksum-wrong", png(start, packed[:-1] + b"?"), f"{OK}|{INVALID}"
    yield "data-crc-wrong", png(start, packed).replace(chunk(b"IDAT", packed)[-4:], b"oops"), f"{INVALID}|{OK}"
    yield "data-not-zlib", png(start, b"\xff" + packed[1:]), INVALID
    yield "data-with-dictionary", png(start, b"\x78\xbb" + packed[2:]), INVALID
    yield "data-filter-9", png(start, zlib.compress(b"\x09" + whole[1:])), f"{INVALID}|{OK}"
    yield "data-stored", png(start, zlib.compress(whole, 0)), OK
    yield "data-twice", png(start, packed + packed), OK
    pieces = b"".join(chunk(b"IDAT", packed[place : place + 1]) for place in range(len(packed)))
    yield "data-in-single-bytes", SIGNATURE + start + pieces + chunk(b"IEND"), OK
    yield "data-among-empty", SIGNATURE + start + chunk(b"IDAT") * 9 + chunk(b"IDAT", packed) + chunk(b"IEND"), OK
    parted = chunk(b"IDAT", packed[:999]) + chunk(b"tEXt", b"a\0b") + chunk(b"IDAT", packed[999:])
    yield "data-parted-by-text", SIGNATURE + start + parted + chunk(b"IEND"), f"{OK}|{INVALID}"
    parted = chunk(b"IDAT", packed[:999]) + chunk(b"PLTE", PALETTE) + chunk(b"IDAT", packed[999:])
    yield "data-parted-by-palette", SIGNATURE + start + parted + chunk(b"IEND"), f"{OK}|{INVALID}"


def _chunks(seed: int, plain: bytes) -> Iterator[tuple[str, bytes, str]]:
    for percent in (1, 10, 50, 99):
        yield f"cut-{percent}", plain[: len(plain) * percent // 100], INVALID
    yield "end-missing", plain[:-12], INVALID
    yield "end-long", plain[:-12] + chunk(b"IEND", b"hello"), f"{OK}|{INVALID}"
    for length in (2**31, 2**32 - 1, 2**31 - 1):
        yield f"chunk-of-{length}", plain[:33] + struct.pack(">I4s", length, b"tEXt") + plain[33:], INVALID
    yield "before-a-zip", plain + b"PK\3\4" + bytes(300), OK
    yield "before-html", plain + b"<script>alert(1)</script>", OK
    yield "inside-itself", plain[:33] + chunk(b"prVt", plain) + plain[33:], OK
    yield "twice", plain + plain, OK
    yield "line-ends-changed", plain.replace(b"\r\n", b"\n", 1), INVALID
    yield "signature-only", SIGNATURE, INVALID
    yield "apple", SIGNATURE + chunk(b"CgBI", b"\x50\0\x20\2") + plain[8:], INVALID


def _animations(seed: int) -> Iterator[tuple[str, bytes, str]]:
    frames = [picture(seed + number) for number in range(3)]
    animation = saved(frames[0], "PNG", save_all=True, append_images=frames[1:], duration=50)
    yield "animated", animation, OK
    hidden = saved(frames[0], "PNG", save_all=True, append_images=frames[1:], default_image=True)
    yield "animated-hidden-first", hidden, OK
    control = animation.find(b"fcTL")
    yield "animated-frame-outside", animation[: control + 8] + b"\xff" * 16 + animation[control + 24 :], OK
    count = animation.find(b"acTL")
    yield "animated-4-billion-frames", animation[: count + 4] + b"\xff" * 4 + animation[count + 8 :], OK
    deep = picture(seed, "I;16") if seed < 0 else picture(seed, "L")
    yield "animated-grey", saved(deep, "PNG", save_all=True, append_images=[deep.rotate(90)]), OK
