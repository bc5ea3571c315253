"""What a file claims to be, read from its first bytes and judged before any decoder sees it."""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import dataclass

from pipeline.errors import FileTooLarge, ImageBomb, ImageTooSmall, InvalidImage, ResolutionTooLarge, UnsupportedFormat

SUPPORTED_FORMATS = ("JPEG", "PNG", "WEBP", "BMP")

# A file beyond both is a bomb. A small plain picture legitimately passes the ratio, hence the second condition.
BOMB_RATIO = 1000
BOMB_BYTES = 16 * 2**20

# Cameras write some twenty segments, a large colour profile adds up to 255. Each costs the decoder time.
MAX_JPEG_SEGMENTS = 4096

_MIB = 2**20
_JPEG_FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
_JPEG_SCAN = 0xDA
_JPEG_FILL = 0xFF
_BMP_HEADER_SIZES = (12, 40, 52, 56, 64, 108, 124)


@dataclass(frozen=True)
class ImageLimits:
    """What an upload may be at most (and, for the side, at least).

    Attributes:
        max_bytes: Size of the file.
        max_megapixels: Width times height, in millions.
        max_long_side_px: 8K, whichever way the picture stands.
        max_short_side_px: 8K, whichever way the picture stands.
        min_side_px: Both sides.
        bomb_ratio: How many times its file's size a picture may unpack to, if that is over ``BOMB_BYTES``.
        own_file: Whether this service wrote the file, so that no process need stand between it and the decoder.
    """

    max_bytes: int = 10 * _MIB
    max_megapixels: float = 50
    max_long_side_px: int = 7680
    max_short_side_px: int = 4320
    min_side_px: int = 64
    bomb_ratio: float = BOMB_RATIO
    own_file: bool = False


OWN_FILES = ImageLimits(
    max_bytes=2**40,
    max_megapixels=2**20,
    max_long_side_px=2**20,
    max_short_side_px=2**20,
    min_side_px=1,
    bomb_ratio=2**40,
    own_file=True,
)
"""For files this service has written itself: its uploads were judged when they came."""


@dataclass(frozen=True)
class ImageHeader:
    """A file's own claim about its picture.

    Attributes:
        format: One of ``SUPPORTED_FORMATS``.
        width: Pixels as stored, before the orientation is applied.
        height: Pixels as stored, before the orientation is applied.
    """

    format: str
    width: int
    height: int


def read_header(data: bytes, limits: ImageLimits | None = None, *, declared_type: str | None = None) -> ImageHeader:
    """Format and size of an image file, both within the limits. No pixel is unpacked.

    Args:
        data: The whole file.
        limits: What is accepted; the defaults of ``ImageLimits`` if None.
        declared_type: Media type the sender gave, if any. The content decides what the file is; a declared type
            only matters when it says that this is no image at all. ``application/octet-stream`` says nothing.

    Raises:
        FileTooLarge, UnsupportedFormat, InvalidImage, ImageBomb, ResolutionTooLarge, ImageTooSmall: In this order.
    """
    limits = limits or ImageLimits()
    _check_bytes(len(data), limits)
    image_format = _identify(data, declared_type)
    try:
        width, height = _SIZE_READERS[image_format](data)
    except (IndexError, struct.error):
        raise InvalidImage("Invalid image data: the header is truncated") from None
    if width < 1 or height < 1:
        raise InvalidImage("Invalid image data: the image has no pixels")
    _check_unpacked_size(width, height, len(data), limits)
    _check_sides(width, height, limits)
    return ImageHeader(image_format, width, height)


def _check_bytes(size: int, limits: ImageLimits) -> None:
    if size > limits.max_bytes:
        max_size_mb = limits.max_bytes / _MIB
        raise FileTooLarge(
            f"File size exceeds {max_size_mb:g}MB limit",
            file_size_mb=round(size / _MIB, 1),
            max_size_mb=int(max_size_mb) if max_size_mb.is_integer() else max_size_mb,
        )


def _identify(data: bytes, declared_type: str | None) -> str:
    declared = (declared_type or "").partition(";")[0].strip().lower()
    if declared and declared != "application/octet-stream" and not declared.startswith("image/"):
        raise _unsupported(declared)
    if not data:
        raise InvalidImage("Invalid image data: the file is empty")
    if data.startswith(b"\xff\xd8\xff"):
        return "JPEG"
    if data.startswith(b"\x89PNG\r\n\x1a\n"):
        return "PNG"
    if data.startswith(b"RIFF") and data[8:12] == b"WEBP":
        return "WEBP"
    if data.startswith(b"BM"):
        return "BMP"
    if other := _other_type(data[:512]):
        raise _unsupported(other)
    raise InvalidImage("Invalid image data: unidentified image file")


def _unsupported(received: str) -> UnsupportedFormat:
    return UnsupportedFormat(
        "Unsupported file format. Please upload JPEG, PNG, or WebP.",
        supported_formats=list(SUPPORTED_FORMATS),
        received_format=received[:100],
    )


