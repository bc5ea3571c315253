"""WebP files: lossy, lossless, extended, animated, damaged, and lying."""

from __future__ import annotations

import struct
from collections.abc import Iterator

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

EITHER = f"{OK}|{INVALID}"
KINDS: dict[str, dict[str, object]] = {
    "lossy": {"quality": 80},
    "worst": {"quality": 0, "method": 0},
    "best": {"quality": 100, "method": 6},
    "lossless": {"lossless": True},
    "lossless-exact": {"lossless": True, "exact": True},
    "coarse-alpha": {"quality": 50, "alpha_quality": 1},
}


def webps(seed: int) -> Iterator[Specimen]:
    for name, data, outcomes in _all(seed):
        yield Specimen(f"webp-{name}.webp", data, tuple(outcomes.split("|")))


def chunk(kind: bytes, data: bytes) -> bytes:
    return kind + struct.pack("<I", len(data)) + data + bytes(len(data) % 2)


def webp(*chunks: bytes) -> bytes:
    body = b"WEBP" + b"".join(chunks)
    return b"RIFF" + struct.pack("<I", len(body)) + body


def extended(flags: int, width: int, height: int) -> bytes:
    sizes = (width - 1).to_bytes(3, "little") + (height - 1).to_bytes(3, "little")
    return chunk(b"VP8X", bytes([flags, 0, 0, 0]) + sizes)


def _all(seed: int) -> Iterator[tuple[str, bytes, str]]:
    for mode in ("L", "RGB", "RGBA"):
        for kind, options in KINDS.items():
            yield f"{mode}-{kind}", saved(picture(seed, mode), "WEBP", **options), OK
    for size, outcome in {(64, 64): OK, (65, 67): OK, (7680, 64): OK, (63, 64): SMALL, (7681, 64): RESOLUTION}.items():
        yield f"{size[0]}x{size[1]}", saved(picture(seed, size=size), "WEBP"), outcome
    lossy = saved(picture(seed), "WEBP")[12:]
    lossless = saved(picture(seed), "WEBP", lossless=True)[12:]
    yield from _with_metadata(lossy)
    yield from _containers(lossy, lossless)
    yield from _streams(lossy, lossless)
    yield from _animations(seed)


def _with_metadata(lossy: bytes) -> Iterator[tuple[str, bytes, str]]:
    for orientation in (1, 6):
        yield f"orientation-{orientation}", webp(extended(8, 96, 70), lossy, chunk(b"EXIF", exif(orientation))), OK
    for name, tags in BROKEN_EXIF.items():
        yield f"exif-{name}", webp(extended(8, 96, 70), lossy, chunk(b"EXIF", tags)), OK
    for name, profile in {"good": srgb_profile(), **BROKEN_PROFILES}.items():
        yield f"icc-{name}", webp(extended(32, 96, 70), chunk(b"ICCP", profile), lossy), OK
    yield "icc-5-megabytes", webp(extended(32, 96, 70), chunk(b"ICCP", bytes(5 * 2**20)), lossy), OK
    yield "exif-5-megabytes", webp(extended(8, 96, 70), lossy, chunk(b"EXIF", b"II*\0" + bytes(5 * 2**20))), OK
    yield "xmp-5-megabytes", webp(extended(4, 96, 70), lossy, chunk(b"XMP ", b"<" * (5 * 2**20))), OK
    yield "flags-without-chunks", webp(extended(8 | 32 | 4, 96, 70), lossy), EITHER
    yield "flags-all", webp(extended(255, 96, 70), lossy), EITHER


