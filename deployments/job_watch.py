"""Waiting for a job to change, without asking the database again and again."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterator

MAX_WAIT_S = 60.0


class JobWatch:
    """Wakes those who wait for a change of a job.

    Args:
        max_waiters: How many may wait at once; beyond that nobody is refused, but nobody waits either.
    """

    def __init__(self, max_waiters: int = 400) -> None:
        self._max_waiters = max_waiters
        self._waiters: dict[str, set[Waiter]] = {}
        self._count = 0

    def changed(self, job_id: str) -> None:
        """The job is not as it was."""
        for waiter in self._waiters.get(job_id, ()):
            waiter.change.set()

    @contextlib.contextmanager
    def waiter(self, job_id: str, wait_s: float) -> Iterator[Waiter]:
        """Somebody who waits up to ``wait_s`` from now; look at the job only after this, and no change is missed."""
        if self._count >= self._max_waiters:
            wait_s = 0
        waiter = Waiter(asyncio.get_running_loop().time() + min(wait_s, MAX_WAIT_S))
        if wait_s <= 0:
            yield waiter
            return
        waiters = self._waiters.setdefault(job_id, set())
        waiters.add(waiter)
        self._count += 1
        try:
            yield waiter
        finally:
            self._count -= 1
            waiters.discard(waiter)
            if not waiters and self._waiters.get(job_id) is waiters:
                del self._waiters[job_id]


class Waiter:
    """One who waits until a deadline of the loop's clock."""

    def __init__(self, deadline: float) -> None:
        self.change = asyncio.Event()
        self._deadline = deadline

    async def wait(self) -> bool:
        """Whether the job has changed since this was last asked; False once the time is up."""
        try:
            async with asyncio.timeout_at(self._deadline):
                await self.change.wait()
        except TimeoutError:
            return False
        self.change.clear()
        return True
