"""Speed of reading, finishing and writing a picture, as ratios taken within one run.

    python scripts/benchmark_codecs.py                      # a synthetic photo, 1080p
    python scripts/benchmark_codecs.py --photo photo.jpg --matte matte.png --size 4000x3000

Rounds of all candidates take turns, and each counts with its fastest: a busy machine slows them alike.
"""

from __future__ import annotations

import argparse
import io
import re
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

import cv2
import numpy as np
from PIL import Image as PillowImage

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from pipeline.codecs import DecoderPool, ImageLimits, decode_image, encode_jpeg, encode_png, read_header
from pipeline.compositing import compose_cutout
from pipeline.foreground import estimate_foreground
from pipeline.masks import lift_alpha, refine_mask, smooth_alpha
from pipeline.types import Alpha, Image

MODEL_SIDE_PX = 1024
THROUGHPUT_PICTURES = 40


def main() -> None:
    arguments = _parse_arguments()
    width, height = map(int, arguments.size.split("x"))
    if arguments.photo is None:
        image, alpha = _synthetic(height, width)
    else:
        image, alpha = _given(arguments.photo, arguments.matte, height, width)
    print(f"{width}x{height}, {cv2.getNumThreads()} OpenCV threads, fastest of {arguments.rounds} rounds")
    _compare("PNG of an RGBA cut-out", _png_writers(compose_cutout(image, alpha)), arguments.rounds)
    _compare("PNG of the RGB photo", _png_writers(image), arguments.rounds)
    _compare("PNG of a mask", _png_writers((alpha > 0.5).astype(np.uint8) * 255), arguments.rounds)
    with closing(DecoderPool(processes=0)) as here, closing(DecoderPool(processes=arguments.processes)) as apart:
        apart.warm_up()
        _compare("JPEG decoding", _jpeg_readers(encode_jpeg(image), here, apart), arguments.rounds)
        _compare_throughput(encode_jpeg(image), {"in this process": here, "in decoder processes": apart})
        _print_memory(apart)
    _compare("Steps", _steps(image, alpha), arguments.rounds)


def _parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--photo", type=Path, help="a photo; synthetic if left out")
    parser.add_argument("--matte", type=Path, help="its alpha as a grey picture; an ellipse if left out")
    parser.add_argument("--size", default="1920x1080", help="width x height that both are brought to")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--processes", type=int, help="decoder processes; one per processor, up to four, if left out")
    return parser.parse_args()


def _synthetic(height: int, width: int) -> tuple[Image, Alpha]:
    """Blurred noise over coarse colours, about as hard to pack as a photo, and a soft ellipse."""
    random = np.random.default_rng(0)
    coarse = cv2.resize(random.integers(0, 256, (9, 16, 3), np.uint8), (width, height), interpolation=cv2.INTER_CUBIC)
    grain = cv2.GaussianBlur(random.normal(0, 12, (height, width, 3)), (0, 0), 1)
    return np.clip(coarse + grain, 0, 255).astype(np.uint8), _ellipse(height, width)


def _ellipse(height: int, width: int) -> Alpha:
    y, x = np.linspace(-1, 1, height, dtype=np.float32)[:, None], np.linspace(-1, 1, width, dtype=np.float32)
    alpha: Alpha = np.clip((0.6 - np.hypot(x * 1.2, y)) * 60 + 0.5, 0, 1)
    return alpha


def _given(photo: Path, matte: Path | None, height: int, width: int) -> tuple[Image, Alpha]:
    image = cv2.resize(decode_image(photo.read_bytes()).pixels, (width, height), interpolation=cv2.INTER_CUBIC)
    if matte is None:
        return image.astype(np.uint8), _ellipse(height, width)
    grey = decode_image(matte.read_bytes()).pixels[..., 0]
    alpha = cv2.resize(grey, (width, height), interpolation=cv2.INTER_CUBIC).astype(np.float32)
    return image.astype(np.uint8), alpha / np.float32(255)