def _containers(lossy: bytes, lossless: bytes) -> Iterator[tuple[str, bytes, str]]:
    whole = webp(lossy)
    for percent in (20, 60, 95):
        yield f"cut-{percent}", whole[: len(whole) * percent // 100], INVALID
        yield f"lossless-cut-{percent}", webp(lossless)[: len(webp(lossless)) * percent // 100], INVALID
    for length in (0, 4, 12, 2**31, 2**32 - 1, 2**32 - 2):
        yield f"says-{length}-bytes", whole[:4] + struct.pack("<I", length) + whole[8:], EITHER
    yield "chunk-says-4-billion", whole[:16] + b"\xff" * 4 + whole[20:], INVALID
    yield "chunk-says-0", whole[:16] + bytes(4) + whole[20:], INVALID
    yield "unknown-chunks", webp(extended(0, 96, 70), *[chunk(b"????", b"hello")] * 1000, lossy), EITHER
    yield "unknown-first", webp(chunk(b"????", b"hello"), lossy), INVALID
    yield "canvas-larger", webp(extended(0, 200, 200), lossy), INVALID
    yield "canvas-smaller", webp(extended(0, 64, 64), lossy), INVALID
    yield "canvas-of-2-to-the-24", webp(extended(0, 2**24, 2**24), lossy), BOMB
    yield "canvas-30000", webp(extended(0, 30_000, 30_000), lossy), BOMB
    yield "canvas-9000", webp(extended(0, 9000, 70), lossy), RESOLUTION
    yield "picture-missing", webp(extended(0, 96, 70)), INVALID
    yield "picture-twice", webp(extended(0, 96, 70), lossy, lossy), EITHER
    yield "extended-twice", webp(extended(0, 96, 70), extended(0, 96, 70), lossy), EITHER
    yield "before-a-zip", whole + b"PK\3\4" + bytes(300), OK
    yield "inside-itself", webp(extended(4, 96, 70), lossy, chunk(b"XMP ", whole)), OK
    yield "head-only", whole[:12], INVALID
    yield "alpha-broken", webp(extended(16, 96, 70), chunk(b"ALPH", b"\xff" * 50), lossy), EITHER
    yield "alpha-empty", webp(extended(16, 96, 70), chunk(b"ALPH", b""), lossy), EITHER
    yield "alpha-raw-short", webp(extended(16, 96, 70), chunk(b"ALPH", b"\0" + bytes(99)), lossy), EITHER
    yield "alpha-of-lossless", webp(extended(16, 96, 70), chunk(b"ALPH", b"\1" + bytes(99)), lossless), EITHER


def _streams(lossy: bytes, lossless: bytes) -> Iterator[tuple[str, bytes, str]]:
    for place, value, name in ((8, 0x01, "no-key-frame"), (8, 0xFE, "version-7"), (11, 0, "start-code")):
        yield f"lossy-{name}", webp(lossy[:place] + bytes([value]) + lossy[place + 1 :]), EITHER
    for width, height, outcome in ((0, 70, INVALID), (96, 0, INVALID), (16383, 16383, BOMB), (97, 71, EITHER)):
        sizes = struct.pack("<HH", width, height)
        yield f"lossy-claims-{width}x{height}", webp(lossy[:14] + sizes + lossy[18:]), outcome
    for name, bits, outcome in (
        ("16384-square", 2**28 - 1, BOMB),
        ("version-5", 95 | 69 << 14 | 5 << 29, INVALID),
        ("97x71", 96 | 70 << 14, EITHER),
    ):
        yield f"lossless-{name}", webp(lossless[:9] + struct.pack("<I", bits) + lossless[13:]), outcome
    yield "lossless-signature", webp(lossless[:8] + b"\0" + lossless[9:]), INVALID
    for name, stream in (("lossy", lossy), ("lossless", lossless)):
        middle = len(stream) // 2
        yield f"{name}-with-zeros", webp(stream[:middle] + bytes(100) + stream[middle + 100 :]), EITHER
        yield f"{name}-with-ones", webp(stream[:30] + b"\xff" * 60 + stream[90:]), EITHER


def _animations(seed: int) -> Iterator[tuple[str, bytes, str]]:
    frames = [picture(seed + number, "RGBA") for number in range(3)]
    animation = saved(frames[0], "WEBP", save_all=True, append_images=frames[1:], duration=50)
    yield "animated", animation, OK
    small = [frame.convert("RGB").resize((64, 64)) for frame in frames]
    yield "animated-lossless", saved(small[0], "WEBP", save_all=True, append_images=small[1:], lossless=True), OK
    many = [small[number % 2] for number in range(400)]
    yield "animated-400-frames", saved(small[0], "WEBP", save_all=True, append_images=many, method=0, quality=0), OK
    yield "animated-cut", animation[: len(animation) // 2], INVALID
    frame = animation.find(b"ANMF")
    yield "animated-frame-outside", animation[: frame + 8] + b"\xff" * 6 + animation[frame + 14 :], INVALID
    yield "animated-frame-huge", animation[: frame + 14] + b"\xff" * 6 + animation[frame + 20 :], INVALID
    yield "animated-without-frames", webp(extended(2, 96, 70), chunk(b"ANIM", bytes(6))), INVALID
    yield "animated-broken-frame", animation[: frame + 40] + bytes(60) + animation[frame + 100 :], EITHER
    yield "animated-without-head", webp(extended(2, 96, 70), animation[frame:]), EITHER
