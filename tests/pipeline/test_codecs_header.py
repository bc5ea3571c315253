"""What a file may be is judged from its header alone."""

import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image as PillowImage

from pipeline.codecs import OWN_FILES, ImageHeader, ImageLimits, read_header
from pipeline.errors import FileTooLarge, ImageBomb, ImageTooSmall, InvalidImage, ResolutionTooLarge, UnsupportedFormat


def saved(image_format: str, size: tuple[int, int] = (64, 96), mode: str = "RGB", **options: object) -> bytes:
    stream = io.BytesIO()
    PillowImage.new(mode, size, 7).save(stream, image_format, **options)
    return stream.getvalue()


def claimed_png(width: int, height: int, file_size: int = 200_000) -> bytes:
    """A PNG of nothing but a header; its size in bytes keeps the ratio of unpacked to packed low."""
    header = struct.pack(">4sIIBBBBB", b"IHDR", width, height, 8, 2, 0, 0, 0)
    png = b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + header + struct.pack(">I", zlib.crc32(header))
    return png.ljust(file_size, b"\0")


def claimed_bmp(width: int, height: int) -> bytes:
    return b"BM" + bytes(12) + struct.pack("<IiiHH", 40, width, height, 1, 24) + bytes(100)


@pytest.mark.parametrize("image_format", ["JPEG", "PNG", "WEBP", "BMP"])
def test_format_and_size_come_from_the_content(image_format: str) -> None:
    assert read_header(saved(image_format)) == ImageHeader(image_format, 64, 96)


@pytest.mark.parametrize("options", [{"lossless": True}, {"exif": b"Exif\0\0"}], ids=["VP8L", "VP8X"])
def test_every_kind_of_webp_tells_its_size(options: dict[str, object]) -> None:
    assert read_header(saved("WEBP", (300, 70), **options)) == ImageHeader("WEBP", 300, 70)


def test_a_progressive_jpeg_tells_its_size() -> None:
    assert read_header(saved("JPEG", progressive=True)).width == 64


def test_a_bmp_that_runs_downwards_has_a_positive_height() -> None:
    assert read_header(claimed_bmp(64, -96)).height == 96


@pytest.mark.parametrize("header_size", [0, 11, 41, 2**31])
def test_a_text_that_begins_like_a_bmp_is_invalid_and_no_bomb(header_size: int) -> None:
    data = claimed_bmp(2**31 - 1, 2**31 - 1)
    with pytest.raises(InvalidImage, match="broken BMP header"):
        read_header(data[:14] + struct.pack("<I", header_size) + data[18:])


@pytest.mark.parametrize("declared_type", [None, "", "image/gif", "application/octet-stream", "Image/PNG; q=1"])
def test_a_declared_type_that_may_be_an_image_does_not_matter(declared_type: str | None) -> None:
    assert read_header(saved("JPEG"), declared_type=declared_type).format == "JPEG"


@pytest.mark.parametrize("declared_type", ["text/plain", "application/pdf", "video/mp4"])
def test_a_declared_type_that_is_no_image_is_refused(declared_type: str) -> None:
    with pytest.raises(UnsupportedFormat, match="format") as caught:
        read_header(saved("JPEG"), declared_type=declared_type)
    assert caught.value.fields == {
        "supported_formats": ["JPEG", "PNG", "WEBP", "BMP"],
        "received_format": declared_type,
    }


@pytest.mark.parametrize(
    ("data", "received"),
    [
        (b"%PDF-1.7 ...", "application/pdf"),
        (saved("GIF", mode="L"), "image/gif"),
        (saved("TIFF"), "image/tiff"),
        (b'\n<svg xmlns="http://www.w3.org/2000/svg"/>', "image/svg+xml"),
        (b'<?xml version="1.0"?><svg/>', "image/svg+xml"),
        (b"\0\0\0\x20ftypheic", "image/heic"),
        (b"%PDF-1.7\n" + saved("JPEG"), "application/pdf"),
        (b"GIF89a" + saved("PNG"), "image/gif"),
    ],
)
def test_other_well_known_files_are_refused_by_name(data: bytes, received: str) -> None:
    with pytest.raises(UnsupportedFormat) as caught:
        read_header(data, declared_type="image/png")
    assert caught.value.fields["received_format"] == received


def test_a_picture_with_an_archive_behind_it_is_a_picture() -> None:
    assert read_header(saved("JPEG") + b"PK\3\4").format == "JPEG"


