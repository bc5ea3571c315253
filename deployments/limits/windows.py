"""Moving windows in the memory of one process, as a storage of the ``limits`` library.

That library's own ``MemoryStorage`` looks through every client's window after every request, in threads, and may forget
a request that comes meanwhile. Here nothing is awaited within a change, so one event loop counts exactly.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable

from limits.aio.storage import MemoryStorage

SWEEP_EVERY_S = 60.0


class MemoryWindows(MemoryStorage):
    """For ``limits.aio.strategies.MovingWindowRateLimiter``.

    Args:
        now: The clock, in seconds since the epoch; for tests.
    """

    STORAGE_SCHEME: list[str] = []  # noqa: RUF012  not to be found by a URL

    def __init__(self, *, now: Callable[[], float] = time.time) -> None:
        super().__init__()
        self._now = now
        self._windows: dict[str, deque[float]] = {}  # by key: when each unit was spent, the oldest first
        self._expiry: dict[str, int] = {}
        self._swept_at = now()

    async def acquire_entry(self, key: str, limit: int, expiry: int, amount: int = 1) -> bool:
        """Whether ``amount`` units were free in the last ``expiry`` seconds; if so, they are spent now."""
        self._sweep()
        spent = self._spent(key, expiry)
        if len(spent) + amount > limit:
            if not spent:
                self._forget(key)
            return False
        spent.extend([self._now()] * amount)
        return True

    async def get_moving_window(self, key: str, limit: int, expiry: int) -> tuple[float, int]:
        """When the oldest of the last ``limit`` units was spent, and how many those are; now and 0 if there is none."""
        spent = self._spent(key, expiry)
        counted = min(len(spent), limit)
        if counted <= 0:
            if not spent:
                self._forget(key)
            return self._now(), 0
        return spent[-counted], counted

    def __len__(self) -> int:
        """How many windows are remembered."""
        return len(self._windows)

    def _spent(self, key: str, expiry: int) -> deque[float]:
        spent = self._windows.setdefault(key, deque())
        self._expiry[key] = expiry
        oldest = self._now() - expiry
        while spent and spent[0] < oldest:
            spent.popleft()
        return spent

    def _sweep(self) -> None:
        """Forgets clients that went away, now and then, so that memory holds those of the last minutes only."""
        now = self._now()
        if now - self._swept_at < SWEEP_EVERY_S:
            return
        self._swept_at = now
        for key in [key for key, spent in self._windows.items() if not spent or spent[-1] < now - self._expiry[key]]:
            self._forget(key)

    def _forget(self, key: str) -> None:
        del self._windows[key], self._expiry[key]
