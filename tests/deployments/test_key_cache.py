"""What an ingress replica remembers of keys, and for how long."""

from __future__ import annotations

import pytest

from deployments.key_cache import FRESH_S, STALE_S, KeyCache
from pipeline.errors import Overloaded
from pipeline.jobs.api_keys import ApiKey, fingerprint


def text(number: int) -> str:
    return f"cc_{number:08x}_{number:040x}"


class Owner:
    """JobManager: it knows key 1, and counts how often it is asked."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.key: ApiKey | None = ApiKey("00000001", "owner", "bench", "free", 0.0, None, None)
        self.error: Exception | None = None
        self.seconds = 1_000_000.0

    async def look_up(self, digest: str) -> ApiKey | None:
        self.asked.append(digest)
        if self.error is not None:
            raise self.error
        return self.key if digest == fingerprint(text(1)) else None

    def cache(self, **options: int) -> KeyCache:
        return KeyCache(self.look_up, now=lambda: self.seconds, **options)


@pytest.fixture
def owner() -> Owner:
    return Owner()


async def test_a_key_is_asked_for_once_in_a_while(owner: Owner) -> None:
    cache = owner.cache()

    assert [await cache.find(text(1)) for _ in range(3)] == [owner.key] * 3
    assert len(owner.asked) == 1
    owner.seconds += FRESH_S
    await cache.find(text(1))
    assert len(owner.asked) == 2


async def test_only_a_fingerprint_leaves_the_replica(owner: Owner) -> None:
    await owner.cache().find(text(1))

    assert text(1) not in owner.asked[0]


async def test_a_revoked_key_is_refused_after_half_a_minute(owner: Owner) -> None:
    cache = owner.cache()
    await cache.find(text(1))
    owner.key = None

    owner.seconds += FRESH_S
    assert await cache.find(text(1)) is None
    owner.error = Overloaded("Away.")
    assert await cache.find(text(1)) is None


async def test_what_cannot_be_a_key_is_not_asked_for(owner: Owner) -> None:
    assert await owner.cache().find("cc_1_1") is None
    assert await owner.cache().find(text(1).upper()) is None
    assert owner.asked == []


async def test_an_unknown_key_is_asked_for_once_in_a_while(owner: Owner) -> None:
    cache = owner.cache()

    for _ in range(3):
        assert await cache.find(text(2)) is None
    assert len(owner.asked) == 1
    owner.seconds += FRESH_S
    await cache.find(text(2))
    assert len(owner.asked) == 2


async def test_a_flood_of_unknown_keys_takes_bounded_memory_and_drops_no_known_one(owner: Owner) -> None:
    cache = owner.cache(max_unknown=10)
    await cache.find(text(1))

    for number in range(2, 1000):
        await cache.find(text(number))

    assert len(cache._unknown._values) == 10
    before = len(owner.asked)
    assert await cache.find(text(1)) == owner.key
    assert len(owner.asked) == before


async def test_a_known_key_opens_while_nobody_can_be_asked(owner: Owner) -> None:
    cache = owner.cache()
    await cache.find(text(1))
    owner.error = TimeoutError()

    owner.seconds += STALE_S - 1
    assert await cache.find(text(1)) == owner.key
    owner.seconds += 1
    with pytest.raises(TimeoutError):
        await cache.find(text(1))


async def test_a_new_key_cannot_be_checked_while_nobody_can_be_asked(owner: Owner) -> None:
    owner.error = Overloaded("Away.")

    with pytest.raises(Overloaded):
        await owner.cache().find(text(1))


async def test_a_replaced_key_ends_on_time_although_it_is_remembered(owner: Owner) -> None:
    owner.key = ApiKey("00000001", "owner", "bench", "free", 0.0, None, ends_at=owner.seconds + 5)
    cache = owner.cache()
    assert await cache.find(text(1)) == owner.key

    owner.seconds += 5

    assert await cache.find(text(1)) is None
    assert len(owner.asked) == 1
