"""What passes and what does not, in memory and in Redis alike."""

from __future__ import annotations

import asyncio

import pytest

from deployments.limits.limiter import StoredLimiter
from deployments.limits.tiers import Allowance
from tests.deployments.limits.conftest import Clock

SOME = Allowance(per_minute=30, at_once=3)
MANY_AT_ONCE = Allowance(per_minute=30, at_once=1000)


async def ask(limiter: StoredLimiter, who: str = "a", *, allowance: Allowance = SOME, cost: int = 1) -> bool:
    """Whether a request that is over at once was admitted."""
    ask.count += 1  # type: ignore[attr-defined]
    place = f"place {ask.count}"  # type: ignore[attr-defined]
    verdict = await limiter.admit(who, allowance, place=place, cost=cost)
    await limiter.leave(who, place)
    return verdict.refused is None


ask.count = 0  # type: ignore[attr-defined]


async def test_exactly_the_allowed_number_passes(limiter: StoredLimiter) -> None:
    assert [await ask(limiter) for _ in range(35)] == [True] * 30 + [False] * 5


async def test_exactly_the_allowed_number_of_simultaneous_requests_passes(limiter: StoredLimiter) -> None:
    passed = await asyncio.gather(*(ask(limiter, allowance=MANY_AT_ONCE) for _ in range(200)))

    assert sum(passed) == 30


async def test_each_unit_comes_back_a_minute_after_it_was_spent(limiter: StoredLimiter, clock: Clock) -> None:
    for _ in range(29):
        assert await ask(limiter)
    clock.seconds += 40
    assert await ask(limiter)
    clock.seconds += 20.5  # the 29 are back, the later one is not

    assert [await ask(limiter) for _ in range(30)] == [True] * 29 + [False]


async def test_any_sixty_seconds_hold_no_more_than_allowed(limiter: StoredLimiter, clock: Clock) -> None:
    passed: list[float] = []
    for _ in range(300):
        clock.seconds += 0.73
        if await ask(limiter):
            passed.append(clock.seconds)

    for start in passed:
        assert sum(start <= at < start + 60 for at in passed) <= 30
    assert len(passed) >= 3 * 30


async def test_clients_do_not_share_their_limits(limiter: StoredLimiter) -> None:
    for _ in range(30):
        await ask(limiter, "a")

    assert not await ask(limiter, "a")
    assert await ask(limiter, "b")


async def test_a_batch_counts_its_images_all_or_nothing(limiter: StoredLimiter) -> None:
    assert (await limiter.charge("a", SOME, cost=20)).remaining == 10

    refused = await limiter.charge("a", SOME, cost=11)

    assert (refused.refused, refused.remaining) == ("per_minute", 10)
    assert (await limiter.charge("a", SOME, cost=10)).remaining == 0


async def test_a_refused_request_learns_when_it_may_pass(limiter: StoredLimiter, clock: Clock) -> None:
    for _ in range(30):
        assert await ask(limiter)
        clock.seconds += 1

    one = await limiter.charge("a", SOME, cost=1)
    five = await limiter.charge("a", SOME, cost=5)
    too_many = await limiter.charge("a", SOME, cost=31)

    assert one.retry_after_s == pytest.approx(30, abs=0.001)
    assert five.retry_after_s == pytest.approx(34, abs=0.001)
    assert too_many.retry_after_s == 60
    clock.seconds += 33.9
    assert (await limiter.charge("a", SOME, cost=5)).refused
    clock.seconds += 0.2
    assert not (await limiter.charge("a", SOME, cost=5)).refused


async def test_a_verdict_tells_where_the_client_stands(limiter: StoredLimiter, clock: Clock) -> None:
    await limiter.admit("a", SOME, place="1")
    spent_at = clock.seconds
    clock.seconds += 10

    verdict = await limiter.admit("a", SOME, place="2")

    assert (verdict.remaining, verdict.reset_at) == (28, pytest.approx(spent_at + 60, abs=0.001))
    assert (await limiter.standing("a", SOME)).at_work == 2


async def test_a_client_that_did_nothing_has_everything_left(limiter: StoredLimiter, clock: Clock) -> None:
    standing = await limiter.standing("a", SOME)

    assert (standing.remaining, standing.at_work, standing.reset_at) == (30, 0, clock.seconds)


async def test_the_fourth_at_once_is_refused_and_costs_nothing(limiter: StoredLimiter) -> None:
    for place in "123":
        assert not (await limiter.admit("a", SOME, place=place)).refused

    fourth = await limiter.admit("a", SOME, place="4")

    assert (fourth.refused, fourth.remaining, fourth.at_work) == ("at_once", 27, 3)
    await limiter.leave("a", "2")
    assert not (await limiter.admit("a", SOME, place="5")).refused


async def test_one_over_the_minute_takes_no_place(limiter: StoredLimiter) -> None:
    await limiter.charge("a", SOME, cost=30)

    refused = await limiter.admit("a", SOME, place="1")

    assert refused.refused == "per_minute"
    assert (await limiter.standing("a", SOME)).at_work == 0


async def test_a_request_that_is_charged_later_only_needs_one_unit_left(limiter: StoredLimiter) -> None:
    await limiter.charge("a", SOME, cost=29)

    assert not (await limiter.admit("a", SOME, place="1", cost=0)).refused
    assert not (await limiter.admit("a", SOME, place="2", cost=0)).refused

    await limiter.charge("a", SOME, cost=1)
    assert (await limiter.admit("a", SOME, place="3", cost=0)).refused == "per_minute"


async def test_leaving_twice_frees_one_place(limiter: StoredLimiter) -> None:
    await limiter.admit("a", SOME, place="1")
    await limiter.admit("a", SOME, place="2")

    await limiter.leave("a", "1")
    await limiter.leave("a", "1")

    assert (await limiter.standing("a", SOME)).at_work == 1
