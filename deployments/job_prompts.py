"""What a job may be asked for: the limits of its objects and points."""

from __future__ import annotations

import math

import numpy as np

from pipeline.errors import InvalidPoint, TooManyObjects, TooManyPoints
from pipeline.jobs.records import JobObject
from pipeline.types import Prompt

MAX_OBJECTS = 16
MAX_POINTS = 32


def check_objects(objects: tuple[JobObject, ...], *, width: int, height: int) -> None:
    """Raises ``PromptRejected`` unless the objects keep the limits and lie on the picture."""
    if not objects:
        raise InvalidPoint("coordinates_list needs at least one point.")
    if len(objects) > MAX_OBJECTS:
        raise TooManyObjects(f"At most {MAX_OBJECTS} objects a job.", max_objects=MAX_OBJECTS, objects=len(objects))
    for index, item in enumerate(objects):
        if len(item.points) > MAX_POINTS:
            raise TooManyPoints(f"At most {MAX_POINTS} points an object.", max_points=MAX_POINTS, object=index)
        if 1 not in item.labels:
            raise InvalidPoint(f"Object {index} needs at least one point on it (label 1).", object=index)
        for x, y in item.points:
            if not (0 <= x < width and 0 <= y < height):
                raise InvalidPoint(
                    f"Point ({x:g}, {y:g}) of object {index} is outside the picture of {width}x{height} pixels.",
                    object=index,
                    point=[value if math.isfinite(value) else None for value in (x, y)],  # JSON knows no NaN
                    width=width,
                    height=height,
                )


def to_prompt(item: JobObject) -> Prompt:
    """The object's points as arrays."""
    return Prompt(points=np.array(item.points, np.float32), labels=np.array(item.labels, np.uint8))
