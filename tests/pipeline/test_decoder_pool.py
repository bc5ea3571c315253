"""Whatever a picture does to its decoder, the caller gets an answer and the next picture a decoder."""

from __future__ import annotations

import gc
import io
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from PIL import Image as PillowImage
from PIL import ImageCms

from pipeline import codecs
from pipeline.codecs import OWN_FILES, DecoderLimits, DecoderPool, decode_image, read_header
from pipeline.errors import InvalidImage, Overloaded
from pipeline.types import Image

PATIENCE_S = 30.0


def photo(height: int = 70, width: int = 96) -> Image:
    y, x = np.mgrid[0:height, 0:width]
    return np.dstack([x * 255 // width, y * 255 // height, (x + 2 * y) * 255 // (width + 2 * height)]).astype(np.uint8)


def saved(pixels: Image, image_format: str = "PNG", **options: object) -> bytes:
    stream = io.BytesIO()
    PillowImage.fromarray(pixels).save(stream, image_format, **options)
    return stream.getvalue()


def slow_jpeg() -> bytes:
    """A small file of 72 megapixels whose last scan comes again and again, each time a pass over the whole picture."""
    stream = io.BytesIO()
    PillowImage.new("L", (9000, 8000), 99).save(stream, "JPEG", progressive=True)
    data = stream.getvalue()
    last_scan = data[data.rfind(b"\xff\xda") : -2]
    return data[:-2] + last_scan * 50 + b"\xff\xd9"


def decode(pool: DecoderPool, data: bytes) -> codecs.DecodedImage:
    return pool.decode(data, read_header(data, OWN_FILES))


def wait_until(happened: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not happened():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.02)


def children() -> set[int]:
    """Process ids of this process's children, the dead and unburied among them."""
    found: set[int] = set()
    for task in Path("/proc/self/task").iterdir():
        found.update(map(int, (task / "children").read_text().split()))
    return found


def is_running(pid: int) -> bool:
    try:
        return "State:\tZ" not in Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return False


@pytest.fixture
def pool() -> Iterator[DecoderPool]:
    made = DecoderPool(1)
    yield made
    made.close()


def when_it_works(pool: DecoderPool, do: Callable[[int], None]) -> threading.Thread:
    """Does something to the pool's only decoder once it is at work on a picture."""
    pool.warm_up()
    (pid,) = pool.pids()

    def act() -> None:
        wait_until(lambda: pool.pids() == [])
        do(pid)

    thread = threading.Thread(target=act)
    thread.start()
    return thread


def send(number: signal.Signals) -> Callable[[int], None]:
    return lambda pid: os.kill(pid, number)


@pytest.mark.parametrize("image_format", ["JPEG", "PNG", "WEBP", "BMP"])
def test_a_decoder_process_unpacks_exactly_what_this_process_does(pool: DecoderPool, image_format: str) -> None:
    data = saved(photo(), image_format)
    here, there = decode_image(data, OWN_FILES), decode(pool, data)
    assert np.array_equal(here.pixels, there.pixels)
    assert (there.alpha, there.icc_profile, there.format) == (None, None, image_format)


def test_alpha_profile_and_orientation_come_back(pool: DecoderPool) -> None:
    rgba = np.dstack([photo(), np.linspace(0, 255, 96).astype(np.uint8) * np.ones((70, 1), np.uint8)])
    exif = PillowImage.Exif()
    exif[0x0112] = 6
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    data = saved(rgba, exif=exif, icc_profile=profile)
    here, there = decode_image(data, OWN_FILES), decode(pool, data)
    assert there.pixels.shape == (96, 70, 3)
    assert np.array_equal(here.pixels, there.pixels)
    assert here.alpha is not None
    assert there.alpha is not None
    assert np.array_equal(here.alpha, there.alpha)
    assert there.icc_profile == profile


def test_pixels_may_be_written_to_and_outlive_the_pool() -> None:
    pool = DecoderPool(1)
    pixels = decode(pool, saved(photo())).pixels
    pool.close()
    pixels += 1
    assert np.array_equal(pixels, photo() + 1)


def test_a_refusal_says_what_is_wrong_and_the_decoder_lives_on(pool: DecoderPool) -> None:
    data = saved(photo())
    pool.warm_up()
    before = pool.pids()
    with pytest.raises(InvalidImage, match="the PNG file is truncated"):
        decode(pool, data[:-20])
    assert pool.pids() == before


@pytest.mark.parametrize("number", [signal.SIGSEGV, signal.SIGABRT, signal.SIGBUS])
def test_a_picture_that_crashes_its_decoder_is_invalid(pool: DecoderPool, number: signal.Signals) -> None:
    thread = when_it_works(pool, send(number))
    with pytest.raises(InvalidImage, match="damaged"):
        decode(pool, slow_jpeg())
    thread.join()
    assert np.array_equal(decode(pool, saved(photo())).pixels, photo())


def test_a_picture_whose_decoder_is_killed_by_somebody_else_is_decoded_once_more(pool: DecoderPool) -> None:
    thread = when_it_works(pool, send(signal.SIGKILL))
    assert decode(pool, saved(photo(4000, 4000))).pixels.shape == (4000, 4000, 3)
    thread.join()


def test_a_picture_that_hangs_its_decoder_is_invalid() -> None:
    pool = DecoderPool(1, limits=DecoderLimits(wall_s=0.5))
    thread = when_it_works(pool, send(signal.SIGSTOP))
    start = time.monotonic()
    with pytest.raises(InvalidImage, match="takes too long"):
        decode(pool, slow_jpeg())
    assert time.monotonic() - start < 5
    thread.join()
    pool.close()


def test_a_picture_that_computes_for_ever_is_invalid() -> None:
    pool = DecoderPool(1, limits=DecoderLimits(cpu_s=0))
    with pytest.raises(InvalidImage, match="takes too long"):
        decode(pool, slow_jpeg())
    pool.close()


def test_a_picture_that_wants_too_much_memory_is_invalid() -> None:
    pool = DecoderPool(1, limits=DecoderLimits(memory_mb=4, memory_bytes_per_pixel=1))
    with pytest.raises(InvalidImage):
        decode(pool, saved(photo(3000, 3000), icc_profile=None))
    assert np.array_equal(decode(pool, saved(photo())).pixels, photo())
    pool.close()


def test_a_decoder_that_dies_while_idle_is_buried_and_replaced(pool: DecoderPool) -> None:
    pool.warm_up()
    (pid,) = pool.pids()
    os.kill(pid, signal.SIGKILL)
    assert np.array_equal(decode(pool, saved(photo())).pixels, photo())
    wait_until(lambda: pid not in children())


def test_a_pool_whose_every_decoder_was_killed_decodes_on() -> None:
    pool = DecoderPool(3)
    pool.warm_up()
    for pid in pool.pids():
        os.kill(pid, signal.SIGKILL)
    assert np.array_equal(decode(pool, saved(photo())).pixels, photo())
    pool.close()


def test_an_interrupted_caller_leaves_no_answer_behind(pool: DecoderPool, monkeypatch: pytest.MonkeyPatch) -> None:
    class Interrupted(BaseException):
        pass

    def interrupt(*_: object) -> None:
        raise Interrupted

    pool.warm_up()
    monkeypatch.setattr("pipeline.codecs.decoder_process.DecoderProcess._receive", interrupt)
    with pytest.raises(Interrupted):
        decode(pool, saved(photo(), "BMP"))
    monkeypatch.undo()
    other = photo(90, 64)
    assert np.array_equal(decode(pool, saved(other)).pixels, other)


def test_closing_gives_up_a_picture_at_work(pool: DecoderPool) -> None:
    thread = when_it_works(pool, lambda pid: pool.close())
    with pytest.raises(Overloaded):
        decode(pool, slow_jpeg())
    thread.join()


def test_a_decoder_that_has_grown_gives_its_picture_and_makes_room() -> None:
    pool = DecoderPool(1, limits=DecoderLimits(growth_mb=-1))
    pool.warm_up()
    (before,) = pool.pids()
    assert np.array_equal(decode(pool, saved(photo())).pixels, photo())
    pool.warm_up()
    assert pool.pids() != [before]
    assert before not in children()
    assert pool.broken == 0
    pool.close()


def test_nothing_starts_before_the_first_picture() -> None:
    before = children()
    pool = DecoderPool(2)
    assert children() == before
    assert pool.pids() == []
    pool.close()


def test_closing_ends_every_process() -> None:
    before = children()
    pool = DecoderPool(2)
    pool.warm_up()
    assert len(children() - before) == 2
    pool.close()
    assert children() == before
    with pytest.raises(Overloaded):
        decode(pool, saved(photo()))


def test_without_processes_pictures_are_unpacked_here() -> None:
    before = children()
    pool = DecoderPool(0)
    pool.warm_up()
    assert np.array_equal(decode(pool, saved(photo())).pixels, photo())
    assert children() == before


def test_many_threads_share_few_decoders() -> None:
    pool = DecoderPool(2)
    pool.warm_up()
    data = saved(photo())
    with ThreadPoolExecutor(8) as executor:
        pictures = list(executor.map(lambda _: decode(pool, data).pixels, range(100)))
    assert all(np.array_equal(picture, photo()) for picture in pictures)
    assert len(pool.pids()) == 2
    pool.close()


def test_a_picture_does_not_wait_for_ever() -> None:
    pool = DecoderPool(1, wait_s=0.2)
    thread = when_it_works(pool, lambda pid: None)
    with ThreadPoolExecutor(1) as executor:
        slow = executor.submit(decode, pool, slow_jpeg())
        thread.join()
        with pytest.raises(Overloaded, match="No decoder came free") as caught:
            decode(pool, saved(photo()))
        assert caught.value.fields == {"retry_after": 5}
        assert slow.result().pixels.shape == (8000, 9000, 3)
    pool.close()


def test_a_decoder_that_cannot_start_is_told_as_overload(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", "/nowhere/python")
    pool = DecoderPool(1)
    with pytest.raises(Overloaded):
        decode(pool, saved(photo()))
    with pytest.raises(Overloaded):
        pool.warm_up()
    monkeypatch.undo()
    assert np.array_equal(decode(pool, saved(photo())).pixels, photo())
    pool.close()


def test_neither_descriptors_nor_memory_are_left_behind(pool: DecoderPool) -> None:
    good, bad = saved(photo()), saved(photo())[:-20]
    decode(pool, good)

    def held() -> tuple[int, int]:
        gc.collect()
        maps = Path("/proc/self/maps").read_text().count("clearcut-picture")
        return len(os.listdir("/proc/self/fd")), maps

    before = held()
    for _ in range(50):
        decode(pool, good)
        with pytest.raises(InvalidImage):
            decode(pool, bad)
    assert held() == before
    (pid,) = pool.pids()
    assert sum("clearcut-picture" in os.readlink(link) for link in Path(f"/proc/{pid}/fd").iterdir()) == 0


def test_a_decoder_knows_neither_the_models_nor_the_cluster_nor_secrets() -> None:
    program = (
        "import sys, pipeline.codecs.decoder_child; print({'torch', 'ray', 'openvino', 'fastapi'} & set(sys.modules))"
    )
    assert subprocess.run([sys.executable, "-c", program], capture_output=True, text=True).stdout == "set()\n"


def test_the_environment_of_a_decoder_holds_no_secret(pool: DecoderPool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CALLBACK_SECRET", "open-sesame")
    pool.warm_up()
    (pid,) = pool.pids()
    assert b"open-sesame" not in Path(f"/proc/{pid}/environ").read_bytes()


def test_decoders_end_with_a_killed_owner(tmp_path: Path) -> None:
    program = f"""
import time
from pipeline.codecs import DecoderPool
pool = DecoderPool(2)
pool.warm_up()
open({str(tmp_path / "pids")!r}, "w").write(" ".join(map(str, pool.pids())) + "\\n")
time.sleep(600)
"""
    owner = subprocess.Popen([sys.executable, "-c", program])
    file = tmp_path / "pids"
    wait_until(lambda: file.exists() and file.read_text().endswith("\n"))
    pids = [int(pid) for pid in file.read_text().split()]
    assert len(pids) == 2
    assert all(map(is_running, pids))
    owner.send_signal(signal.SIGKILL)
    owner.wait()
    wait_until(lambda: not any(map(is_running, pids)))


def test_a_process_ends_quietly_with_decoders_at_its_side() -> None:
    program = "from pipeline.codecs import warm_up; warm_up()"
    ended = subprocess.run([sys.executable, "-W", "error", "-c", program], capture_output=True, text=True, timeout=60)
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, "", "")


def test_the_seam_sends_strangers_files_to_a_decoder_and_unpacks_its_own() -> None:
    codecs.use_decoders(DecoderPool(1))
    before = children()
    decode_image(saved(photo()), OWN_FILES)
    assert children() == before
    decode_image(saved(photo()))
    assert len(children() - before) == 1
    codecs.use_decoders(DecoderPool())
    assert children() == before
