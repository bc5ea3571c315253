"""Files that are no picture, or of a kind that is not accepted, or not what their name says."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from scripts.hostile_files.specimen import FORMAT, INVALID, LARGE, OK, Specimen, picture, saved


def strangers(seed: int) -> Iterator[Specimen]:
    jpeg, png = saved(picture(seed), "JPEG"), saved(picture(seed), "PNG")
    frames = [picture(seed + number, "P") for number in range(3)]
    heads = {
        "pdf": b"%PDF-1.7\n",
        "zip": b"PK\3\4",
        "psd": b"8BPS\0\1",
        "ico": b"\0\0\1\0\1\0",
        "jxl": b"\xff\x0a",
        "jp2": b"\0\0\0\x0cjP  \r\n\x87\n",
        "heic": b"\0\0\0\x20ftypheic",
        "avif": b"\0\0\0\x20ftypavif",
        "mp4": b"\0\0\0\x20ftypisom",
        "html": b"<!doctype html><p>",
        "svg": b'<svg xmlns="http://www.w3.org/2000/svg"><script>alert(1)</script></svg>',
        "xml": b'<?xml version="1.0"?><!DOCTYPE a [<!ENTITY b "c">]>',
    }
    for name, head in heads.items():
        yield Specimen(f"other-{name}.{name}", head + bytes(200), (FORMAT,))
        yield Specimen(f"other-{name}-before-jpeg.jpg", head + jpeg, (FORMAT,))
    yield Specimen("other-gif.gif", saved(frames[0], "GIF"), (FORMAT,))
    animation = saved(frames[0], "GIF", save_all=True, append_images=frames[1:])
    yield Specimen("other-gif-animated.gif", animation, (FORMAT,))
    yield Specimen("other-gif-named-png.png", animation, (FORMAT,))
    yield Specimen("other-tiff.tif", saved(picture(seed), "TIFF"), (FORMAT,))
    random = np.random.default_rng(seed)
    yield Specimen("nothing.jpg", b"", (INVALID,))
    yield Specimen("one-byte.jpg", b"\xff", (INVALID,))
    yield Specimen("text.txt", b"Hello! " * 50, (INVALID, FORMAT))
    yield Specimen("noise.png", random.bytes(5000), (INVALID,))
    yield Specimen("zeros.bmp", bytes(5000), (INVALID,))
    yield Specimen("elf.jpg", b"\x7fELF" + random.bytes(500), (INVALID,))
    yield Specimen("exe.png", b"MZ" + random.bytes(500), (INVALID,))
    yield Specimen("gzip.png", b"\x1f\x8b\x08" + random.bytes(500), (INVALID,))
    for magic, name in ((b"\xff\xd8\xff\xe0", "jpg"), (b"RIFF\0\1\0\0WEBPVP8 ", "webp"), (b"BM", "bmp")):
        yield Specimen(
            f"noise-behind-magic.{name}", magic + random.bytes(3000), (INVALID, "IMAGE_BOMB", "RESOLUTION_TOO_LARGE")
        )
    yield Specimen("png-named-jpg.jpg", png, (OK,))
    yield Specimen("jpeg-named-png.png", jpeg, (OK,))
    yield Specimen("jpeg-behind-a-space.jpg", b" " + jpeg, (INVALID,))
    yield Specimen("png-behind-a-bom.png", b"\xef\xbb\xbf" + png, (INVALID,))
    yield Specimen("eleven-megabytes.jpg", jpeg + bytes(11 * 2**20), (LARGE,))
