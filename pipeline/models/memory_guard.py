"""Looks before an engine leaps: a batch that does not fit into memory is halved, and what cannot fit is refused.

How much one image takes is measured while the engine works: at its warm-up, and again whenever a larger batch runs.
If memory ends in spite of the guard, the batch is halved too, and a single image goes from the GPU to the CPU.
``guarded_engines.py`` puts the guard around engines.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import Final, Generic, TypeVar

import cv2

from pipeline.errors import ClearcutError, GpuMemoryExhausted, ModelNotLoaded, Overloaded
from pipeline.models.memory import Memory

RETRY_AFTER_S: Final = 30

_SIGNS: Final = (
    "out of memory",
    "can't allocate memory",
    "not enough memory",
    "cublas_status_alloc_failed",
    "bad_alloc",
    "insufficient memory",
)

Item = TypeVar("Item")
Result = TypeVar("Result")

logger = logging.getLogger(__name__)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an allocation failed: Python's, or that of a library, which say it in the text of an error."""
    if isinstance(error, MemoryError):
        return True
    return isinstance(error, RuntimeError | cv2.error) and any(sign in str(error).lower() for sign in _SIGNS)


def not_enough_memory() -> Overloaded:
    """What a caller is told when the machine's memory ended."""
    return Overloaded(
        f"Not enough memory to process this now. Try again in {RETRY_AFTER_S} seconds.", retry_after=RETRY_AFTER_S
    )


class MemoryGuard(Generic[Item, Result]):
    """Runs one kind of work in batches that fit.

    Args:
        memory: Of the device the work is done on.
        mb_per_unit: What to reckon with until it was measured.
    """

    def __init__(self, memory: Memory, *, mb_per_unit: float = 0.0) -> None:
        self._memory = memory
        self._mb_per_unit = mb_per_unit
        self._least_mb = 0.0  # what the first work took: a part of it hardly takes less
        self._most_units = 0.0  # of the largest work that was done

    def needed_mb(self, units: float) -> float:
        """What work of this size takes."""
        return max(self._least_mb, self._mb_per_unit * units)

    def run(
        self,
        items: Sequence[Item],
        units: Sequence[float],
        work: Callable[[Sequence[Item]], Sequence[Result]],
        on_cpu: Callable[[Sequence[Item]], Sequence[Result]] | None = None,
    ) -> list[Result]:
        """``work(items)``, in as many batches as memory asks for.

        Args:
            items: What to work on.
            units: The size of each, in whatever memory grows with.
            work: A result for each item.
            on_cpu: The same on the CPU, for an item that the GPU has no room for though it seemed to.

        Raises:
            GpuMemoryExhausted: Not even one item fits into the GPU's memory.
            Overloaded: Not even one fits into the machine's.
        """
        results: list[Result] = []
        while len(results) < len(items):
            start = len(results)
            stop = start + self._how_many_fit(units[start:])
            results += self._run(items[start:stop], units[start:stop], work, on_cpu)
        return results

    def _how_many_fit(self, units: Sequence[float]) -> int:
        available_mb = self._memory.available_mb()
        count = len(units)
        while self.needed_mb(sum(units[:count])) > available_mb:
            if count == 1:
                raise self._exhausted(units[0])
            count //= 2
        if count < len(units):
            logger.warning("A batch of %d goes in parts of %d: %.0f MB are free.", len(units), count, available_mb)
        return count

    def _run(
        self,
        items: Sequence[Item],
        units: Sequence[float],
        work: Callable[[Sequence[Item]], Sequence[Result]],
        on_cpu: Callable[[Sequence[Item]], Sequence[Result]] | None,
    ) -> list[Result]:
        """A batch that should fit."""
        has_worked = self._most_units > 0
        results = self._attempt(items, sum(units), work)
        if results is not None:
            return results
        self._memory.release()
        if len(items) > 1:
            half = len(items) // 2
            logger.warning("Out of memory in a batch of %d: halving it.", len(items))
            return [
                *self._run(items[:half], units[:half], work, on_cpu),
                *self._run(items[half:], units[half:], work, on_cpu),
            ]
        # A device that cannot do the very first work is no device for this engine.
        if on_cpu is None or not has_worked:
            raise self._exhausted(units[0])
        logger.warning("Out of memory on the GPU: this request runs on the CPU.")
        try:
            results = _or_none_without_memory(items, on_cpu)
        except ModelNotLoaded as error:
            raise self._exhausted(units[0]) from error
        if results is None:
            raise self._exhausted(units[0])
        return results

    def _attempt(
        self, items: Sequence[Item], units: float, work: Callable[[Sequence[Item]], Sequence[Result]]
    ) -> list[Result] | None:
        """The results, and a lesson in what they take; None if memory ended."""
        is_the_largest = units > self._most_units
        if is_the_largest:
            self._memory.start_measuring()
        results = _or_none_without_memory(items, work)
        if is_the_largest and results is not None:
            self._learn(units, self._memory.peak_mb())
        return results

    def _learn(self, units: float, peak_mb: float | None) -> None:
        self._most_units = units
        if not peak_mb:  # nobody saw it: what was reckoned with stays
            return
        self._least_mb = self._least_mb or peak_mb
        self._mb_per_unit = peak_mb / units

    def _exhausted(self, units: float) -> ClearcutError:
        needed, available = round(self.needed_mb(units)), round(self._memory.available_mb())
        logger.warning("Out of memory (%s): %d MB needed, %d MB free.", self._memory.device, needed, available)
        if self._memory.device == "cuda":
            return GpuMemoryExhausted(
                "Insufficient GPU memory to process request",
                gpu_memory_required_mb=needed,
                gpu_memory_available_mb=available,
                suggested_action=f"Retry in {RETRY_AFTER_S} seconds",
                retry_after=RETRY_AFTER_S,
            )
        return not_enough_memory()


def _or_none_without_memory(
    items: Sequence[Item], work: Callable[[Sequence[Item]], Sequence[Result]]
) -> list[Result] | None:
    try:
        return list(work(items))
    except Exception as error:
        if not is_out_of_memory(error):
            raise
        # Returned from here, not raised: the error's traceback holds the arrays that were too large.
        return None
