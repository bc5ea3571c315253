"""A job's work: for every tapped object its mask, its cut-out and the photo without it; then the photo without all."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from typing import Protocol

import numpy as np

from pipeline import codecs, compositing, masks
from pipeline.errors import EmptyMask
from pipeline.operations.remove_object import remove_object
from pipeline.operations.segment_objects import segment_objects
from pipeline.protocols import Inpainter, Segmenter
from pipeline.types import Image, Mask, MaskQuality, Prompt

ORIGINAL = "original.png"
FULL_INPAINTED = "full_inpainted.png"


class JobReport(Protocol):
    """Where a job's progress and results go."""

    async def stage(self, name: str, progress: int) -> None:
        """The job reached a stage; ``progress`` is 0..100 and never falls."""
        ...

    async def found(self, qualities: Sequence[MaskQuality]) -> None:
        """The objects were found: how large and how sure each is, in the order of the prompts."""
        ...

    async def artifact(self, name: str, data: bytes, progress: int) -> None:
        """A result is complete: keep it."""
        ...


def artifact_names(num_objects: int) -> list[str]:
    """Every file a job with so many objects leaves, the upload included."""
    per_object = [f"{kind}_{index}.png" for index in range(num_objects) for kind in ("mask", "cropped", "inpainted")]
    return [ORIGINAL, *per_object, FULL_INPAINTED]


async def extract_and_remove(
    image: Image,
    prompts: Sequence[Prompt],
    *,
    segmenter: Segmenter,
    inpainter: Inpainter,
    report: JobReport,
    run_in_pool: Callable[[Callable[[], bytes]], Awaitable[bytes]],
    icc_profile: bytes | None = None,
) -> None:
    """Makes and reports every artifact of a job, objects in parallel.

    Args:
        image: The job's ``original.png``, decoded.
        prompts: One per object, in pixels of ``image``.
        segmenter: Finds the objects.
        inpainter: Fills the holes.
        report: Receives stages and artifacts.
        run_in_pool: Runs the encoding of results off the event loop, on a bounded number of threads.
        icc_profile: Colour profile of ``image``, carried into the results.

    Raises:
        EmptyMask: An object has no usable mask; the other objects' results were reported all the same.
        InferenceError: A model could not answer.
    """
    await report.stage("segmenting", 5)
    objects = await segment_objects(image, prompts, segmenter=segmenter)
    await report.found([item.quality for item in objects])
    found = [item.mask for item in objects]
    usable = [(index, mask) for index, mask in enumerate(found) if not masks.is_too_small(mask)]
    progress = _Progress(start=30, end=99, steps=3 * len(usable) + 1)
    await report.stage("extracting", progress.start)

    async def save(name: str, encode: Callable[[], bytes]) -> None:
        data = await run_in_pool(encode)
        await report.artifact(name, data, progress.step())

    async def extract(index: int, mask: Mask) -> None:
        await save(f"mask_{index}.png", lambda: codecs.encode_png(mask.astype(np.uint8) * 255))
        await save(
            f"cropped_{index}.png",
            lambda: codecs.encode_png(compositing.crop_cutout(image, mask), icc_profile=icc_profile),
        )

    async def remove(mask: Mask, *names: str) -> None:
        filled = await remove_object(image, mask, inpainter=inpainter)
        png = await run_in_pool(lambda: codecs.encode_png(filled, icc_profile=icc_profile))
        for name in names:
            await report.artifact(name, png, progress.step())

    work = [extract(index, mask) for index, mask in usable]
    if len(usable) == len(found) == 1:  # without the one object is without them all
        work.append(remove(found[0], "inpainted_0.png", FULL_INPAINTED))
        return await _all(work)
    work += [remove(mask, f"inpainted_{index}.png") for index, mask in usable]
    await _all(work)
    if len(usable) < len(found):
        missing = min(set(range(len(found))) - {index for index, _ in usable})
        raise EmptyMask(f"Segmentation failed for object {missing}: mask too small")
    await report.stage("filling", progress.now())
    await remove(np.logical_or.reduce(found), FULL_INPAINTED)


async def _all(work: Sequence[Coroutine[object, object, None]]) -> None:
    """Runs ``work`` at once; the first error stops the rest. Nothing of it runs on afterwards."""
    try:
        async with asyncio.TaskGroup() as group:
            for item in work:
                group.create_task(item)
    except ExceptionGroup as failures:
        first = failures.exceptions[0]
        raise first from first.__cause__


class _Progress:
    """Counts equal steps from one percentage to another."""

    def __init__(self, *, start: int, end: int, steps: int) -> None:
        self.start = start
        self._span = end - start
        self._steps = steps
        self._done = 0

    def step(self) -> int:
        self._done += 1
        return self.now()

    def now(self) -> int:
        return self.start + self._span * self._done // self._steps
