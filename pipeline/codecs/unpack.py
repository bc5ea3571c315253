"""A judged file to an upright RGB image, with the decoders of OpenCV and Pillow.

What runs here may crash, hang or ask for all memory: for strangers' files it runs in a decoder process.
"""

from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import dataclass
from typing import cast

import cv2
import numpy as np
from PIL import BmpImagePlugin, ImageCms, ImageFile, JpegImagePlugin, PngImagePlugin, WebPImagePlugin
from PIL import Image as PillowImage

from pipeline.codecs import jpeg_file, png_file
from pipeline.codecs.header import ImageHeader
from pipeline.codecs.png_file import MAX_PROFILE_BYTES
from pipeline.codecs.upright import read_orientation, turn_upright
from pipeline.errors import ImageRejected, InvalidImage
from pipeline.types import Alpha8, Image

# What a model sees where the picture shows nothing: mid-grey belongs to neither a bright nor a dark subject.
TRANSPARENT_COLOUR = 128


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


def unpack_image(data: bytes, header: ImageHeader) -> DecodedImage:
    """The picture of a file whose header has been judged, upright and without metadata.

    Of an animation it is the first frame.

    Raises:
        InvalidImage: The file is broken, cut short or contradicts its header.
        MemoryError: There is no memory for the pixels.
    """
    try:
        return _unpack(data, header)
    except (ImageRejected, MemoryError):
        raise
    except Exception as error:  # decoders raise whatever their authors thought of
        raise InvalidImage(f"Invalid image data: the {header.format} file is damaged or truncated") from error


def _unpack(data: bytes, header: ImageHeader) -> DecodedImage:
    icc_profile = None
    bit_depth = 8
    if header.format == "PNG":
        data, icc_profile = png_file.split_png(data)
        bit_depth = png_file.bit_depth(data)
    elif header.format == "JPEG":
        data = jpeg_file.without_end(data)
    # Not PIL.Image.open: it has a size limit of its own (a global) and reads the further pictures of a JPEG.
    source = _FILES[header.format](io.BytesIO(data))
    if source.size != (header.width, header.height):
        raise InvalidImage("Invalid image data: the file contradicts itself about its size")
    icc_profile = icc_profile or source.info.get("icc_profile")
    colour_space = _colour_space(icc_profile)
    if _is_plain(source, header.format, bit_depth, colour_space):
        pixels, alpha = _unpack_plain(data, header, has_alpha=source.mode == "RGBA")
    else:
        if header.format == "PNG":
            png_file.check_rows(data)
        source.load()
        pixels, alpha = _unpack_any(_to_eight_bits(source, bit_depth), icc_profile, colour_space)
    orientation = read_orientation(source)
    pixels = turn_upright(pixels, orientation)
    if alpha is not None and alpha.min() == 255:
        alpha = None
    if alpha is not None:
        alpha = turn_upright(alpha, orientation)
        pixels[alpha == 0] = TRANSPARENT_COLOUR
    return DecodedImage(pixels, alpha, icc_profile if colour_space == "RGB" else None, header.format)


_FILES: dict[str, Callable[[io.BytesIO], ImageFile.ImageFile]] = {
    "JPEG": JpegImagePlugin.JpegImageFile,
    "PNG": PngImagePlugin.PngImageFile,
    "WEBP": WebPImagePlugin.WebPImageFile,
    "BMP": BmpImagePlugin.BmpImageFile,
}


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
