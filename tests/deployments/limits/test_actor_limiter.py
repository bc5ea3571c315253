"""The named actor in a real, small cluster: shared, exact, and made anew when it dies."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Iterator
from typing import Any

import pytest
import ray
from ray.exceptions import RayError

from deployments.limits.actor_limiter import NAMESPACE, ActorLimiter
from deployments.limits.fail_open import FailOpen
from deployments.limits.tiers import Allowance

SOME = Allowance(per_minute=30, at_once=1000)

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def cluster() -> Iterator[None]:
    patch = pytest.MonkeyPatch()
    patch.setenv("RAY_AUTH_MODE", "disabled")
    patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    ray.init(num_cpus=1, include_dashboard=False, log_to_driver=False, namespace="elsewhere")
    yield
    ray.shutdown()
    patch.undo()


@pytest.fixture
def name(cluster: None, request: pytest.FixtureRequest) -> Iterator[str]:
    """An actor of this test's own."""
    yield str(request.node.name)
    ray.kill(ray.get_actor(request.node.name, NAMESPACE))


async def passes(limiter: ActorLimiter | FailOpen, count: int, who: str = "a") -> int:
    """How many of ``count`` simultaneous requests are admitted."""
    verdicts = await asyncio.gather(
        *(limiter.admit(who, SOME, place=f"{id(limiter)}-{number}") for number in range(count))
    )
    return sum(not verdict.refused for verdict in verdicts)


async def ask_until_it_answers(limiter: ActorLimiter) -> None:
    async with asyncio.timeout(60):
        while True:
            try:
                return await limiter.ready()
            except RayError:
                await asyncio.sleep(0.1)


async def test_replicas_share_one_count(name: str) -> None:
    replicas = [ActorLimiter(name) for _ in range(3)]

    assert sum(await asyncio.gather(*(passes(replica, 70) for replica in replicas))) == 30


async def test_processes_share_one_count(name: str) -> None:
    @ray.remote(num_cpus=0)
    class Replica:
        async def passes(self, count: int) -> int:
            limiter = ActorLimiter(name)
            admitted = 0
            for number in range(count):
                verdict = await limiter.admit("a", SOME, place=f"{os.getpid()}-{number}")
                admitted += not verdict.refused
            return admitted

    replicas: list[Any] = [Replica.remote() for _ in range(2)]

    assert sum(await asyncio.gather(*(replica.passes.remote(60) for replica in replicas))) == 30


async def test_places_batches_and_standings_go_through(name: str) -> None:
    limiter = ActorLimiter(name)
    allowance = Allowance(per_minute=30, at_once=1)

    assert not (await limiter.admit("a", allowance, place="1")).refused
    assert (await limiter.admit("a", allowance, place="2")).refused == "at_once"
    await limiter.renew({"a": ["1"]})
    assert (await limiter.standing("a", allowance)).at_work == 1
    await limiter.leave("a", "1")
    assert (await limiter.charge("a", allowance, cost=30)).refused == "per_minute"
    assert (await limiter.charge("a", allowance, cost=29)).remaining == 0


async def test_an_actor_whose_process_dies_counts_again(name: str) -> None:
    limiter = ActorLimiter(name)
    await passes(limiter, 5)
    pid = await _pid(limiter)

    os.kill(pid, signal.SIGKILL)
    async with asyncio.timeout(60):
        while await _pid_or_none(limiter) in (None, pid):
            await asyncio.sleep(0.1)

    assert await passes(limiter, 40) == 30


async def test_an_actor_that_was_removed_is_made_anew(name: str) -> None:
    limiter = ActorLimiter(name)
    await limiter.ready()
    ray.kill(limiter._actor, no_restart=True)

    await ask_until_it_answers(limiter)

    assert await passes(limiter, 40) == 30


async def test_requests_are_limited_while_the_actor_is_away(name: str) -> None:
    shared = ActorLimiter(name)
    limiter = FailOpen(shared, pause_s=0.05, budget_s=2)
    assert await passes(limiter, 20) == 20
    ray.kill(shared._actor, no_restart=True)

    assert await passes(limiter, 20) == 10

    async with asyncio.timeout(60):
        while not limiter._is_well:
            await limiter.standing("somebody", SOME)
            await asyncio.sleep(0.05)
    assert await passes(limiter, 40, "b") == 30


async def _pid(limiter: ActorLimiter) -> int:
    def find(_: object) -> int:
        return os.getpid()

    return int(await limiter._actor.__ray_call__.remote(find))


async def _pid_or_none(limiter: ActorLimiter) -> int | None:
    try:
        async with asyncio.timeout(2):
            return await _pid(limiter)
    except (RayError, TimeoutError):
        return None
