"""The limiter of several machines: Redis counts, each change in one script."""

from __future__ import annotations

import asyncio
import secrets

from limits.aio.storage import RedisStorage
from redis.asyncio import BlockingConnectionPool, Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff

from deployments.limits.limiter import StoredLimiter
from deployments.limits.places import RedisPlaces
from deployments.limits.tiers import Allowance

SOCKET_TIMEOUT_S = 2.0
MOST_CONNECTIONS = 32
FIRST_CONNECTIONS = 8


class RedisLimiter(StoredLimiter):
    """A ``Limiter`` whose counts are in Redis. Every method raises a ``RedisError`` or ``OSError`` while it is away.

    Times of requests are those of the machines that ask: their clocks should agree, as NTP makes them.

    Args:
        url: ``redis://``, ``rediss://`` or ``unix://``.
    """

    def __init__(self, url: str) -> None:
        connections = BlockingConnectionPool.from_url(
            url,
            max_connections=MOST_CONNECTIONS,
            timeout=SOCKET_TIMEOUT_S,
            socket_timeout=SOCKET_TIMEOUT_S,
            socket_connect_timeout=SOCKET_TIMEOUT_S,
            retry=Retry(NoBackoff(), 1),  # a connection may have been closed while it was idle
        )
        self._redis = Redis.from_pool(connections)
        storage = RedisStorage(
            "async+redis://",  # only its scheme is read: the connections are ours
            implementation="redispy",
            key_prefix="clearcut",
            connection_pool=connections,  # type: ignore[arg-type]  # for Redis itself
        )
        super().__init__(storage, RedisPlaces(self._redis))

    async def ready(self) -> None:
        """Returns when Redis answers, its scripts are there, and so are connections for the first requests."""
        nobody = f"ready-{secrets.token_hex(8)}"
        allowance = Allowance(per_minute=FIRST_CONNECTIONS, at_once=FIRST_CONNECTIONS)
        places = [str(number) for number in range(FIRST_CONNECTIONS)]
        await asyncio.gather(*(self.admit(nobody, allowance, place=place) for place in places))
        await asyncio.gather(*(self.leave(nobody, place) for place in places))

    async def close(self) -> None:
        """Gives the connections back."""
        await self._redis.aclose()