@pytest.mark.parametrize(
    ("data", "detail"), [(b"", "Invalid image data: the file is empty"), (b"abc" * 99, "unidentified image file")]
)
def test_what_is_no_image_at_all_is_told_so(data: bytes, detail: str) -> None:
    with pytest.raises(InvalidImage, match=detail):
        read_header(data)


@pytest.mark.parametrize("image_format", ["JPEG", "PNG", "WEBP", "BMP"])
def test_every_cut_through_a_header_is_an_error(image_format: str) -> None:
    data = saved(image_format)
    size_is_known_after = {"JPEG": data.find(b"\xff\xda") + 2, "PNG": 24, "WEBP": 30, "BMP": 26}[image_format]
    for length in range(size_is_known_after):
        with pytest.raises(InvalidImage):
            read_header(data[:length])


def test_a_file_over_the_limit_in_bytes_is_refused_before_its_type() -> None:
    with pytest.raises(FileTooLarge, match="File size exceeds 10MB limit") as caught:
        read_header(bytes(13 * 2**20), declared_type="text/plain")
    assert caught.value.fields == {"file_size_mb": 13.0, "max_size_mb": 10}


def test_a_file_of_exactly_the_limit_is_accepted() -> None:
    data = saved("PNG")
    assert read_header(data, ImageLimits(max_bytes=len(data))).format == "PNG"


@pytest.mark.parametrize("size", [(30_000, 30_000), (10_000, 10_000), (2**31 - 1, 2**31 - 1)])
def test_too_many_megapixels_are_a_bomb(size: tuple[int, int]) -> None:
    with pytest.raises(ImageBomb, match="bomb") as caught:
        read_header(claimed_png(*size, file_size=1000))
    assert caught.value.fields["decompressed_size_bytes"] == size[0] * size[1] * 4
    assert caught.value.fields["file_size_bytes"] == 1000


def test_a_solid_picture_of_30_megabytes_is_a_bomb() -> None:
    data = saved("PNG", (3000, 2500))
    with pytest.raises(ImageBomb, match="Image bomb detected: decompression ratio exceeds 1000x") as caught:
        read_header(data)
    assert caught.value.fields["ratio"] == round(3000 * 2500 * 4 / len(data), 1)


def test_a_small_plain_picture_may_pass_the_ratio() -> None:
    data = saved("PNG", (2000, 2000), "1")
    assert 2000 * 2000 * 4 / len(data) > 1000
    assert read_header(data).width == 2000


def test_files_of_our_own_may_be_narrow_and_plain() -> None:
    assert read_header(saved("PNG", (9000, 3)), OWN_FILES).height == 3
    assert read_header(saved("PNG", (3000, 2500)), OWN_FILES).width == 3000


@pytest.mark.parametrize("size", [(7680, 4320), (4320, 7680)])
def test_8k_is_accepted_either_way_up(size: tuple[int, int]) -> None:
    assert read_header(claimed_png(*size)).width == size[0]


@pytest.mark.parametrize("size", [(7681, 100), (100, 7681), (4321, 4321), (8000, 5000)])
def test_more_than_8k_is_refused_either_way_up(size: tuple[int, int]) -> None:
    with pytest.raises(ResolutionTooLarge, match="8K"):
        read_header(claimed_png(*size))


@pytest.mark.parametrize("size", [(63, 64), (64, 63), (1, 1)])
def test_less_than_64_pixels_are_refused(size: tuple[int, int]) -> None:
    with pytest.raises(ImageTooSmall, match="64"):
        read_header(saved("PNG", size))


@pytest.mark.parametrize("size", [(0, 64), (64, 0)])
def test_a_picture_without_pixels_is_invalid(size: tuple[int, int]) -> None:
    with pytest.raises(InvalidImage):
        read_header(claimed_bmp(*size))


def test_a_jpeg_of_endless_segments_is_refused() -> None:
    with pytest.raises(InvalidImage, match="segments"):
        read_header(b"\xff\xd8" + b"\xff\xe1\0\2" * 10_000)


def test_a_jpeg_with_two_frames_is_refused() -> None:
    data = saved("JPEG")
    start = data.find(b"\xff\xc0")
    frame = data[start : start + 19]
    with pytest.raises(InvalidImage, match="frame"):
        read_header(data[:start] + frame + data[start:])


def test_arbitrary_bytes_behind_a_magic_number_raise_only_our_errors() -> None:
    random = np.random.default_rng(0)
    for magic in (b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"RIFF\0\0\0\0WEBP", b"BM"):
        for _ in range(200):
            with pytest.raises((InvalidImage, ImageBomb, ResolutionTooLarge, ImageTooSmall)):
                read_header(magic + random.bytes(60))
