"""Counts what clients ask for, exactly, wherever its two stores are."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Literal, Protocol

from limits import RateLimitItemPerMinute
from limits.aio.storage import MovingWindowSupport, Storage
from limits.aio.strategies import MovingWindowRateLimiter

from deployments.limits.places import MemoryPlaces, Places
from deployments.limits.tiers import Allowance
from deployments.limits.windows import MemoryWindows

WINDOW_S = 60
RETRY_BUSY_S = 1.0
"""When to come back if too many requests are at work: nobody knows, but most take about so long."""


@dataclass(frozen=True)
class Verdict:
    """Whether a request may be worked on, and where its client stands then.

    Attributes:
        refused: Which limit it is over; None if none.
        remaining: Units left in the last minute.
        reset_at: When the oldest unit spent comes back, seconds since the epoch; now if none is spent.
        at_work: Requests of the client at work, if that is known.
        retry_after_s: When a refused request may pass.
    """

    refused: Literal["per_minute", "at_once"] | None
    allowance: Allowance
    remaining: int
    reset_at: float
    at_work: int | None = None
    retry_after_s: float = 0.0


class Limiter(Protocol):
    """Judges requests of a client, ``who``. Each takes a ``place`` of a name that nobody else has, until it leaves."""

    async def ready(self) -> None:
        """Returns when it can be asked."""
        ...

    async def admit(self, who: str, allowance: Allowance, *, place: str, cost: int = 1) -> Verdict:
        """Takes a place and spends ``cost`` units, or neither. A cost of 0 asks whether one unit is left."""
        ...

    async def charge(self, who: str, allowance: Allowance, *, cost: int) -> Verdict:
        """Spends ``cost`` units, or none."""
        ...

    async def leave(self, who: str, place: str) -> None:
        """Gives a place back, if it was taken."""
        ...

    async def renew(self, held: Mapping[str, Iterable[str]]) -> None:
        """Keeps places, by client."""
        ...

    async def standing(self, who: str, allowance: Allowance) -> Verdict:
        """Where the client stands. Spends nothing."""
        ...


class StoredLimiter:
    """A ``Limiter`` on a store of moving windows and one of places.

    Args:
        windows: A storage of the ``limits`` library that has moving windows.
        places: Who is at work.
        now: The clock of the windows, in seconds since the epoch.
    """

    def __init__(self, windows: Storage, places: Places, *, now: Callable[[], float] = time.time) -> None:
        if not isinstance(windows, MovingWindowSupport):
            raise TypeError("The storage has no moving windows.")
        self._windows: MovingWindowSupport = windows
        self._strategy = MovingWindowRateLimiter(windows)
        self._places = places
        self._now = now

    @classmethod
    def in_memory(cls) -> StoredLimiter:
        """One that counts for this process."""
        return cls(MemoryWindows(), MemoryPlaces())

    async def ready(self) -> None:
        return

    async def admit(self, who: str, allowance: Allowance, *, place: str, cost: int = 1) -> Verdict:
        if not await self._places.take(who, place, most=allowance.at_once):
            verdict = await self.standing(who, allowance)
            return replace(verdict, refused="at_once", retry_after_s=RETRY_BUSY_S)
        verdict = await (self.charge(who, allowance, cost=cost) if cost else self._glance(who, allowance))
        if verdict.refused:
            await self._places.leave(who, place)
        return verdict

    async def charge(self, who: str, allowance: Allowance, *, cost: int) -> Verdict:
        spent = await self._strategy.hit(_per_minute(allowance), who, cost=cost)
        verdict = await self._count(who, allowance)
        return verdict if spent else await self._refuse(who, verdict, cost)

    async def leave(self, who: str, place: str) -> None:
        await self._places.leave(who, place)

    async def renew(self, held: Mapping[str, Iterable[str]]) -> None:
        for who, places in held.items():
            await self._places.renew(who, places)

    async def standing(self, who: str, allowance: Allowance) -> Verdict:
        verdict = await self._count(who, allowance)
        return replace(verdict, at_work=await self._places.taken(who))

    async def _glance(self, who: str, allowance: Allowance) -> Verdict:
        verdict = await self._count(who, allowance)
        return verdict if verdict.remaining else await self._refuse(who, verdict, 1)

    async def _count(self, who: str, allowance: Allowance) -> Verdict:
        stats = await self._strategy.get_window_stats(_per_minute(allowance), who)
        is_unused = stats.remaining >= allowance.per_minute
        reset_at = self._now() if is_unused else stats.reset_time
        return Verdict(None, allowance, remaining=max(0, stats.remaining), reset_at=reset_at)

    async def _refuse(self, who: str, verdict: Verdict, cost: int) -> Verdict:
        item = _per_minute(verdict.allowance)
        # The request passes when this many units are left of those spent, so when the oldest of them comes back.
        may_stay = item.amount - cost
        since, _ = await self._windows.get_moving_window(item.key_for(who), may_stay + 1, WINDOW_S)
        wait_s = since + WINDOW_S - self._now()
        return replace(verdict, refused="per_minute", retry_after_s=min(max(wait_s, 0.0), WINDOW_S))


def _per_minute(allowance: Allowance) -> RateLimitItemPerMinute:
    return RateLimitItemPerMinute(allowance.per_minute, namespace="requests")
