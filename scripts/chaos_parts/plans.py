"""The jobs that are sent: photos, and where to tap them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2

SUFFIXES = {".jpg", ".jpeg", ".png", ".webp", ".bmp"}


@dataclass(frozen=True)
class Tap:
    """A point as shares of the photo's width and height; ``label`` is 1 on the object, 0 not on it."""

    x: float
    y: float
    label: int = 1


TAP_SETS: dict[str, tuple[tuple[Tap, ...], ...]] = {
    "one": ((Tap(0.5, 0.5),),),
    "two points": ((Tap(0.4, 0.6), Tap(0.9, 0.1, 0)),),
    "three": ((Tap(0.3, 0.7),), (Tap(0.5, 0.5),), (Tap(0.75, 0.3),)),
}


@dataclass(frozen=True)
class Photo:
    """A picture file as it is uploaded."""

    name: str
    data: bytes


@dataclass(frozen=True)
class Plan:
    """One kind of job: a photo, and the points of each object on it."""

    photo: Photo
    taps_name: str
    objects: tuple[tuple[Tap, ...], ...]

    @property
    def name(self) -> str:
        return f"{self.photo.name}, {self.taps_name}"

    def request(self, width: int, height: int) -> dict[str, Any]:
        """The body of ``/segment`` for an ``original.png`` of that size."""
        return {
            "coordinates_list": [[[int(tap.x * width), int(tap.y * height)] for tap in taps] for taps in self.objects],
            "labels": [[tap.label for tap in taps] for taps in self.objects],
        }


def read_photos(folder: Path, *, limit: int = 4) -> list[Photo]:
    """The first pictures of ``folder``, by name. Raises ``SystemExit`` if there is none."""
    paths = sorted(path for path in folder.iterdir() if path.suffix.lower() in SUFFIXES)[:limit]
    if not paths:
        raise SystemExit(f"chaos.py: {folder} holds no photos")
    return [Photo(path.name, path.read_bytes()) for path in paths]


def shrunk(photo: Photo, side_px: int) -> Photo:
    """The photo as JPEG with that longest side."""
    import numpy as np

    image = cv2.imdecode(np.frombuffer(photo.data, np.uint8), cv2.IMREAD_COLOR)
    if image is None:
        raise SystemExit(f"chaos.py: {photo.name} is no image OpenCV can read")
    scale = side_px / max(image.shape[:2])
    size_wh = tuple(max(64, round(length * scale)) for length in image.shape[1::-1])
    resized = cv2.resize(image, size_wh, interpolation=cv2.INTER_AREA)
    return Photo(f"{side_px} px {photo.name}", np.asarray(cv2.imencode(".jpg", resized)[1]).tobytes())


def make_plans(photos: Sequence[Photo]) -> list[Plan]:
    """Every photo with every set of taps."""
    return [Plan(photo, name, objects) for photo in photos for name, objects in TAP_SETS.items()]
