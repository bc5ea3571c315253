"""Untrusted bytes to an upright RGB image: the one door through which pictures come in."""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import cast

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import BmpImagePlugin, ImageCms, ImageFile, JpegImagePlugin, PngImagePlugin, WebPImagePlugin
from PIL import Image as PillowImage

from pipeline.codecs.header import ImageHeader, ImageLimits, read_header
from pipeline.errors import ImageRejected, InvalidImage, Overloaded
from pipeline.types import Alpha8, Image

# What a model sees where the picture shows nothing: mid-grey belongs to neither a bright nor a dark subject.
TRANSPARENT_COLOUR = 128

# libpng's own writers put 8 KiB into a chunk: 50 MiB are 6,400 of them. Each costs time before any pixel comes.
MAX_PNG_CHUNKS = 100_000

# Profiles of presses, the largest there are, have some 2 MB.
MAX_PROFILE_BYTES = 4 * 2**20

_ORIENTATION_TAG = 0x0112
# What the first frame needs. Texts, of which a few bytes may unpack to gigabytes, and animations stay away from it.
_PNG_CHUNKS = frozenset({b"IHDR", b"PLTE", b"tRNS", b"eXIf", b"IDAT", b"IEND"})
_PNG_BIT_DEPTH = 24  # where IHDR, always the first chunk, tells it


@dataclass(frozen=True)
class DecodedImage:
    """A picture as its viewer sees it.

    Attributes:
        pixels: RGB, uint8, (H, W, 3), upright, contiguous; mid-grey where ``alpha`` is 0.
        alpha: The picture's own transparency, uint8, (H, W), or None if it is opaque.
        icc_profile: RGB colour profile the pixels are in, for the output to carry; None means sRGB.
        format: What the file was: ``JPEG``, ``PNG``, ``WEBP`` or ``BMP``.
    """

    pixels: Image
    alpha: Alpha8 | None
    icc_profile: bytes | None
    format: str


def decode_image(data: bytes, limits: ImageLimits | None = None, *, declared_type: str | None = None) -> DecodedImage:
    """The first frame of an image file: turned upright, 8 bits per colour, without metadata.

    Args:
        data: The whole file.
        limits: What is accepted; the defaults of ``ImageLimits`` if None.
        declared_type: Media type the sender gave, see ``read_header``.

    Raises:
        FileTooLarge, UnsupportedFormat, InvalidImage, ImageBomb, ResolutionTooLarge, ImageTooSmall: From the
            header, as ``read_header`` says; ``InvalidImage`` also where the pixels are broken or cut short.
        Overloaded: There is no memory for the pixels.
    """
    header = read_header(data, limits, declared_type=declared_type)
    try:
        return _decode(data, header)
    except ImageRejected:
        raise
    except MemoryError as error:
        raise Overloaded("There is no memory to decode the image now; try again.") from error
    except Exception as error:  # decoders raise whatever their authors thought of
        raise InvalidImage(f"Invalid image data: the {header.format} file is damaged or truncated") from error


def _decode(data: bytes, header: ImageHeader) -> DecodedImage:
    icc_profile = None
    if header.format == "PNG":
        data, icc_profile = _split_png(data)
    # Not PIL.Image.open: it has a size limit of its own (a global) and reads the further pictures of a JPEG.
    source = _FILES[header.format](io.BytesIO(data))
    if source.size != (header.width, header.height):
        raise InvalidImage("Invalid image data: the file contradicts itself about its size")
    icc_profile = icc_profile or source.info.get("icc_profile")
    colour_space = _colour_space(icc_profile)
    bit_depth = data[_PNG_BIT_DEPTH] if header.format == "PNG" else 8
    if _is_plain(source, header.format, bit_depth, colour_space):
        pixels, alpha = _unpack_plain(data, header, has_alpha=source.mode == "RGBA")
    else:
        source.load()
        pixels, alpha = _unpack_any(_to_eight_bits(source, bit_depth), icc_profile, colour_space)
    orientation = _read_orientation(source)
    pixels = _turn_upright(pixels, orientation)
    if alpha is not None and alpha.min() == 255:
        alpha = None
    if alpha is not None:
        alpha = _turn_upright(alpha, orientation)
        pixels[alpha == 0] = TRANSPARENT_COLOUR
    return DecodedImage(pixels, alpha, icc_profile if colour_space == "RGB" else None, header.format)


_FILES: dict[str, Callable[[io.BytesIO], ImageFile.ImageFile]] = {
    "JPEG": JpegImagePlugin.JpegImageFile,
    "PNG": PngImagePlugin.PngImageFile,
    "WEBP": WebPImagePlugin.WebPImageFile,
    "BMP": BmpImagePlugin.BmpImageFile,
}


def _split_png(data: bytes) -> tuple[bytes, bytes | None]:
    """The PNG with nothing but its picture, and its colour profile."""
    kept = [data[:8]]
    icc_profile = None
    position = 8
    for _ in range(MAX_PNG_CHUNKS):
        length, kind = struct.unpack_from(">I4s", data, position)
        end = position + 12 + length
        if end > len(data):
            raise InvalidImage("Invalid image data: the PNG file is truncated")
        if kind in _PNG_CHUNKS:
            kept.append(data[position:end])
        elif kind == b"iCCP":
            icc_profile = _inflate_profile(data[position + 8 : end - 4])
        if kind == b"IEND":
            return b"".join(kept), icc_profile
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


