"""Places of requests at work, and what becomes of those whose replica died."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest
from redis.asyncio import Redis

from deployments.limits.places import MemoryPlaces, Places, RedisPlaces
from tests.servers.redis import RedisServer

HELD_S = 0.4


@pytest.fixture(params=["memory", "redis"])
async def places(request: pytest.FixtureRequest) -> AsyncIterator[Places]:
    if request.param == "memory":
        yield MemoryPlaces(held_s=HELD_S)
        return
    server: RedisServer = request.getfixturevalue("redis_server")
    async with Redis.from_url(server.url) as client:
        await client.flushall()
        yield RedisPlaces(client, held_s=HELD_S)


async def is_free(places: Places) -> None:
    while await places.taken("a"):
        await asyncio.sleep(0.02)


async def test_a_place_that_nobody_renews_is_free_again(places: Places) -> None:
    assert await places.take("a", "1", most=1)
    assert not await places.take("a", "2", most=1)

    async with asyncio.timeout(10):
        await is_free(places)

    assert await places.take("a", "2", most=1)


async def test_a_place_that_is_renewed_stays_taken(places: Places) -> None:
    loop = asyncio.get_running_loop()
    taken_at = loop.time()
    await places.take("a", "1", most=1)
    while (now := loop.time()) < taken_at + 2 * HELD_S:
        await places.renew("a", ["1"])
        assert not await places.take("a", "2", most=1), f"free after {now - taken_at:.2f} s"
        await asyncio.sleep(HELD_S / 20)


async def test_renewing_takes_no_place_that_was_left(places: Places) -> None:
    await places.take("a", "1", most=3)
    await places.take("a", "2", most=3)
    await places.leave("a", "1")

    await places.renew("a", ["1", "2", "3"])

    assert await places.taken("a") == 1


async def test_no_trace_of_a_client_stays_behind(redis_server: RedisServer) -> None:
    async with Redis.from_url(redis_server.url) as client:
        await client.flushall()
        places = RedisPlaces(client, held_s=HELD_S)
        await places.take("a", "1", most=1)
        assert await client.dbsize() == 1

        async with asyncio.timeout(10):
            while await client.dbsize():
                await asyncio.sleep(0.02)


async def test_clients_that_went_away_are_forgotten() -> None:
    now = 0.0
    places = MemoryPlaces(held_s=15, now=lambda: now)
    for client in range(100):
        await places.take(str(client), "1", most=1)
    now = 16

    await places.take("somebody", "1", most=1)

    assert set(places._ends) == {"somebody"}
