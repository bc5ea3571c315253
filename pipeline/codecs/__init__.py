"""Bytes to image and image to bytes; the only place where untrusted bytes meet a decoder."""

from pipeline.codecs.decode import decode_image, use_decoders, warm_up
from pipeline.codecs.decoder_limits import DecoderLimits
from pipeline.codecs.decoder_pool import DecoderPool
from pipeline.codecs.header import OWN_FILES, ImageHeader, ImageLimits, read_header
from pipeline.codecs.jpeg import encode_jpeg
from pipeline.codecs.png import encode_png
from pipeline.codecs.unpack import DecodedImage

__all__ = [
    "OWN_FILES",
    "DecodedImage",
    "DecoderLimits",
    "DecoderPool",
    "ImageHeader",
    "ImageLimits",
    "decode_image",
    "encode_jpeg",
    "encode_png",
    "read_header",
    "use_decoders",
    "warm_up",
]