def _colour_space(icc_profile: bytes | None) -> str | None:
    """``RGB``, ``GRAY``, ``CMYK`` or the like; None if there is no profile or it cannot be read."""
    # The colour engine reads a header and a table of contents only; a profile cut behind them would pass.
    if not icc_profile or not int.from_bytes(icc_profile[:4]) <= len(icc_profile) <= MAX_PROFILE_BYTES:
        return None
    try:
        profile = ImageCms.ImageCmsProfile(io.BytesIO(icc_profile))
    except Exception:  # a broken profile is no reason to refuse the picture
        return None
    return profile.profile.xcolor_space.strip()


def _is_plain(source: ImageFile.ImageFile, image_format: str, bit_depth: int, colour_space: str | None) -> bool:
    """Whether OpenCV decodes this picture alike. It is faster and stricter, but knows no profiles or animations."""
    if image_format == "BMP" or bit_depth != 8 or getattr(source, "is_animated", False):
        return False
    if source.mode == "L":
        return colour_space != "GRAY" and "transparency" not in source.info
    return source.mode == "RGBA" or (source.mode == "RGB" and "transparency" not in source.info)


def _unpack_plain(data: bytes, header: ImageHeader, *, has_alpha: bool) -> tuple[Image, Alpha8 | None]:
    flags = cv2.IMREAD_UNCHANGED if has_alpha else cv2.IMREAD_COLOR_RGB | cv2.IMREAD_IGNORE_ORIENTATION
    pixels = cv2.imdecode(np.frombuffer(data, np.uint8), flags)
    if pixels is None or pixels.shape != (header.height, header.width, 4 if has_alpha else 3):
        raise InvalidImage(f"Invalid image data: the {header.format} file is damaged or truncated")
    if not has_alpha:
        return cast(Image, pixels), None
    return cast(Image, cv2.cvtColor(pixels, cv2.COLOR_BGRA2RGB)), cast(Alpha8, cv2.extractChannel(pixels, 3))


def _unpack_any(
    source: PillowImage.Image, icc_profile: bytes | None, colour_space: str | None
) -> tuple[Image, Alpha8 | None]:
    """Colours in sRGB, or in the picture's own RGB profile, and alpha unless the picture is opaque."""
    alpha = None
    if source.has_transparency_data:
        rgba = source.convert("RGBA")
        alpha = np.array(rgba.getchannel("A"))
        source = source.convert("L") if source.mode == "LA" else rgba
    if icc_profile is not None and (colour_space, source.mode) in (("GRAY", "L"), ("CMYK", "CMYK")):
        source = _convert_to_srgb(source, icc_profile)
    return np.array(source.convert("RGB")), alpha


def _to_eight_bits(source: PillowImage.Image, bit_depth: int) -> PillowImage.Image:
    """The loaded picture with 8 bits per sample, and the transparent colour of a PNG in the same scale."""
    key = source.info.get("transparency")
    if source.mode == "I;16":
        samples = np.asarray(source)
        grey = PillowImage.fromarray((samples >> 8).astype(np.uint8))
        if key is not None:
            grey.putalpha(PillowImage.fromarray(np.where(samples == key, 0, 255).astype(np.uint8)))
        return grey
    if key is not None and bit_depth == 16:
        # Pillow has kept the upper bytes only: colours near the transparent one would vanish with it.
        del source.info["transparency"]
    elif key is not None and source.mode == "L" and bit_depth < 8:
        source.info["transparency"] = key * 255 // (2**bit_depth - 1)  # Pillow has scaled the samples, not the key
    return source


def _convert_to_srgb(source: PillowImage.Image, icc_profile: bytes) -> PillowImage.Image:
    profile = ImageCms.ImageCmsProfile(io.BytesIO(icc_profile))
    try:
        converted = ImageCms.profileToProfile(source, profile, ImageCms.createProfile("sRGB"), outputMode="RGB")
    except ImageCms.PyCMSError:  # its tables are broken; without a profile the picture is still good
        return source
    return source if converted is None else converted


def _read_orientation(source: ImageFile.ImageFile) -> int:
    """1 to 8 as in EXIF; 1, upright as stored, if there is none or it cannot be read."""
    try:
        orientation = source.getexif().get(_ORIENTATION_TAG)
    except Exception:  # broken metadata is no reason to refuse the picture
        return 1
    return orientation if isinstance(orientation, int) else 1


def _turn_upright(pixels: NDArray[np.uint8], orientation: int) -> NDArray[np.uint8]:
    turn = _TURNS.get(orientation)
    return pixels if turn is None else turn(pixels)


def _rotate(code: int) -> Callable[[NDArray[np.uint8]], NDArray[np.uint8]]:
    return lambda pixels: cast(NDArray[np.uint8], cv2.rotate(pixels, code))


def _flip(axis: int) -> Callable[[NDArray[np.uint8]], NDArray[np.uint8]]:
    return lambda pixels: cast(NDArray[np.uint8], cv2.flip(pixels, axis))


def _transpose(pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    return cast(NDArray[np.uint8], cv2.transpose(pixels))


def _transverse(pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    return _transpose(cast(NDArray[np.uint8], cv2.rotate(pixels, cv2.ROTATE_180)))


# What undoes each EXIF orientation but 1.
_TURNS = {
    2: _flip(1),
    3: _rotate(cv2.ROTATE_180),
    4: _flip(0),
    5: _transpose,
    6: _rotate(cv2.ROTATE_90_CLOCKWISE),
    7: _transverse,
    8: _rotate(cv2.ROTATE_90_COUNTERCLOCKWISE),
}
