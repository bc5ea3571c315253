"""How a model replica runs its engine: one inference at a time, off the event loop, on batches that fill.

Serve's ``@serve.batch`` closes a batch every few milliseconds even while the model is busy, and parked batches are
never merged: a steady stream becomes batches of one. The gate holds callers back while a batch runs and lets all of
them through at once when it ends.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from pydantic import BaseModel, ConfigDict, Field

from pipeline.errors import ClearcutError, InferenceError
from pipeline.models.memory_guard import is_out_of_memory, not_enough_memory
from pipeline.threads import step_back

Item = TypeVar("Item")
Result = TypeVar("Result")

logger = logging.getLogger("ray.serve")

MAX_BATCH_SIZE = 4
BATCH_WAIT_S = 0.002


class BatchOptions(BaseModel):
    """``user_config`` of a model deployment: what may change while it runs."""

    model_config = ConfigDict(extra="forbid")

    max_batch_size: int = Field(MAX_BATCH_SIZE, ge=1, le=64)
    batch_wait_timeout_s: float = Field(BATCH_WAIT_S, ge=0, le=1)
    stuck_after_s: float = Field(120, gt=0, description="An inference that runs longer gets the replica replaced.")


@dataclass(frozen=True)
class Inferred(Generic[Result]):
    """One item's result and the seconds its batch worked."""

    value: Result
    infer_s: float


class BatchGate:
    """The gate, the one-thread executor and the watch over a stuck inference of one replica.

    Attributes:
        stuck_after_s: Longest an inference may run before the replica counts as broken.
        batch_sizes: How many batches of each size have run.
    """

    def __init__(self) -> None:
        self._idle = asyncio.Event()
        self._idle.set()
        self._executor = ThreadPoolExecutor(1, "inference", initializer=step_back)
        self._unfinished = 0  # batches in the executor: one runs, more may wait behind it
        self._busy_since: float | None = None
        self.stuck_after_s = BatchOptions().stuck_after_s
        self.batch_sizes: Counter[int] = Counter()

    async def wait(self) -> None:
        """Returns when no batch runs."""
        await self._idle.wait()

    async def infer(
        self, function: Callable[[Sequence[Item]], Sequence[Result]], items: Sequence[Item]
    ) -> list[Inferred[Result] | ClearcutError]:
        """``function(items)`` in the executor: a result for each item, or the error that item caused."""
        self._idle.clear()
        self.batch_sizes[len(items)] += 1
        self._unfinished += 1
        if self._busy_since is None:
            self._busy_since = time.monotonic()
        try:
            return await asyncio.get_running_loop().run_in_executor(self._executor, _infer, function, items)
        finally:
            self._unfinished -= 1
            if self._unfinished:
                self._busy_since = time.monotonic()  # the next one begins
            else:
                self._busy_since = None
                self._idle.set()

    async def infer_alone(
        self, function: Callable[[Sequence[Item]], Sequence[Result]], item: Item
    ) -> Inferred[Result] | ClearcutError:
        """Like ``infer`` for one item, in a batch of its own once no other runs."""
        await self.wait()
        (result,) = await self.infer(function, [item])
        return result

    def check(self) -> None:
        """Raises ``RuntimeError`` when an inference is stuck, so that Serve replaces the replica."""
        busy_since = self._busy_since
        if busy_since is not None and time.monotonic() - busy_since > self.stuck_after_s:
            raise RuntimeError(f"An inference has been running for more than {self.stuck_after_s} s.")


def set_batching(batched: Any, options: BatchOptions) -> None:
    """Takes over batch size and wait. Serve's decorator puts both setters on the method, where no type shows them."""
    batched.set_max_batch_size(options.max_batch_size)
    batched.set_batch_wait_timeout_s(options.batch_wait_timeout_s)


def unwrap(result: Inferred[Result] | ClearcutError) -> Inferred[Result]:
    """The result; raises it if it is an error. Errors cross a batch as values so that only their own caller fails."""
    if isinstance(result, ClearcutError):
        raise result
    return result


def _infer(
    function: Callable[[Sequence[Item]], Sequence[Result]], items: Sequence[Item]
) -> list[Inferred[Result] | ClearcutError]:
    start = time.perf_counter()
    try:
        values = function(items)
    except Exception as error:
        if len(items) == 1:
            return [_ours(error)]
        # Somebody's item broke the batch: run them one by one, so that the others get their results.
        logger.warning("A batch of %d failed; running its items alone.", len(items))
        return [result for item in items for result in _infer(function, [item])]
    seconds = time.perf_counter() - start
    return [Inferred(value, seconds) for value in values]


def _ours(error: Exception) -> ClearcutError:
    if isinstance(error, ClearcutError):
        return error
    logger.error("Inference failed.", exc_info=error)
    if is_out_of_memory(error):
        return not_enough_memory()
    return InferenceError("Model inference failed")
