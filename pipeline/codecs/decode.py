"""Untrusted bytes to an upright RGB image: the one door through which pictures come in."""

from __future__ import annotations

from pipeline.codecs.decoder_pool import RETRY_AFTER_S, DecoderPool
from pipeline.codecs.header import ImageLimits, read_header
from pipeline.codecs.unpack import DecodedImage, unpack_image
from pipeline.errors import Overloaded

_decoders = DecoderPool()


def use_decoders(pool: DecoderPool) -> None:
    """From now on ``decode_image`` of this process works with ``pool``; the one before is closed."""
    global _decoders
    before, _decoders = _decoders, pool
    before.close()


def warm_up() -> None:
    """Starts the decoder processes now, so that the first picture does not wait for one. Blocks until they are ready.

    Raises:
        Overloaded: They do not start; the log says why.
    """
    _decoders.warm_up()


def decode_image(data: bytes, limits: ImageLimits | None = None, *, declared_type: str | None = None) -> DecodedImage:
    """The first frame of an image file: turned upright, 8 bits per colour, without metadata.

    The header is judged here; it costs microseconds and no decoder has a part in it. The pixels are unpacked in a
    decoder process, which a hostile file may crash, unless ``limits`` say that the file is our own. Blocks; call it
    from a thread.

    Args:
        data: The whole file.
        limits: What is accepted; the defaults of ``ImageLimits`` if None.
        declared_type: Media type the sender gave, see ``read_header``.

    Raises:
        FileTooLarge, UnsupportedFormat, InvalidImage, ImageBomb, ResolutionTooLarge, ImageTooSmall: From the
            header, as ``read_header`` says; ``InvalidImage`` also where the pixels are broken or cut short, and where
            decoding them crashes, takes too long or too much memory.
        Overloaded: There is no memory for the pixels, or no decoder came free in time.
    """
    header = read_header(data, limits, declared_type=declared_type)
    try:
        if limits is not None and limits.own_file:
            return unpack_image(data, header)
        return _decoders.decode(data, header)
    except MemoryError as error:
        raise Overloaded("There is no memory to decode the image now. Try again.", retry_after=RETRY_AFTER_S) from error
