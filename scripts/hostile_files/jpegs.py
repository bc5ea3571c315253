"""JPEG files: of every kind, odd, damaged, and lying."""

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

END = b"\xff\xd9"
SIZES = {
    (64, 64): OK,
    (65, 67): OK,
    (64, 2000): OK,
    (7680, 64): OK,
    (63, 64): SMALL,
    (64, 63): SMALL,
    (1, 1): SMALL,
    (7681, 64): RESOLUTION,
    (64, 7681): RESOLUTION,
}
CLAIMED_SIZES = {(0, 70): INVALID, (96, 0): INVALID, (65535, 65535): BOMB, (7680, 4320): BOMB, (8000, 70): RESOLUTION}
KINDS: dict[str, dict[str, object]] = {
    "plain": {},
    "worst": {"quality": 1},
    "best": {"quality": 100, "subsampling": 0},
    "halved": {"subsampling": 1},
    "optimized": {"optimize": True},
    "progressive": {"progressive": True},
    "restarts": {"restart_marker_blocks": 3},
    "restarts-by-row": {"restart_marker_rows": 1, "progressive": True},
}


def jpegs(seed: int) -> Iterator[Specimen]:
    for name, data, outcomes in _all(seed):
        yield Specimen(f"jpeg-{name}.jpg", data, tuple(outcomes.split("|")))


def _all(seed: int) -> Iterator[tuple[str, bytes, str]]:
    yield from _sound(seed)
    plain = saved(picture(seed), "JPEG")
    progressive = saved(picture(seed), "JPEG", progressive=True)
    yield from _with_metadata(plain)
    yield from _cut(seed, plain, progressive)
    yield from _claims(plain)
    yield from _tables(plain)
    yield from _scans(seed, plain, progressive)
    yield from _surroundings(plain)


def _sound(seed: int) -> Iterator[tuple[str, bytes, str]]:
    for mode in ("L", "RGB", "CMYK"):
        for kind, options in KINDS.items():
            yield f"{mode}-{kind}", saved(picture(seed, mode), "JPEG", **options), OK
    for size, outcome in SIZES.items():
        yield f"{size[0]}x{size[1]}", saved(picture(seed, size=size), "JPEG"), outcome
    for orientation in (0, 2, 3, 4, 5, 6, 7, 8, 9, 65535):
        yield f"orientation-{orientation}", saved(picture(seed), "JPEG", exif=exif(orientation)), OK


def _with_metadata(plain: bytes) -> Iterator[tuple[str, bytes, str]]:
    for name, tags in BROKEN_EXIF.items():
        yield f"exif-{name}", with_segment(plain, 0xE1, tags), OK
    for name, profile in {"good": srgb_profile(), **BROKEN_PROFILES}.items():
        yield f"icc-{name}", with_segment(plain, 0xE2, b"ICC_PROFILE\0\1\1" + profile), OK
    yield "icc-piece-missing", with_segment(plain, 0xE2, b"ICC_PROFILE\0\1\3" + srgb_profile()), OK
    yield "icc-piece-0-of-0", with_segment(plain, 0xE2, b"ICC_PROFILE\0\0\0" + srgb_profile()), OK
    pieces = [b"ICC_PROFILE\0" + bytes([index, 90]) + bytes(65000) for index in range(1, 91)]
    yield "icc-5-megabytes", with_segments(plain, 0xE2, pieces), OK
    yield "exif-6-megabytes", with_segments(plain, 0xE1, [b"Exif\0\0II*\0" + bytes(65000)] * 90), OK
    yield "xmp-4-megabytes", with_segments(plain, 0xE1, [b"http://ns.adobe.com/xap/1.0/\0" + b"<" * 65000] * 60), OK
    yield "comments-3000", with_segments(plain, 0xFE, [b"hello"] * 3000), OK
    yield "comments-6000", with_segments(plain, 0xFE, [b"hello"] * 6000), INVALID
    yield "photoshop-broken", with_segment(plain, 0xED, b"Photoshop 3.0\x008BIM\3\xed\0\0\xff\xff\xff\xff"), OK
    yield "several-pictures-broken", with_segment(plain, 0xE2, b"MPF\0II*\0\xff\xff\xff\xff\0\0"), OK
    for transform in (0, 1, 2, 255):
        adobe = b"Adobe\0\x64\0\0\0\0" + bytes([transform])
        yield f"adobe-{transform}", with_segment(plain, 0xEE, adobe), f"{OK}|{INVALID}"
    yield "adobe-short", with_segment(plain, 0xEE, b"Adobe"), f"{OK}|{INVALID}"
    yield "jfif-version-9", plain.replace(b"JFIF\0\1", b"JFIF\0\x09", 1), OK
    yield "jfif-density-0", plain[:14] + bytes(4) + plain[18:], OK


