"""Pictures of every supported kind come in as the same upright RGB array."""

import io
import struct
import zlib

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image as PillowImage
from PIL import ImageCms

from pipeline.codecs import OWN_FILES, decode_image
from pipeline.errors import ImageRejected, InvalidImage

FORMATS = ["JPEG", "PNG", "WEBP", "BMP"]


def photo(height: int = 70, width: int = 96) -> np.ndarray:
    """Smooth colours that differ in every corner, so that a turned or mirrored picture shows."""
    y, x = np.mgrid[0:height, 0:width]
    return np.dstack([x * 255 // width, y * 255 // height, (x + 2 * y) * 255 // (width + 2 * height)]).astype(np.uint8)


def saved(pixels: np.ndarray | PillowImage.Image, image_format: str = "PNG", **options: object) -> bytes:
    image = pixels if isinstance(pixels, PillowImage.Image) else PillowImage.fromarray(pixels)
    if image_format == "WEBP":
        options = {"lossless": True, "exact": True, **options}
    if image_format == "JPEG":
        options = {"quality": 95, "subsampling": 0, **options}
    stream = io.BytesIO()
    image.save(stream, image_format, **options)
    return stream.getvalue()


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def with_chunk(png: bytes, kind: bytes, data: bytes) -> bytes:
    """The PNG with one more chunk between its header and its pixels."""
    return png[:33] + chunk(kind, data) + png[33:]


def difference(pixels: np.ndarray, expected: np.ndarray) -> int:
    assert pixels.shape == expected.shape
    return int(np.abs(pixels.astype(int) - expected).max())


def srgb_profile() -> bytes:
    return ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()


@pytest.mark.parametrize("image_format", FORMATS)
def test_a_photo_of_every_format_comes_in_as_rgb(image_format: str) -> None:
    decoded = decode_image(saved(photo(), image_format))
    assert decoded.format == image_format
    assert decoded.alpha is None
    assert decoded.icc_profile is None
    assert decoded.pixels.dtype == np.uint8
    assert decoded.pixels.flags.c_contiguous
    assert decoded.pixels.flags.writeable
    assert difference(decoded.pixels, photo()) <= (12 if image_format == "JPEG" else 0)


@pytest.mark.parametrize("image_format", ["JPEG", "PNG", "WEBP"])
@pytest.mark.parametrize(
    ("orientation", "stored"),
    [
        (1, lambda upright: upright),
        (2, lambda upright: upright[:, ::-1]),
        (3, lambda upright: upright[::-1, ::-1]),
        (4, lambda upright: upright[::-1]),
        (5, lambda upright: upright.transpose(1, 0, 2)),
        (6, lambda upright: np.rot90(upright)),
        (7, lambda upright: upright.transpose(1, 0, 2)[::-1, ::-1]),
        (8, lambda upright: np.rot90(upright, -1)),
    ],
)
def test_every_orientation_is_turned_upright(image_format, orientation, stored) -> None:
    exif = PillowImage.Exif()
    exif[0x0112] = orientation
    data = saved(np.ascontiguousarray(stored(photo())), image_format, exif=exif)
    assert difference(decode_image(data).pixels, photo()) <= 12


@pytest.mark.parametrize("orientation", [5, 6])
def test_transparency_is_turned_with_the_picture(orientation: int) -> None:
    exif = PillowImage.Exif()
    exif[0x0112] = orientation
    rgba = np.dstack([photo(), np.full((70, 96), 255, np.uint8)])
    rgba[0, 0, 3] = 9
    alpha = decode_image(saved(rgba, exif=exif)).alpha
    assert alpha is not None
    assert alpha.shape == (96, 70)
    assert alpha[0, 0 if orientation == 5 else -1] == 9


@pytest.mark.parametrize("exif", [b"Exif\0\0junk", b"Exif\0\0II*\0\xff\xff\xff\xff", b"Exif\0\0" + bytes(60_000)])
@pytest.mark.parametrize("image_format", ["JPEG", "PNG", "WEBP"])
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_broken_exif_is_ignored(image_format: str, exif: bytes) -> None:
    assert decode_image(saved(photo(), image_format, exif=exif)).pixels.shape == (70, 96, 3)


@pytest.mark.parametrize("image_format", FORMATS)
@pytest.mark.parametrize("mode", ["L", "1"])
def test_grey_pictures_have_three_equal_channels(image_format: str, mode: str) -> None:
    grey = PillowImage.fromarray(photo()).convert(mode)
    pixels = decode_image(saved(grey, image_format)).pixels
    expected = np.asarray(grey.convert("RGB"))
    assert difference(pixels, expected) <= (60 if image_format == "JPEG" and mode == "1" else 6)
    assert (pixels[..., :1] == pixels).all()


def test_a_palette_becomes_its_colours() -> None:
    palette = PillowImage.fromarray(photo()).quantize(16)
    decoded = decode_image(saved(palette))
    assert decoded.alpha is None
    assert difference(decoded.pixels, np.asarray(palette.convert("RGB"))) == 0


@pytest.mark.parametrize("transparency", [3, bytes([255, 0, 128])])
def test_transparent_palette_entries_become_alpha(transparency: int | bytes) -> None:
    palette = PillowImage.fromarray(photo()).quantize(16)
    index = np.asarray(palette)
    table = np.full(256, 255, np.uint8)
    if isinstance(transparency, int):
        table[transparency] = 0
    else:
        table[:3] = list(transparency)
    decoded = decode_image(saved(palette, transparency=transparency))
    assert decoded.alpha is not None
    assert np.array_equal(decoded.alpha, table[index])


@pytest.mark.parametrize("mode", ["RGBA", "LA"])
@pytest.mark.parametrize("image_format", ["PNG", "WEBP"])
def test_alpha_is_kept_and_hidden_colours_turn_grey(image_format: str, mode: str) -> None:
    alpha = np.full((70, 96), 255, np.uint8)
    alpha[5:20, 9:30] = 0
    alpha[40:, 50:] = 77
    picture = PillowImage.fromarray(photo()).convert(mode)
    picture.putalpha(PillowImage.fromarray(alpha))
    decoded = decode_image(saved(picture, image_format))
    assert decoded.alpha is not None
    assert np.array_equal(decoded.alpha, alpha)
    assert (decoded.pixels[alpha == 0] == 128).all()
    visible = np.asarray(picture.convert("RGB"))[alpha > 0]
    assert difference(decoded.pixels[alpha > 0], visible) == 0


def test_alpha_that_hides_nothing_is_left_out() -> None:
    rgba = np.dstack([photo(), np.full((70, 96), 255, np.uint8)])
    assert decode_image(saved(rgba)).alpha is None


@pytest.mark.parametrize("bits", [2, 4, 8, 16])
def test_a_transparent_grey_becomes_alpha_at_every_depth(bits: int) -> None:
    height, width = 64, 64
    level = 2  # of 2**bits
    rows = np.zeros((height, width * bits // 8), np.uint8)
    rows[:10, :] = {2: 0b10101010, 4: 0x22, 8: 2, 16: 0}[bits]
    if bits == 16:
        rows[:10, 1::2] = 2
    packed = zlib.compress(b"".join(b"\0" + row.tobytes() for row in rows))
    data = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, bits, 0, 0, 0, 0))
    data += chunk(b"tRNS", struct.pack(">H", level)) + chunk(b"IDAT", packed) + chunk(b"IEND", b"")
    alpha = decode_image(data).alpha
    assert alpha is not None
    assert (alpha[:10] == 0).all()
    assert (alpha[10:] == 255).all()


@pytest.mark.parametrize("shape", [(70, 96), (70, 96, 3), (70, 96, 4)])
def test_16_bits_are_scaled_to_8(shape: tuple[int, ...]) -> None:
    deep = np.linspace(0, 65535, int(np.prod(shape))).astype(np.uint16).reshape(shape)
    decoded = decode_image(cv2.imencode(".png", deep)[1].tobytes())
    expected = (deep >> 8).astype(np.uint8)
    if len(shape) == 2:
        assert (decoded.pixels == expected[..., None]).all()
    elif shape[2] == 3:
        assert difference(decoded.pixels, expected[..., ::-1]) == 0
    else:
        assert decoded.alpha is not None
        assert np.array_equal(decoded.alpha, expected[..., 3])
        shown = decoded.alpha > 0
        assert difference(decoded.pixels[shown], expected[shown][:, 2::-1]) == 0


def test_a_transparent_colour_of_16_bits_does_not_hide_its_neighbours() -> None:
    deep = np.full((64, 70, 3), 1000, np.uint16)
    data = with_chunk(cv2.imencode(".png", deep)[1].tobytes(), b"tRNS", struct.pack(">HHH", 1001, 1001, 1001))
    assert decode_image(data).alpha is None


def test_a_cmyk_jpeg_becomes_rgb() -> None:
    cmyk = PillowImage.fromarray(photo()).convert("CMYK")
    assert difference(decode_image(saved(cmyk, "JPEG")).pixels, np.asarray(cmyk.convert("RGB"))) <= 12


def test_an_interlaced_png_is_the_same_picture() -> None:
    # Adam7 of a picture that is plain within each 8 x 8 block: every pass holds the same few colours.
    blocks = np.random.default_rng(0).integers(0, 256, (9, 12), np.uint8)
    picture = np.kron(blocks, np.ones((8, 8), np.uint8))
    passes = [picture[y::dy, x::dx] for x, y, dx, dy in _ADAM7]
    packed = zlib.compress(b"".join(b"\0" + row.tobytes() for part in passes for row in part))
    data = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", struct.pack(">IIBBBBB", 96, 72, 8, 0, 0, 0, 1))
    data += chunk(b"IDAT", packed) + chunk(b"IEND", b"")
    assert np.array_equal(decode_image(data).pixels[..., 0], picture)


_ADAM7 = [(0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2)]


def test_a_progressive_jpeg_is_the_same_picture() -> None:
    assert difference(decode_image(saved(photo(), "JPEG", progressive=True)).pixels, photo()) <= 12


@pytest.mark.parametrize("image_format", ["PNG", "WEBP"])
def test_of_an_animation_the_first_frame_comes(image_format: str) -> None:
    frames = [PillowImage.fromarray(photo()), PillowImage.fromarray(255 - photo())]
    data = saved(frames[0], image_format, save_all=True, append_images=frames[1:], duration=50)
    assert difference(decode_image(data).pixels, photo()) == 0


def test_of_a_jpeg_with_several_pictures_the_first_comes() -> None:
    stream = io.BytesIO()
    second = PillowImage.fromarray(255 - photo())
    PillowImage.fromarray(photo()).save(stream, "MPO", save_all=True, append_images=[second], quality=95)
    decoded = decode_image(stream.getvalue())
    assert decoded.format == "JPEG"
    assert difference(decoded.pixels, photo()) <= 30


@pytest.mark.parametrize("image_format", ["JPEG", "PNG", "WEBP"])
def test_an_rgb_profile_is_handed_on(image_format: str) -> None:
    data = saved(photo(), image_format, icc_profile=srgb_profile())
    assert decode_image(data).icc_profile == srgb_profile()


@pytest.mark.parametrize("image_format", ["JPEG", "PNG", "WEBP"])
@pytest.mark.parametrize("profile", [b"broken", srgb_profile()[:300], bytes(5000)])
def test_a_broken_profile_is_ignored(image_format: str, profile: bytes) -> None:
    decoded = decode_image(saved(photo(), image_format, icc_profile=profile))
    assert decoded.icc_profile is None
    assert difference(decoded.pixels, photo()) <= 12


def grey_profile(gamma: float) -> bytes:
    """A minimal ICC profile of a grey ramp with the given exponent."""
    curve = b"curv" + bytes(4) + struct.pack(">IH", 1, round(gamma * 256)) + bytes(2)
    white = b"XYZ " + bytes(4) + struct.pack(">iii", 63190, 65536, 54061)
    table = struct.pack(">I4sII4sII", 2, b"kTRC", 156, 14, b"wtpt", 172, 20)
    body = table + curve + white
    header = struct.pack(
        ">I4sI4s4s4s12s4s",
        128 + len(body),
        bytes(4),
        0x02200000,
        b"mntr",
        b"GRAY",
        b"XYZ ",
        struct.pack(">6H", 2020, 1, 1, 0, 0, 0),
        b"acsp",
    )
    header += bytes(28) + struct.pack(">iii", 63190, 65536, 54061)
    return header.ljust(128, b"\0") + body


@pytest.mark.parametrize("image_format", ["JPEG", "PNG"])
def test_a_grey_profile_is_applied_and_dropped(image_format: str) -> None:
    grey = np.full((70, 96), 100, np.uint8)
    decoded = decode_image(saved(grey, image_format, icc_profile=grey_profile(1.0)))
    assert decoded.icc_profile is None
    # Linear light 100/255 is 168 in sRGB.
    assert abs(int(decoded.pixels[3, 4, 0]) - 168) <= 2


def test_a_profile_that_unpacks_without_end_is_ignored() -> None:
    bomb = b"icc\0\0" + zlib.compress(bytes(50 * 2**20), 9)
    assert decode_image(with_chunk(saved(photo()), b"iCCP", bomb)).icc_profile is None


@pytest.mark.parametrize("kind", [b"zTXt", b"iTXt"])
def test_a_text_that_unpacks_without_end_is_skipped(kind: bytes) -> None:
    lead = b"note\0\0" if kind == b"zTXt" else b"note\0\1\0\0\0"
    bomb = lead + zlib.compress(bytes(50 * 2**20), 9)
    assert difference(decode_image(with_chunk(saved(photo()), kind, bomb)).pixels, photo()) == 0


def test_huge_metadata_is_no_obstacle() -> None:
    data = with_chunk(saved(photo()), b"tEXt", b"note\0" + bytes(5 * 2**20))
    assert difference(decode_image(data).pixels, photo()) == 0


@pytest.mark.parametrize("image_format", FORMATS)
@pytest.mark.parametrize("share", [0.3, 0.5, 0.7, 0.9, 0.99])
def test_a_truncated_file_is_an_error_and_not_a_grey_picture(image_format: str, share: float) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (70, 96, 3), np.uint8)
    data = saved(noise, image_format)
    with pytest.raises(InvalidImage, match="Invalid image data"):
        decode_image(data[: int(len(data) * share)])


@pytest.mark.parametrize("mode", ["RGB", "CMYK", "L"])
@pytest.mark.parametrize("options", [{}, {"progressive": True}, {"restart_marker_blocks": 3}], ids=str)
@pytest.mark.parametrize("share", [0.6, 0.8])
def test_a_jpeg_cut_short_and_closed_again_is_an_error(mode: str, options: dict[str, object], share: float) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (70, 96, 3), np.uint8)
    data = saved(PillowImage.fromarray(noise).convert(mode), "JPEG", quality=40, **options)
    if "progressive" in options:
        share /= 2  # its scans repeat the picture; the last ones only refine it
    with pytest.raises(InvalidImage):
        decode_image(data[: int(len(data) * share)] + b"\xff\xd9")


