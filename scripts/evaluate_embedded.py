"""Measure the embedded engines: automatic foreground, one tap, and two corrections.

    .venv/bin/python scripts/evaluate_embedded.py --duts DIR --photos DIR [--weights FILE] [--limit N]

``--duts`` holds ``duts-val-*.tar``; ``--photos`` holds ``saliency/`` and ``clicks/`` with their index files. Photos
pass through the engines as through the service: stretched to the engine's size, answers lifted to the photo's own size
and compared there.
"""

from __future__ import annotations

import argparse
import json
import sys
import tarfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # works from any folder

from pipeline.masks import lift_alpha, lift_mask
from pipeline.models.embedded.neural_matting import EmbeddedMatting
from pipeline.models.embedded.neural_segmentation import EmbeddedSegmentation
from pipeline.models.embedded.weights import WEIGHTS_PATH, load_weights
from pipeline.protocols import MattingEngine, SegmentationEngine
from pipeline.resize import fit_within, stretch
from pipeline.types import Alpha, Image, Mask, Prompt
from scripts.training_embedded.tap_points import correction, deepest_point

CORRECTIONS = 2


@dataclass(frozen=True)
class Photo:
    """A photo and its true alpha; ``tap_xy`` is where to tap first, None for the deepest point."""

    name: str
    image: Image
    truth: Alpha
    tap_xy: tuple[float, float] | None = None


def main() -> None:
    options = _parse_arguments()
    cv2.setNumThreads(1)
    trained = load_weights(options.weights)
    matting, segmentation = EmbeddedMatting(trained), EmbeddedSegmentation(trained)
    sets: dict[str, list[Photo]] = {}
    if options.duts:
        sets["duts-val"] = list(read_duts(options.duts))[: options.limit]
    if options.photos:
        sets["saliency"] = list(read_indexed(options.photos / "saliency", "index.json"))
        sets["clicks"] = list(read_indexed(options.photos / "clicks", "clicks.json"))
    print("| set | photos | automatic IoU | MAE | one tap IoU | after two corrections | seconds per photo |")
    print("|---|---|---|---|---|---|---|")
    for name, photos in sets.items():
        print(_row(name, photos, matting, segmentation, detailed=options.detailed), flush=True)


def _row(
    name: str, photos: Sequence[Photo], matting: MattingEngine, segmentation: SegmentationEngine, *, detailed: bool
) -> str:
    automatic, tapped, corrected, errors, seconds = [], [], [], [], []
    for photo in tqdm(photos, desc=name, leave=False):
        start = time.perf_counter()
        taps = _iou_after_taps(photo, segmentation)
        seconds_taps = time.perf_counter() - start
        if name != "clicks":  # several things of one photo: no one subject
            start = time.perf_counter()
            alpha = automatic_alpha(photo.image, matting)
            seconds.append(time.perf_counter() - start)
            automatic.append(iou(alpha > 0.5, photo.truth > 0.5))
            errors.append(float(np.abs(alpha - photo.truth).mean()))
        else:
            seconds.append(seconds_taps)
        tapped.append(taps[0])
        corrected.append(taps[-1])
        if detailed:
            tqdm.write(f"{photo.name}: automatic {automatic[-1] if automatic else float('nan'):.3f}, taps {taps}")
    figures = [_mean(values) for values in (automatic, errors, tapped, corrected, seconds)]
    return f"| {name} | {len(photos)} | " + " | ".join(figures) + " |"


def automatic_alpha(image: Image, matting: MattingEngine) -> Alpha:
    """What the service makes of a photo without taps, at the photo's own size."""
    small = stretch(image, matting.info.input_size_hw)
    return lift_alpha(matting.estimate_alpha([small])[0], image)


def tapped_mask(image: Image, prompt: Prompt, segmentation: SegmentationEngine) -> Mask:
    """What the service makes of taps on a photo, at the photo's own size."""
    small = fit_within(image, min(segmentation.info.input_size_hw))
    scaled = prompt.scaled(small.shape[1] / image.shape[1], small.shape[0] / image.shape[0])
    found = segmentation.decode(segmentation.embed([small]), [scaled])[0]
    return lift_mask(found.probabilities[0], (image.shape[0], image.shape[1]))


def _iou_after_taps(photo: Photo, segmentation: SegmentationEngine) -> list[float]:
    """IoU after the first tap and after each correction of the largest error."""
    truth = photo.truth > 0.5
    points, labels = [photo.tap_xy or deepest_point(truth)], [1]
    values = []
    for _ in range(1 + CORRECTIONS):
        prompt = Prompt(np.array(points, np.float32), np.array(labels, np.uint8))
        mask = tapped_mask(photo.image, prompt, segmentation)
        values.append(iou(mask, truth))
        if (found := correction(mask, truth)) is None:
            break
        points.append(found[0])
        labels.append(int(found[1]))
    return values


def iou(predicted: Mask, truth: Mask) -> float:
    """Overlap over union; 1 where both are empty."""
    union = int((predicted | truth).sum())
    return float((predicted & truth).sum() / union) if union else 1.0


def _mean(values: Sequence[float]) -> str:
    return f"{np.mean(values):.3f}" if values else "–"


def read_duts(folder: Path) -> Iterator[Photo]:
    for path in sorted(folder.glob("duts-val-*.tar")):
        with tarfile.open(path) as archive:
            files = {member.name: file.read() for member in archive if (file := archive.extractfile(member))}
        for name in sorted(name for name in files if name.endswith(".jpg")):
            image = cv2.imdecode(np.frombuffer(files[name], np.uint8), cv2.IMREAD_COLOR_RGB)
            mask = cv2.imdecode(np.frombuffer(files[name[:-3] + "png"], np.uint8), cv2.IMREAD_GRAYSCALE)
            yield Photo(name, np.asarray(image, np.uint8), _as_alpha(mask))


def read_indexed(folder: Path, index: str) -> Iterator[Photo]:
    for entry in json.loads((folder / index).read_text()):
        image = cv2.imread(str(folder / entry.get("image", f"images/{entry['id']}.jpg")), cv2.IMREAD_COLOR_RGB)
        mask = cv2.imread(str(folder / entry.get("mask", f"masks/{entry['id']}.png")), cv2.IMREAD_GRAYSCALE)
        tap = entry.get("click")
        yield Photo(entry["id"], np.asarray(image, np.uint8), _as_alpha(mask), tuple(tap) if tap else None)


def _as_alpha(mask: NDArray[np.generic] | None) -> Alpha:
    if mask is None:
        raise ValueError("A mask is missing or broken.")
    return np.asarray(mask, np.float32) / np.float32(255)


def _parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--duts", type=Path, help="folder with duts-val-*.tar")
    parser.add_argument("--photos", type=Path, help="folder with saliency/ and clicks/")
    parser.add_argument("--weights", type=Path, default=WEIGHTS_PATH)
    parser.add_argument("--limit", type=int, help="only the first so many photos of duts-val")
    parser.add_argument("--detailed", action="store_true", help="one line per photo")
    return parser.parse_args()


if __name__ == "__main__":
    main()
