"""A job's work: for every tapped object its mask, its cut-out and the photo without it; then the photo without all."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from dataclasses import dataclass
from typing import Protocol, TypeVar

import numpy as np

from pipeline import codecs, compositing, masks
from pipeline.codecs import OWN_FILES
from pipeline.errors import EmptyMask
from pipeline.operations.remove_object import remove_object
from pipeline.operations.segment_objects import segment_objects
from pipeline.protocols import Inpainter, Segmenter
from pipeline.types import Image, Mask, MaskQuality, Prompt

ORIGINAL = "original.png"
FULL_INPAINTED = "full_inpainted.png"

T = TypeVar("T")


class JobReport(Protocol):
    """Where a job's progress and results go."""

    async def stage(self, name: str, progress: int) -> None:
        """The job reached a stage; ``progress`` is 0..100."""
        ...

    async def found(self, qualities: Sequence[MaskQuality]) -> None:
        """The objects were found: how large and how sure each is, in the order of the prompts."""
        ...

    async def artifact(self, name: str, data: bytes, progress: int) -> None:
        """A result is complete: keep it."""
        ...


class RunInPool(Protocol):
    """Runs CPU work off the event loop, on a bounded number of threads."""

    def __call__(self, function: Callable[[], T], /) -> Awaitable[T]: ...


async def _read_nothing(name: str) -> bytes:
    raise LookupError(name)


@dataclass(frozen=True)
class Finished:
    """What an earlier attempt at the same job left, so that it is not made again.

    Attributes:
        names: The artifacts that were reported.
        qualities: What was found of the objects; empty if that was not reported.
        read: One of those artifacts; called only for those that the rest of the work needs.
    """

    names: frozenset[str] = frozenset()
    qualities: tuple[MaskQuality, ...] = ()
    read: Callable[[str], Awaitable[bytes]] = _read_nothing


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
    run_in_pool: RunInPool,
    icc_profile: bytes | None = None,
    finished: Finished | None = None,
) -> None:
    """Makes and reports every artifact of a job, objects in parallel.

    Args:
        image: The job's ``original.png``, decoded.
        prompts: One per object, in pixels of ``image``.
        segmenter: Finds the objects.
        inpainter: Fills the holes.
        report: Receives stages and artifacts.
        run_in_pool: Where results are encoded.
        icc_profile: Colour profile of ``image``, carried into the results.
        finished: What is there already. It is neither made nor reported again, and the rest comes out the same.

    Raises:
        EmptyMask: An object has no usable mask; the other objects' results were reported all the same.
        InferenceError: A model could not answer.
    """
    finished = finished or Finished()
    found = await _find(image, prompts, segmenter, report, run_in_pool, finished)
    usable = [(index, mask) for index, mask in enumerate(found) if not masks.is_too_small(mask)]
    progress = _Progress(start=30, end=99, steps=3 * len(usable) + 1, done=len(finished.names - {ORIGINAL}))
    await report.stage("extracting", progress.now())

    async def save(name: str, encode: Callable[[], bytes]) -> None:
        if name not in finished.names:
            data = await run_in_pool(encode)
            await report.artifact(name, data, progress.step())

    async def extract(index: int, mask: Mask) -> None:
        await save(f"mask_{index}.png", lambda: codecs.encode_png(mask.astype(np.uint8) * 255))
        await save(
            f"cropped_{index}.png",
            lambda: codecs.encode_png(compositing.crop_cutout(image, mask), icc_profile=icc_profile),
        )

    async def remove(mask: Mask, *names: str) -> None:
        missing = [name for name in names if name not in finished.names]
        if not missing:
            return
        if len(missing) < len(names):
            png = await finished.read(next(name for name in names if name in finished.names))
        else:
            filled = await remove_object(image, mask, inpainter=inpainter)
            png = await run_in_pool(lambda: codecs.encode_png(filled, icc_profile=icc_profile))
        for name in missing:
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


async def _find(
    image: Image,
    prompts: Sequence[Prompt],
    segmenter: Segmenter,
    report: JobReport,
    run_in_pool: RunInPool,
    finished: Finished,
) -> list[Mask]:
    """The mask of each prompt's object; the model is asked unless every mask is there."""

    async def stored(name: str) -> Mask:
        png = await finished.read(name)
        return await run_in_pool(lambda: codecs.decode_image(png, OWN_FILES).pixels[..., 0] > 127)

    names = [f"mask_{index}.png" for index in range(len(prompts))]
    if finished.names.issuperset(names) and len(finished.qualities) == len(prompts):
        return [await stored(name) for name in names]
    await report.stage("segmenting", 5)
    objects = await segment_objects(image, prompts, segmenter=segmenter)
    await report.found([item.quality for item in objects])
    # A mask that was reported stays: the files made after it have to agree with it.
    return [
        await stored(name) if name in finished.names else item.mask for name, item in zip(names, objects, strict=True)
    ]


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

    def __init__(self, *, start: int, end: int, steps: int, done: int) -> None:
        self._start = start
        self._span = end - start
        self._steps = steps
        self._done = min(done, steps)

    def step(self) -> int:
        self._done += 1
        return self.now()

    def now(self) -> int:
        return self._start + self._span * self._done // self._steps
