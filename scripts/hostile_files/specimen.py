"""A file that may come in, and what must become of it."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import lru_cache
from io import BytesIO

import numpy as np
from numpy.typing import NDArray
from PIL import Image as PillowImage
from PIL import ImageCms

OK = "ok"
INVALID = "INVALID_IMAGE"
FORMAT = "INVALID_FORMAT"
BOMB = "IMAGE_BOMB"
RESOLUTION = "RESOLUTION_TOO_LARGE"
SMALL = "IMAGE_TOO_SMALL"
LARGE = "FILE_TOO_LARGE"


@dataclass(frozen=True)
class Specimen:
    """A file.

    Attributes:
        name: Its name, with the extension of what it claims to be.
        data: All of it.
        outcomes: What may become of it under the limits of background removal: ``ok`` or an error's code. More than
            one where libraries may tell or overlook the damage.
    """

    name: str
    data: bytes = field(repr=False)
    outcomes: tuple[str, ...]


def colours(seed: int, height: int = 70, width: int = 96, channels: int = 3) -> NDArray[np.uint8]:
    """A smooth picture with some noise, uint8, (H, W, channels); its corners differ."""
    random = np.random.default_rng(seed)
    y, x = np.mgrid[0:height, 0:width]
    planes = [x * 255 // width, y * 255 // height, (x + 2 * y) * 255 // (width + 2 * height), (x + y) % 256]
    noise = random.integers(0, 12, (height, width, channels))
    clipped: NDArray[np.uint8] = np.clip(np.dstack(planes)[..., :channels] + noise, 0, 255).astype(np.uint8)
    return clipped


def picture(seed: int, mode: str = "RGB", size: tuple[int, int] = (96, 70)) -> PillowImage.Image:
    """The same as a Pillow image of any mode; ``size`` is width and height."""
    rgba = PillowImage.fromarray(colours(seed, size[1], size[0], 4))
    return rgba if mode == "RGBA" else rgba.convert("RGB").convert(mode)


def saved(image: PillowImage.Image, image_format: str, **options: object) -> bytes:
    stream = BytesIO()
    image.save(stream, image_format, **options)
    return stream.getvalue()


@lru_cache
def srgb_profile() -> bytes:
    # Without the date it was made on, in bytes 24 to 35: the same corpus every day.
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    return profile[:24] + bytes(12) + profile[36:]


def exif(orientation: int = 1) -> bytes:
    tags = PillowImage.Exif()
    tags[0x0112] = orientation
    return tags.tobytes()


BROKEN_EXIF = {
    "empty": b"Exif\0\0",
    "no-tiff": b"Exif\0\0hello",
    "far-directory": b"Exif\0\0II*\0\xff\xff\xff\x7f",
    "endless-directory": b"Exif\0\0II*\0\x08\0\0\0\xff\xff" + b"\x12\x01\x03\0\1\0\0\0\6\0\0\0" * 3,
    "huge-value": b"Exif\0\0II*\0\x08\0\0\0\1\0\x12\x01\x07\0\xff\xff\xff\xff\x1a\0\0\0" + bytes(8),
    "own-successor": b"Exif\0\0MM\0*\0\0\0\x08\0\1\x01\x12\0\x03\0\0\0\1\0\6\0\0\0\0\0\x08",
    "text-as-orientation": b"Exif\0\0II*\0\x08\0\0\0\1\0\x12\x01\x02\0\x04\0\0\0up!\0\0\0\0\0",
}
BROKEN_PROFILES = {
    "empty": b"\0",
    "noise": bytes(range(256)) * 3,
    "cut": srgb_profile()[:200],
    "long-table": srgb_profile()[:128] + b"\xff\xff\xff\xff" + srgb_profile()[132:],
    "lies-about-size": b"\xff\xff\xff\xff" + srgb_profile()[4:],
    "of-a-printer": srgb_profile()[:16] + b"CMYK" + srgb_profile()[20:],
}
