"""What becomes of the limits while Redis is away, or answers nothing."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Iterator

import pytest

from deployments.limits.fail_open import PATIENCE_S, SLOW_IN_A_ROW, FailOpen
from deployments.limits.limiter import StoredLimiter, Verdict
from deployments.limits.places import MemoryPlaces
from deployments.limits.redis_limiter import RedisLimiter
from deployments.limits.tiers import Allowance
from deployments.limits.windows import MemoryWindows
from tests.servers import redis

SOME = Allowance(per_minute=30, at_once=3)
PAUSE_S = 0.05


@pytest.fixture
def server() -> Iterator[redis.RedisServer]:
    """A server of the test's own, to be stopped."""
    program = redis.program()
    if program is None:
        pytest.skip("Redis's server is not installed (Debian: apt-get install redis-server)")
    started = redis.RedisServer(program)
    yield started
    started.remove()


@pytest.fixture
async def shared(server: redis.RedisServer) -> AsyncIterator[RedisLimiter]:
    limiter = RedisLimiter(server.url)
    yield limiter
    await limiter.close()


@pytest.fixture
def limiter(shared: RedisLimiter) -> FailOpen:
    return FailOpen(shared, pause_s=PAUSE_S)


async def passes(limiter: FailOpen | StoredLimiter, count: int, who: str = "a") -> int:
    """How many of ``count`` requests, one after another, are admitted."""
    admitted = 0
    for number in range(count):
        verdict = await limiter.admit(who, SOME, place=str(number))
        admitted += not verdict.refused
        await limiter.leave(who, str(number))
    return admitted


async def until_it_is_back(limiter: FailOpen, shared: RedisLimiter) -> None:
    async with asyncio.timeout(20):
        while not limiter._is_well:
            await limiter.standing("somebody", SOME)
            await asyncio.sleep(0.02)


async def test_replicas_share_what_they_count(server: redis.RedisServer, shared: RedisLimiter) -> None:
    one, other = FailOpen(shared), FailOpen(shared)

    assert await passes(one, 20) + await passes(other, 20) == 30


async def test_without_redis_requests_are_still_limited(
    limiter: FailOpen, server: redis.RedisServer, service_log: pytest.LogCaptureFixture
) -> None:
    server.stop()

    assert await passes(limiter, 35) == 30

    warnings = [record for record in service_log.records if record.levelno >= logging.WARNING]
    assert len(warnings) == 1
    assert "each replica counts for itself" in warnings[0].getMessage()


async def test_a_client_goes_on_from_where_it_stood(limiter: FailOpen, server: redis.RedisServer) -> None:
    assert await passes(limiter, 20) == 20
    server.stop()

    assert await passes(limiter, 20) == 10


async def test_requests_at_work_are_known_when_redis_goes_away(limiter: FailOpen, server: redis.RedisServer) -> None:
    for place in "123":
        assert not (await limiter.admit("a", SOME, place=place)).refused
    server.stop()

    assert (await limiter.admit("a", SOME, place="4")).refused == "at_once"
    await limiter.leave("a", "1")
    assert not (await limiter.admit("a", SOME, place="5")).refused


async def test_the_shared_count_is_taken_up_again_when_redis_is_back(
    limiter: FailOpen, shared: RedisLimiter, server: redis.RedisServer
) -> None:
    server.stop()
    await passes(limiter, 1)
    server.start()

    await until_it_is_back(limiter, shared)

    assert await passes(limiter, 5, "b") == 5
    assert (await shared.standing("b", SOME)).remaining == 25


async def test_a_frozen_redis_holds_up_one_request_only(
    limiter: FailOpen, shared: RedisLimiter, server: redis.RedisServer
) -> None:
    await passes(limiter, 1)
    server.freeze()
    try:
        began = time.monotonic()
        assert not (await limiter.admit("a", SOME, place="first")).refused
        first_s = time.monotonic() - began
        began = time.monotonic()
        await limiter.leave("a", "first")
        limiter._try_again_at = time.monotonic() + 60
        assert await passes(limiter, 20) == 20
        others_s = time.monotonic() - began
    finally:
        server.thaw()

    assert first_s >= PATIENCE_S
    assert others_s < PATIENCE_S
    limiter._try_again_at = 0
    await until_it_is_back(limiter, shared)
    assert await passes(limiter, 1)


class Slow(StoredLimiter):
    """Answers, but late."""

    late_s = 0.03

    async def charge(self, who: str, allowance: Allowance, *, cost: int) -> Verdict:
        await asyncio.sleep(self.late_s)
        return await super().charge(who, allowance, cost=cost)


async def test_one_slow_answer_counts_and_several_in_a_row_are_too_many(
    service_log: pytest.LogCaptureFixture,
) -> None:
    shared = Slow(MemoryWindows(), MemoryPlaces())
    limiter = FailOpen(shared, budget_s=0.02, patience_s=10, pause_s=60)

    for number in range(SLOW_IN_A_ROW):
        assert limiter._is_well
        assert (await limiter.charge("a", SOME, cost=1)).remaining == 29 - number

    assert not limiter._is_well
    assert "too slow" in service_log.text
    await limiter.charge("a", SOME, cost=1)
    assert (await shared.standing("a", SOME)).remaining == 30 - SLOW_IN_A_ROW


async def test_a_place_taken_by_a_late_answer_is_given_back(
    limiter: FailOpen, shared: RedisLimiter, server: redis.RedisServer
) -> None:
    await passes(limiter, 1)  # connects
    server.freeze()
    try:
        verdict = await limiter.admit("a", SOME, place="late")
    finally:
        server.thaw()

    assert not verdict.refused
    await until_it_is_back(limiter, shared)
    async with asyncio.timeout(10):
        while (await shared.standing("a", SOME)).at_work:
            await asyncio.sleep(0.02)


async def test_batches_are_counted_without_redis(limiter: FailOpen, server: redis.RedisServer) -> None:
    assert not (await limiter.charge("a", SOME, cost=20)).refused
    server.stop()

    assert (await limiter.charge("a", SOME, cost=11)).refused == "per_minute"
    assert not (await limiter.charge("a", SOME, cost=10)).refused


async def test_starting_without_redis_does_not_wait_for_ever(
    limiter: FailOpen, server: redis.RedisServer, service_log: pytest.LogCaptureFixture
) -> None:
    server.stop()

    await limiter.ready()

    assert "away" in service_log.text
    assert await passes(limiter, 1) == 1