def _other_type(head: bytes) -> str | None:
    """Media type of a well-known file that is not accepted here, so that its sender can be told."""
    for magic, media_type in _OTHER_MAGIC.items():
        if head.startswith(magic):
            return media_type
    if head[4:8] == b"ftyp":
        return {b"avif": "image/avif", b"heic": "image/heic", b"mif1": "image/heif"}.get(head[8:12], "video/mp4")
    text = head.lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if text.startswith((b"<svg", b"<?xml")):
        return "image/svg+xml" if b"<svg" in text else "application/xml"
    if text.startswith((b"<!doctype html", b"<html")):
        return "text/html"
    return None


_OTHER_MAGIC = {
    b"GIF87a": "image/gif",
    b"GIF89a": "image/gif",
    b"II*\0": "image/tiff",
    b"MM\0*": "image/tiff",
    b"%PDF": "application/pdf",
    b"PK\3\4": "application/zip",
    b"8BPS": "image/vnd.adobe.photoshop",
    b"\0\0\1\0": "image/x-icon",
    b"\xff\x0a": "image/jxl",
    b"\0\0\0\x0cJXL ": "image/jxl",
    b"\0\0\0\x0cjP  ": "image/jp2",
}


def _jpeg_size(data: bytes) -> tuple[int, int]:
    size = None
    position = 2
    for _ in range(MAX_JPEG_SEGMENTS):
        if data[position] != _JPEG_FILL:
            raise InvalidImage("Invalid image data: broken JPEG header")
        marker = data[position + 1]
        if marker == _JPEG_FILL:  # any number of fill bytes may stand before a marker
            position += 1
            continue
        if marker == _JPEG_SCAN:
            if size is None:
                raise InvalidImage("Invalid image data: the JPEG has no frame")
            return size
        if marker in _JPEG_FRAMES:
            if size is not None:
                raise InvalidImage("Invalid image data: the JPEG has more than one frame")
            height, width = struct.unpack_from(">HH", data, position + 5)
            size = width, height
        position += 2 + struct.unpack_from(">H", data, position + 2)[0]
    raise InvalidImage("Invalid image data: too many JPEG segments")


def _png_size(data: bytes) -> tuple[int, int]:
    kind, width, height = struct.unpack_from(">4sII", data, 12)
    if kind != b"IHDR":
        raise InvalidImage("Invalid image data: broken PNG header")
    return width, height


def _webp_size(data: bytes) -> tuple[int, int]:
    kind = data[12:16]
    if kind == b"VP8X":
        flags_width, height_low = struct.unpack_from("<xxxxIH", data, 20)
        return (flags_width & 0xFFFFFF) + 1, ((flags_width >> 24) | height_low << 8) + 1
    if kind == b"VP8L" and data[20] == 0x2F:
        bits = struct.unpack_from("<I", data, 21)[0]
        return (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
    if kind == b"VP8 " and data[23:26] == b"\x9d\x01\x2a":
        width, height = struct.unpack_from("<HH", data, 26)
        return width & 0x3FFF, height & 0x3FFF
    raise InvalidImage("Invalid image data: broken WebP header")


def _bmp_size(data: bytes) -> tuple[int, int]:
    header_size = struct.unpack_from("<I", data, 14)[0]
    if header_size not in _BMP_HEADER_SIZES:
        raise InvalidImage("Invalid image data: broken BMP header")
    if header_size == 12:
        width, height = struct.unpack_from("<HH", data, 18)
        return width, height
    width, height = struct.unpack_from("<ii", data, 18)
    return width, abs(height)  # a negative height means that the rows run downwards


_SIZE_READERS: dict[str, Callable[[bytes], tuple[int, int]]] = {
    "JPEG": _jpeg_size,
    "PNG": _png_size,
    "WEBP": _webp_size,
    "BMP": _bmp_size,
}


def _check_unpacked_size(width: int, height: int, file_size: int, limits: ImageLimits) -> None:
    unpacked = width * height * 4
    ratio = unpacked / file_size
    if width * height > limits.max_megapixels * 1e6:
        reason = f"{width * height / 1e6:.1f} megapixels exceed the limit of {limits.max_megapixels:g}"
    elif ratio > limits.bomb_ratio and unpacked > BOMB_BYTES:
        reason = f"decompression ratio exceeds {BOMB_RATIO}x"
    else:
        return
    raise ImageBomb(
        f"Image bomb detected: {reason}",
        file_size_bytes=file_size,
        decompressed_size_bytes=unpacked,
        ratio=round(ratio, 1),
    )


def _check_sides(width: int, height: int, limits: ImageLimits) -> None:
    if max(width, height) > limits.max_long_side_px or min(width, height) > limits.max_short_side_px:
        raise ResolutionTooLarge(
            f"Resolution {width}x{height} exceeds the 8K limit "
            f"({limits.max_long_side_px}x{limits.max_short_side_px}, either way up)",
            width=width,
            height=height,
        )
    if min(width, height) < limits.min_side_px:
        raise ImageTooSmall(
            f"Image {width}x{height} is too small: at least {limits.min_side_px}x{limits.min_side_px} is needed",
            width=width,
            height=height,
        )
