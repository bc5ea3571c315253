"""Measures quality on a folder of photos with known answers: background removal, one tap, inpainting.

    .venv/bin/python scripts/evaluate.py --data DIR                                  # the library, in this process
    .venv/bin/python scripts/evaluate.py --data DIR --url http://127.0.0.1:8000      # a running service
    .venv/bin/python scripts/evaluate.py --data DIR --task inpainting --sheet sheet.png --json figures.json

DIR holds ``saliency/`` (``index.json`` with ``id``; ``images/``, ``masks/``), ``clicks/`` (``clicks.json`` with ``id``,
``image``, ``mask``, ``click``) and ``inpaint/`` (``index.json``; ``images/``, ``masks/``, ``truth/``); any may lack.
A service takes taps, not masks: through HTTP an object to remove is tapped at its deepest point, so that figure judges
segmentation and inpainting together. Inpainting is compared with the truth inside the refined mask.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ParamSpec, Protocol, TypeVar

import cv2
import httpx
import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # works from any folder

from pipeline import masks, resize
from pipeline.config import Settings
from pipeline.in_process import InProcessInpainter, InProcessSegmenter
from pipeline.models.ladder import EngineOptions, load_inpainting, load_matting, load_segmentation
from pipeline.operations.remove_object import remove_object
from pipeline.operations.segment_objects import segment_objects
from pipeline.types import Alpha, Image, Mask, Prompt
from scripts.quality_metrics import (
    Scores,
    alpha_scores,
    contact_sheet,
    detail_ratio,
    iou,
    mean_scores,
    psnr_inside,
    table,
    telea,
)

POLL_S = 0.1
TIMEOUT_S = 120.0

P = ParamSpec("P")
T = TypeVar("T")
Point = tuple[int, int]
Picture = NDArray[np.uint8]


class Product(Protocol):
    """What is measured; pictures are named by file, since a service decodes them itself."""

    def remove_background(self, photo: Path) -> Alpha: ...
    def tap(self, photo: Path, point: Point) -> Mask: ...
    def remove_object(self, photo: Path, mask: Mask) -> Image: ...


class Library:
    """The best engines this machine can run, in this process."""

    def __init__(self) -> None:
        options = EngineOptions(models_dir=Path(__file__).resolve().parent.parent / Settings().models_dir)
        self._matting = load_matting(options).engine
        self._segmenter = InProcessSegmenter(load_segmentation(options).engine)
        self._inpainter = InProcessInpainter(load_inpainting(options).engine)

    def remove_background(self, photo: Path) -> Alpha:
        image = read_photo(photo)
        (alpha,) = self._matting.estimate_alpha([resize.stretch(image, self._matting.info.input_size_hw)])
        return masks.lift_alpha(alpha, image)

    def tap(self, photo: Path, point: Point) -> Mask:
        prompt = Prompt(np.array([point], np.float32), np.ones(1, np.uint8))
        (found,) = asyncio.run(segment_objects(read_photo(photo), [prompt], segmenter=self._segmenter))
        return found.mask

    def remove_object(self, photo: Path, mask: Mask) -> Image:
        return asyncio.run(remove_object(read_photo(photo), mask, inpainter=self._inpainter))


class Service:
    """A running service, through HTTP."""

    def __init__(self, url: str) -> None:
        self._client = httpx.Client(base_url=url, timeout=TIMEOUT_S)

    def remove_background(self, photo: Path) -> Alpha:
        files = {"image": (photo.name, photo.read_bytes())}
        answer = self._post("/api/background-removal/remove", files=files)
        cutout = decode(answer.content, cv2.IMREAD_UNCHANGED)
        return np.asarray(cutout[..., 3] / 255.0, np.float32)

    def tap(self, photo: Path, point: Point) -> Mask:
        return self._job(photo, point, "mask_0.png", cv2.IMREAD_GRAYSCALE) > 127

    def remove_object(self, photo: Path, mask: Mask) -> Image:
        return self._job(photo, deepest_point(mask), "inpainted_0.png", cv2.IMREAD_COLOR_RGB)

    def _job(self, photo: Path, point: Point, wanted: str, flags: int) -> Picture:
        """One file of a job with one tap, at the photo's size; the job is deleted."""
        files = {"file": (photo.name, photo.read_bytes())}
        job = self._post("/upload", files=files).json()
        height, width = read_photo(photo).shape[:2]
        x, y = point[0] * job["width"] / width, point[1] * job["height"] / height
        try:
            body = {"coordinates_list": [[int(x), int(y)]]}
            self._post("/segment", params={"job_id": job["job_id"]}, json=body)
            self._wait(job["job_id"])
            file = self._client.get(f"/download/{job['job_id']}/{wanted}").raise_for_status()
        finally:
            self._client.delete(f"/cleanup/{job['job_id']}")
        picture = decode(file.content, flags)
        return np.asarray(cv2.resize(picture, (width, height), interpolation=cv2.INTER_LINEAR), np.uint8)

    def _post(self, path: str, **arguments: Any) -> httpx.Response:
        """The answer; sent again when the service says after how many seconds (its limits, or too much to do)."""
        deadline = time.monotonic() + TIMEOUT_S
        while True:
            answer = self._client.post(path, **arguments)
            pause_s = float(answer.headers.get("Retry-After", 0)) if answer.status_code in (429, 503) else 0.0
            if not pause_s or time.monotonic() + pause_s > deadline:
                return answer.raise_for_status()
            time.sleep(pause_s)

    def _wait(self, job_id: str) -> None:
        deadline = time.monotonic() + TIMEOUT_S
        while time.monotonic() < deadline:
            status = self._client.get(f"/status/{job_id}").raise_for_status().json()
            if status["status"] == "error":
                raise RuntimeError(f"The job failed: {status.get('error')}")
            if status["status"] == "ready":
                return
            time.sleep(POLL_S)
        raise TimeoutError(f"The job took more than {TIMEOUT_S:.0f} s.")


