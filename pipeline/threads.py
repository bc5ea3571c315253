"""Threads for work on pixels: behind the event loop in the queue for a core, and never left behind."""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import functools
import os
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")

BULK_NICENESS = 5
LEAST_PRIORITY = 19
MAX_THREADS = 32


async def in_thread(function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """What ``function`` returns in a thread of lower priority. Cancelled, it still waits for the function's end.

    A thread cannot be stopped. ``asyncio.to_thread`` would return at once, and what counts memory or work in flight
    would forget a function that still uses both.
    """
    call = functools.partial(contextvars.copy_context().run, function, *args, **kwargs)
    work = asyncio.get_running_loop().run_in_executor(_pool(), call)
    try:
        return await asyncio.shield(work)
    except asyncio.CancelledError:
        while not work.done():
            try:
                await asyncio.wait([work])
            except asyncio.CancelledError:
                continue
        if not work.cancelled():
            work.exception()  # nobody is left to hear of it
        raise


def step_back() -> None:
    """Lowers the priority of the calling thread and of those it will start, so that event loops go first.

    A loop has little to do but must do it at once: with every core busy, a request that is turned away in a tenth of a
    millisecond would wait a hundred for its turn.
    """
    thread = threading.get_native_id()
    with contextlib.suppress(OSError, AttributeError):  # not every system gives threads priorities
        niceness = os.getpriority(os.PRIO_PROCESS, thread)
        os.setpriority(os.PRIO_PROCESS, thread, min(niceness + BULK_NICENESS, LEAST_PRIORITY))


@functools.cache
def _pool() -> ThreadPoolExecutor:
    # As many as asyncio's own pool has.
    return ThreadPoolExecutor(min(MAX_THREADS, (os.cpu_count() or 1) + 4), "pixels", initializer=step_back)