@given(
    sides=st.tuples(st.integers(1, 70), st.integers(1, 70)),
    mode=st.sampled_from(["RGB", "CMYK", "L"]),
    quality=st.integers(1, 100),
    subsampling=st.integers(0, 2),
    progressive=st.booleans(),
    optimize=st.booleans(),
    restart_marker_blocks=st.integers(0, 9),
    noise=st.booleans(),
)
@settings(max_examples=300, deadline=None)
def test_no_whole_jpeg_is_taken_for_one_cut_short(
    sides: tuple[int, int], mode: str, noise: bool, **options: object
) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (*sides, 3), np.uint8) if noise else photo(*sides)
    data = saved(PillowImage.fromarray(pixels).convert(mode), "JPEG", **options)
    expected = np.asarray(PillowImage.open(io.BytesIO(data), formats=["JPEG"]).convert("RGB"))
    assert difference(decode_image(data, OWN_FILES).pixels, expected) <= 2


def test_a_jpeg_that_lacks_only_its_end_is_whole() -> None:
    data = saved(photo(), "JPEG")
    assert np.array_equal(decode_image(data[:-2]).pixels, decode_image(data).pixels)


def test_what_follows_a_jpeg_does_not_matter() -> None:
    data = saved(photo(), "JPEG")
    assert np.array_equal(decode_image(data + b"PK\3\4" + data).pixels, decode_image(data).pixels)


