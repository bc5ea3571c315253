"""Requests at work: each has a place, which ends by itself if whoever took it dies."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from redis.asyncio import Redis

HELD_S = 15.0
"""How long a place stays taken unless it is renewed: what a dead replica's clients wait for."""


class Places(Protocol):
    """Who is at work. A place is named by whoever takes it."""

    async def take(self, who: str, place: str, *, most: int) -> bool:
        """Whether fewer than ``most`` were taken; if so, ``place`` is, too."""
        ...

    async def leave(self, who: str, place: str) -> None:
        """The place is free, if it was taken."""
        ...

    async def renew(self, who: str, places: Iterable[str]) -> None:
        """The places stay taken, those that are."""
        ...

    async def taken(self, who: str) -> int:
        """How many are."""
        ...


class MemoryPlaces:
    """Places in the memory of one process."""

    def __init__(self, *, held_s: float = HELD_S, now: Callable[[], float] = time.monotonic) -> None:
        self._held_s = held_s
        self._now = now
        self._ends: dict[str, dict[str, float]] = {}
        self._swept_at = now()

    async def take(self, who: str, place: str, *, most: int) -> bool:
        self._sweep()
        ends = self._current(who)
        if len(ends) >= most:
            return False
        self._ends[who] = {**ends, place: self._now() + self._held_s}
        return True

    async def leave(self, who: str, place: str) -> None:
        ends = self._ends.get(who, {})
        ends.pop(place, None)
        if not ends:
            self._ends.pop(who, None)

    async def renew(self, who: str, places: Iterable[str]) -> None:
        ends = self._current(who)
        for place in places:
            if place in ends:
                ends[place] = self._now() + self._held_s
        if ends:
            self._ends[who] = ends

    async def taken(self, who: str) -> int:
        return len(self._current(who))

    def _current(self, who: str) -> dict[str, float]:
        now = self._now()
        return {place: end for place, end in self._ends.get(who, {}).items() if end > now}

    def _sweep(self) -> None:
        now = self._now()
        if now - self._swept_at >= self._held_s:
            self._swept_at = now
            self._ends = {who: current for who in self._ends if (current := self._current(who))}


_CLOCK = "local time = redis.call('TIME'); local now = time[1] + time[2] / 1e6;"
_TAKE = (
    _CLOCK
    + """
    redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', now)
    if redis.call('ZCARD', KEYS[1]) >= tonumber(ARGV[2]) then return 0 end
    redis.call('ZADD', KEYS[1], now + ARGV[3], ARGV[1])
    redis.call('PEXPIRE', KEYS[1], math.ceil(ARGV[3] * 1000))
    return 1
    """
)
_RENEW = (
    _CLOCK
    + """
    redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', now)
    for i = 2, #ARGV do redis.call('ZADD', KEYS[1], 'XX', now + ARGV[1], ARGV[i]) end
    redis.call('PEXPIRE', KEYS[1], math.ceil(ARGV[1] * 1000))
    """
)
_TAKEN = _CLOCK + "return redis.call('ZCOUNT', KEYS[1], now, '+inf')"


class RedisPlaces:
    """Places in Redis: of each client a sorted set, by when each place ends on Redis's clock."""

    def __init__(self, redis: Redis, *, held_s: float = HELD_S) -> None:
        self._redis = redis
        self._held_s = held_s
        self._take = redis.register_script(_TAKE)
        self._renew = redis.register_script(_RENEW)
        self._taken = redis.register_script(_TAKEN)

    async def take(self, who: str, place: str, *, most: int) -> bool:
        return bool(await self._take([_key(who)], [place, most, self._held_s]))

    async def leave(self, who: str, place: str) -> None:
        await self._redis.zrem(_key(who), place)

    async def renew(self, who: str, places: Iterable[str]) -> None:
        await self._renew([_key(who)], [self._held_s, *places])

    async def taken(self, who: str) -> int:
        return int(await self._taken([_key(who)]))


def _key(who: str) -> str:
    return f"clearcut:at-work:{who}"
