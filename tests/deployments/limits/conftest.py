"""Limiters over real stores: memory, and a Redis server."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator

import pytest

from deployments.limits.limiter import StoredLimiter
from deployments.limits.places import MemoryPlaces
from deployments.limits.redis_limiter import RedisLimiter
from deployments.limits.windows import MemoryWindows
from tests.servers import redis


class Clock:
    """Time moved by hand."""

    def __init__(self) -> None:
        self.seconds = 1_700_000_000.25

    def __call__(self) -> float:
        return self.seconds


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture(scope="session")
def redis_server() -> Iterator[redis.RedisServer]:
    program = redis.program()
    if program is None:
        pytest.skip("Redis's server is not installed (Debian: apt-get install redis-server)")
    server = redis.RedisServer(program)
    yield server
    server.remove()


@pytest.fixture(params=["memory", "redis"])
async def limiter(
    request: pytest.FixtureRequest, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[StoredLimiter]:
    """One that counts by ``clock``; its places are by the real clock."""
    if request.param == "memory":
        yield StoredLimiter(MemoryWindows(now=clock), MemoryPlaces(), now=clock)
        return
    server: redis.RedisServer = request.getfixturevalue("redis_server")
    monkeypatch.setattr("time.time", clock)  # the library asks for the time itself
    in_redis = RedisLimiter(server.url)
    in_redis._now = clock
    await in_redis._redis.flushall()
    yield in_redis
    await in_redis.close()