def _cut(seed: int, plain: bytes, progressive: bytes) -> Iterator[tuple[str, bytes, str]]:
    start = _scan(plain)
    for percent in (1, 30, 60, 90, 97):
        place = start + (len(plain) - start) * percent // 100
        yield f"cut-{percent}", plain[:place], INVALID
        yield f"cut-{percent}-and-closed", plain[:place] + END, INVALID
    for percent in (10, 50, 80):
        place = len(progressive) * percent // 100
        yield f"progressive-cut-{percent}", progressive[:place], INVALID
        yield f"progressive-cut-{percent}-and-closed", progressive[:place] + END, INVALID
    for kind in ("restarts", "best"):
        data = saved(picture(seed), "JPEG", **KINDS[kind])
        yield f"{kind}-cut-and-closed", data[: len(data) * 7 // 10] + END, INVALID
    cmyk = saved(picture(seed, "CMYK"), "JPEG")
    yield "cmyk-cut-and-closed", cmyk[: len(cmyk) * 7 // 10] + END, INVALID
    yield "without-end", plain[:-2], OK
    yield "cut-before-scan", plain[: plain.find(b"\xff\xda")], INVALID
    yield "cut-in-size", plain[: plain.find(b"\xff\xc0") + 6], INVALID


def _claims(plain: bytes) -> Iterator[tuple[str, bytes, str]]:
    frame = plain.find(b"\xff\xc0")
    for (width, height), outcome in CLAIMED_SIZES.items():
        size = struct.pack(">HH", height, width)
        yield f"claims-{width}x{height}", plain[: frame + 5] + size + plain[frame + 9 :], outcome
    no_lines = plain[: frame + 5] + b"\0\0" + plain[frame + 7 : -2]
    yield "lines-defined-later", no_lines + b"\xff\xdc\0\4\0\x46" + END, INVALID
    yield "lines-defined-twice", plain[:-2] + b"\xff\xdc\0\4\1\0" + END, f"{OK}|{INVALID}"
    for precision in (0, 1, 12, 16, 255):
        yield f"precision-{precision}", _patched(plain, frame + 4, precision), INVALID
    for count in (0, 1, 2, 4, 5, 255):
        yield f"components-{count}", _patched(plain, frame + 9, count), f"{INVALID}|{OK}"
    for sampling in (0x00, 0x01, 0x10, 0x33, 0x44, 0xFF):
        yield f"sampling-{sampling:02x}", _patched(plain, frame + 11, sampling), f"{INVALID}|{OK}"
    for kind in (0xC1, 0xC2, 0xC3, 0xC5, 0xC9, 0xCA, 0xCB, 0xCF):
        yield f"frame-{kind:02x}", _patched(plain, frame + 1, kind), f"{INVALID}|{OK}"
    yield "two-frames", plain[:frame] + plain[frame : frame + 19] + plain[frame:], INVALID


def _tables(plain: bytes) -> Iterator[tuple[str, bytes, str]]:
    quantization, huffman = plain.find(b"\xff\xdb"), plain.find(b"\xff\xc4")
    yield "quantization-0", plain[: quantization + 5] + bytes(64) + plain[quantization + 69 :], f"{OK}|{INVALID}"
    yield "quantization-gone", plain.replace(b"\xff\xdb", b"\xff\xfe"), INVALID
    yield "quantization-unknown", _patched(plain, quantization + 4, 0x0F), INVALID
    yield "quantization-short", plain[:quantization] + b"\xff\xdb\0\2" + plain[quantization:], OK
    yield "huffman-gone", plain.replace(b"\xff\xc4", b"\xff\xfe"), f"{INVALID}|{OK}"
    yield "huffman-overfull", plain[: huffman + 5] + b"\xff" * 16 + plain[huffman + 21 :], INVALID
    yield "huffman-empty", plain[: huffman + 5] + bytes(16) + plain[huffman + 21 :], INVALID
    yield "huffman-unknown", _patched(plain, huffman + 4, 0x3F), INVALID
    yield "segment-length-0", _patched(_patched(plain, quantization + 2, 0), quantization + 3, 0), INVALID
    yield "segment-length-65535", _patched(_patched(plain, quantization + 2, 255), quantization + 3, 255), INVALID


def _scans(seed: int, plain: bytes, progressive: bytes) -> Iterator[tuple[str, bytes, str]]:
    last = progressive[progressive.rfind(b"\xff\xda") : -2]
    yield "scans-50", progressive[:-2] + last * 40 + END, f"{OK}|{INVALID}"
    yield "scans-80", progressive[:-2] + last * 70 + END, INVALID
    first = _scan(progressive)
    second = progressive.find(b"\xff\xda", first)
    table = progressive.rfind(b"\xff\xc4", first, second)
    yield "scans-only-first", progressive[: table if table > 0 else second] + END, INVALID
    yield "scan-of-unknown-component", _patched(plain, plain.find(b"\xff\xda") + 5, 77), INVALID
    yield "scan-of-no-component", _patched(plain, plain.find(b"\xff\xda") + 4, 0), INVALID
    large = saved(picture(seed, "L", (1600, 1200)), "JPEG", progressive=True, quality=5)
    again = large[large.rfind(b"\xff\xda") : -2]
    yield "scans-slow", large[:-2] + again * 50 + END, f"{OK}|{INVALID}"
    restarts = saved(picture(seed), "JPEG", restart_marker_blocks=3)
    yield "restarts-in-wrong-order", restarts.replace(b"\xff\xd1", b"\xff\xd6"), f"{OK}|{INVALID}"
    yield "restarts-gone", restarts.replace(b"\xff\xd1", b""), f"{OK}|{INVALID}"
    yield "restarts-promised", with_segment(plain, 0xDD, b"\0\3"), f"{OK}|{INVALID}"
    yield "restarts-unpromised", plain[:-40] + b"\xff\xd0" + plain[-40:], f"{OK}|{INVALID}"
    middle = _scan(plain) + 60
    yield "scan-with-zeros", plain[:middle] + bytes(200) + plain[middle + 200 :], f"{OK}|{INVALID}"
    yield "scan-with-a-marker", plain[:middle] + b"\xff\xc0" + plain[middle + 2 :], f"{OK}|{INVALID}"


def _surroundings(plain: bytes) -> Iterator[tuple[str, bytes, str]]:
    yield "twice", plain + plain, OK
    yield "inside-a-comment", with_segment(plain, 0xFE, plain[:60000]), OK
    yield "started-twice", plain[:2] + plain, f"{OK}|{INVALID}"
    yield "before-a-zip", plain + b"PK\3\4" + bytes(500), OK
    yield "before-html", plain + b"<html><script>alert(1)</script></html>", OK
    yield "with-php", with_segment(plain, 0xFE, b"<?php system($_GET['c']); ?>"), OK
    yield "before-2-megabytes-of-nothing", plain + bytes(2 * 2**20), OK
    yield "fill-bytes", plain[:2] + b"\xff" * 1000 + plain[2:], OK
    yield "fill-bytes-only", b"\xff\xd8" + b"\xff" * 2**20, INVALID
    yield "start-only", b"\xff\xd8\xff", INVALID
    yield "start-and-end", b"\xff\xd8\xff\xd9", INVALID
    yield "start-and-zeros", b"\xff\xd8\xff" + bytes(5000), INVALID


def _scan(data: bytes) -> int:
    """Where the first scan's data begin."""
    position = data.find(b"\xff\xda")
    return position + 2 + int.from_bytes(data[position + 2 : position + 4])


def _patched(data: bytes, place: int, value: int) -> bytes:
    return data[:place] + bytes([value]) + data[place + 1 :]


def with_segment(data: bytes, marker: int, payload: bytes) -> bytes:
    return with_segments(data, marker, [payload])


def with_segments(data: bytes, marker: int, payloads: list[bytes]) -> bytes:
    """The JPEG with segments between its start and the rest."""
    made = [b"\xff" + bytes([marker]) + struct.pack(">H", 2 + len(payload)) + payload for payload in payloads]
    return data[:2] + b"".join(made) + data[2:]
