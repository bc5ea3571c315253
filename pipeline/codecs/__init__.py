"""Bytes to image and image to bytes; the only place where untrusted bytes meet a decoder."""

from pipeline.codecs.decode import DecodedImage, decode_image
from pipeline.codecs.header import OWN_FILES, ImageHeader, ImageLimits, read_header
from pipeline.codecs.jpeg import encode_jpeg
from pipeline.codecs.png import encode_png

__all__ = [
    "OWN_FILES",
    "DecodedImage",
    "ImageHeader",
    "ImageLimits",
    "decode_image",
    "encode_jpeg",
    "encode_png",
    "read_header",
]