def test_a_jpeg_of_endless_scans_is_an_error() -> None:
    data = saved(photo(), "JPEG", progressive=True)
    last_scan = data[data.rfind(b"\xff\xda") : -2]
    with pytest.raises(InvalidImage, match="scans"):
        decode_image(data[:-2] + last_scan * 200 + b"\xff\xd9")


@pytest.mark.parametrize("mode", ["CMYK", "L"])
def test_a_truncated_jpeg_of_any_mode_is_an_error(mode: str) -> None:
    data = saved(PillowImage.fromarray(photo()).convert(mode), "JPEG")
    with pytest.raises(InvalidImage):
        decode_image(data[:-20])


def test_a_png_without_its_pixels_is_an_error() -> None:
    data = saved(photo())
    with pytest.raises(InvalidImage):
        decode_image(data[:33] + chunk(b"IEND", b""))


@pytest.mark.parametrize(
    ("colour_type", "channels", "depth"),
    [(0, 1, 8), (2, 3, 8), (3, 1, 8), (4, 2, 8), (6, 4, 8), (0, 1, 16), (2, 3, 16), (4, 2, 16), (6, 4, 16)],
)
def test_a_png_of_too_few_rows_is_an_error(colour_type: int, channels: int, depth: int) -> None:
    header = struct.pack(">IIBBBBB", 96, 70, depth, colour_type, 0, 0, 0)
    few = zlib.compress(bytes((96 * channels * depth // 8 + 1) * 69))
    palette = chunk(b"PLTE", bytes(768)) if colour_type == 3 else b""
    data = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + palette + chunk(b"IDAT", few) + chunk(b"IEND", b"")
    with pytest.raises(InvalidImage):
        decode_image(data)


def test_a_png_of_endless_chunks_is_an_error() -> None:
    data = saved(photo())
    with pytest.raises(InvalidImage, match="chunks"):
        decode_image(data[:33] + chunk(b"tEXt", b"") * 200_000 + data[33:])


@pytest.mark.parametrize("image_format", FORMATS)
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_flipped_bytes_raise_only_our_error(image_format: str) -> None:
    data = saved(photo(), image_format, **({} if image_format == "BMP" else {"icc_profile": srgb_profile()}))
    random = np.random.default_rng(1)
    for _ in range(150):
        broken = bytearray(data)
        for place in random.integers(12, len(data), 3):
            broken[place] = random.integers(256)
        try:
            pixels = decode_image(bytes(broken)).pixels
        except ImageRejected:
            continue
        assert pixels.dtype == np.uint8


def test_details_name_neither_library_nor_path() -> None:
    with pytest.raises(InvalidImage) as caught:
        decode_image(saved(photo())[:-30])
    for word in ("PIL", "cv2", "OpenCV", "/", "Error", "BytesIO"):
        assert word not in caught.value.detail
