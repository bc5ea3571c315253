"""What the programs have in common: a folder, a service, a clock, a deadline, and an end that leaves nothing behind."""

from __future__ import annotations

import asyncio
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from pathlib import Path
from typing import Any, TypeVar

from scripts.chaos_parts import processes
from scripts.chaos_parts.caller import GaveUp
from scripts.chaos_parts.service import OwnService, ServiceDown

T = TypeVar("T")
Say = Callable[[str], None]
"""Prints a line of progress with the time since the start."""


def run_on_own_service(
    work: Callable[[OwnService, Say], Coroutine[Any, Any, T]],
    *,
    environment: Mapping[str, str] | None = None,
    deadline_s: float,
    keep: bool,
) -> T | None:
    """The result of ``work`` with a service that it may start and kill; None, and why on stderr, if it failed.

    Every process below this one is killed in the end: call it in a process that starts nothing else.
    """
    processes.adopt_orphans()
    folder = Path(tempfile.mkdtemp(prefix="clearcut-chaos-"))
    service = OwnService(folder, environment)
    try:
        return run_until(deadline_s, lambda say: work(service, say))
    finally:
        service.stop()
        if keep:
            print(f"log and jobs: {folder}")
        else:
            shutil.rmtree(folder, ignore_errors=True)


def run_until(deadline_s: float, work: Callable[[Say], Coroutine[Any, Any, T]]) -> T | None:
    """The result of ``work``; None, and why on stderr, if the service was down, or the deadline or a signal came."""
    began_s = time.monotonic()

    def say(what: str) -> None:
        print(f"[{time.monotonic() - began_s:4.0f} s] {what}", flush=True)

    try:
        return asyncio.run(_within(deadline_s, work(say)))
    except TimeoutError:
        print(f"not done after {deadline_s:g} s", file=sys.stderr)
    except (GaveUp, ServiceDown, asyncio.CancelledError) as error:
        print(str(error) or "interrupted", file=sys.stderr)
    return None


async def _within(deadline_s: float, work: Awaitable[T]) -> T:
    task = asyncio.ensure_future(work)
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, task.cancel)
    async with asyncio.timeout(deadline_s):
        return await task