def _png_writers(pixels: Image) -> dict[str, Callable[[], object]]:
    to_opencv = {3: cv2.COLOR_RGB2BGR, 4: cv2.COLOR_RGBA2BGRA}
    # OpenCV gets its own order of channels for free here.
    swapped = pixels if pixels.ndim == 2 else cv2.cvtColor(pixels, to_opencv[pixels.shape[2]])

    def pillow() -> bytes:
        stream = io.BytesIO()
        PillowImage.fromarray(pixels).save(stream, "PNG", compress_level=1)
        return stream.getvalue()

    return {
        "OpenCV, level 1": lambda: cv2.imencode(".png", swapped, [cv2.IMWRITE_PNG_COMPRESSION, 1])[1],
        "Pillow, level 1": pillow,
        "ours, 1 thread": lambda: encode_png(pixels, threads=1),
        "ours": lambda: encode_png(pixels),
    }


def _jpeg_readers(data: bytes, here: DecoderPool, apart: DecoderPool) -> dict[str, Callable[[], object]]:
    header = read_header(data, ImageLimits(max_bytes=len(data)))

    def pillow() -> object:
        return np.asarray(PillowImage.open(io.BytesIO(data), formats=["JPEG"]).convert("RGB"))

    return {
        "ours, in this process": lambda: here.decode(data, header),
        "ours, in a decoder process": lambda: apart.decode(data, header),
        "Pillow": pillow,
    }


def _compare_throughput(data: bytes, pools: dict[str, DecoderPool]) -> None:
    """Prints how many pictures a second 2 and 4 threads decode with each; the better of three rounds in turn."""
    header = read_header(data, ImageLimits(max_bytes=len(data)))
    print("\nJPEG decoding from several threads")
    for threads in (2, 4):
        best = dict.fromkeys(pools, 0.0)
        with ThreadPoolExecutor(threads) as executor:
            for _ in range(3):
                for name, pool in pools.items():
                    start = time.perf_counter()
                    for _ in executor.map(lambda _, pool=pool: pool.decode(data, header), range(THROUGHPUT_PICTURES)):
                        pass
                    best[name] = max(best[name], THROUGHPUT_PICTURES / (time.perf_counter() - start))
        for name, rate in best.items():
            print(f"  {threads} threads, {name:26} {rate:8.1f} pictures/s")


def _print_memory(pool: DecoderPool) -> None:
    print("\nMemory of the decoder processes afterwards")
    for pid in pool.pids():
        rollup = Path(f"/proc/{pid}/smaps_rollup").read_text()
        kib = {name: int(value) for name, value in re.findall(r"^(\w+):\s+(\d+) kB$", rollup, re.MULTILINE)}
        print(f"  {kib['Rss'] / 1024:6.0f} MiB resident, {kib['Private_Dirty'] / 1024:6.0f} MiB its own")


def _steps(image: Image, alpha: Alpha) -> dict[str, Callable[[], object]]:
    model_alpha = cv2.resize((alpha * 255).astype(np.uint8), (MODEL_SIDE_PX, MODEL_SIDE_PX)).astype(np.uint8)
    return {
        "OpenCV resizes the photo": lambda: cv2.resize(
            image, (MODEL_SIDE_PX, MODEL_SIDE_PX), None, 0, 0, cv2.INTER_AREA
        ),
        "lift_alpha": lambda: lift_alpha(model_alpha, image),
        "smooth_alpha": lambda: smooth_alpha(alpha),
        "estimate_foreground": lambda: estimate_foreground(image, alpha),
        "compose_cutout": lambda: compose_cutout(image, alpha),
        "refine_mask": lambda: refine_mask(alpha > 0.5),
    }


def _compare(title: str, candidates: dict[str, Callable[[], object]], rounds: int) -> None:
    """Prints each candidate's fastest time, how the first one's relates to it, and the size of what it wrote."""
    fastest = dict.fromkeys(candidates, float("inf"))
    sizes: dict[str, int] = {}
    for _ in range(rounds):
        for name, call in candidates.items():
            start = time.perf_counter()
            result = call()
            fastest[name] = min(fastest[name], time.perf_counter() - start)
            if isinstance(result, bytes) or (isinstance(result, np.ndarray) and result.ndim == 1):
                sizes[name] = len(result)
    first = next(iter(fastest.values()))
    print(f"\n{title}")
    for name, seconds in fastest.items():
        size = f"{sizes[name] / 1e3:9,.0f} kB" if name in sizes else ""
        print(f"  {name:26} {seconds * 1e3:8.1f} ms {first / seconds:7.2f}x {size}")


if __name__ == "__main__":
    main()