@dataclass
class Results:
    """Figures by photo, and a row of pictures for each."""

    scores: dict[str, Scores] = field(default_factory=dict)
    pictures: list[list[Picture]] = field(default_factory=list)


def evaluate_removal(product: Product, folder: Path) -> Results:
    results = Results()
    for entry in tqdm(read_index(folder / "index.json"), desc="removal", file=sys.stderr):
        photo = folder / "images" / f"{entry['id']}.jpg"
        truth = np.asarray(read_gray(folder / "masks" / f"{entry['id']}.png") / 255.0, np.float32)
        alpha, seconds = timed(product.remove_background, photo)
        results.scores[entry["id"]] = {**alpha_scores(alpha, truth), "s": seconds}
        results.pictures.append([read_photo(photo), as_gray(truth), as_gray(alpha)])
    return results


def evaluate_taps(product: Product, folder: Path) -> Results:
    results = Results()
    for entry in tqdm(read_index(folder / "clicks.json"), desc="one tap", file=sys.stderr):
        photo, point = folder / entry["image"], (entry["click"][0], entry["click"][1])
        truth = read_gray(folder / entry["mask"]) > 127
        mask, seconds = timed(product.tap, photo, point)
        results.scores[f"{entry['id']} {entry.get('label', '')}"[:32]] = {"IoU": iou(mask, truth), "s": seconds}
        tapped = cv2.circle(read_photo(photo), point, 8, (255, 0, 0), -1)
        results.pictures.append([np.asarray(tapped, np.uint8), as_gray(truth), as_gray(mask)])
    return results


def evaluate_inpainting(product: Product, folder: Path) -> Results:
    results = Results()
    for entry in tqdm(read_index(folder / "index.json"), desc="inpainting", file=sys.stderr):
        photo = folder / "images" / f"{entry['id']}.jpg"
        image, truth = read_photo(photo), read_photo(folder / "truth" / f"{entry['id']}.jpg")
        mask = read_gray(folder / "masks" / f"{entry['id']}.png") > 127
        hole = masks.refine_mask(mask).fill
        filled, seconds = timed(product.remove_object, photo, mask)
        smeared = telea(image, hole)
        results.scores[entry["id"]] = {
            "PSNR dB": psnr_inside(filled, truth, hole),
            "Telea dB": psnr_inside(smeared, truth, hole),
            "detail": detail_ratio(filled, truth, hole),
            "Telea detail": detail_ratio(smeared, truth, hole),
            "s": seconds,
        }
        results.pictures.append([image, truth, smeared, filled])
    return results


TASKS: dict[str, tuple[str, Callable[[Product, Path], Results]]] = {
    "removal": ("saliency", evaluate_removal),
    "tap": ("clicks", evaluate_taps),
    "inpainting": ("inpaint", evaluate_inpainting),
}


def timed(work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> tuple[T, float]:
    start = time.perf_counter()
    return work(*args, **kwargs), time.perf_counter() - start


def deepest_point(mask: Mask) -> Point:
    """The pixel of ``mask`` farthest from its outline, (x, y)."""
    depth = cv2.distanceTransform(np.pad(mask, 1).astype(np.uint8), cv2.DIST_L2, 5)[1:-1, 1:-1]
    y, x = np.unravel_index(int(np.argmax(depth)), mask.shape)
    return int(x), int(y)


def decode(data: bytes, flags: int) -> Picture:
    picture = cv2.imdecode(np.frombuffer(data, np.uint8), flags)
    if picture is None:  # cv2 raises nothing for bytes it cannot read
        raise ValueError("This is no picture.")
    return np.asarray(picture, np.uint8)


def read_photo(path: Path) -> Image:
    return decode(path.read_bytes(), cv2.IMREAD_COLOR_RGB)


def read_gray(path: Path) -> Picture:
    return decode(path.read_bytes(), cv2.IMREAD_GRAYSCALE)


def read_index(path: Path) -> list[dict[str, Any]]:
    return list(json.loads(path.read_text()))


def as_gray(values: Alpha | Mask) -> Picture:
    return np.rint(values * np.float32(255)).astype(np.uint8)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder with the photos")
    parser.add_argument("--url", help="a running service; without it the library is measured")
    parser.add_argument("--task", choices=TASKS, action="append", help="may be repeated; all by default")
    parser.add_argument("--json", type=Path, help="write the figures here")
    parser.add_argument(
        "--sheet", type=Path, help="write a contact sheet here: photo, truth, result (inpainting: Telea first)"
    )
    options = parser.parse_args()
    product: Product = Service(options.url) if options.url else Library()
    figures: dict[str, Any] = {}
    pictures: list[list[Picture]] = []
    for task in options.task or TASKS:
        folder, evaluate = TASKS[task]
        if not (options.data / folder).is_dir():
            print(f"{task}: no {options.data / folder}, left out", file=sys.stderr)
            continue
        results = evaluate(product, options.data / folder)
        print(table(task, results.scores), end="\n\n")
        figures[task] = {"photos": results.scores, "mean": mean_scores(results.scores)}
        pictures += results.pictures
    if options.json:
        options.json.write_text(json.dumps(figures, indent=1) + "\n")
    if options.sheet and pictures:
        cv2.imwrite(str(options.sheet), cv2.cvtColor(contact_sheet(pictures), cv2.COLOR_RGB2BGR))


if __name__ == "__main__":
    main()
