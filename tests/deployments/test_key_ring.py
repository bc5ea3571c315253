"""JobManager's side of keys: it finds them, and writes down together when they were used."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from pathlib import Path

import pytest

from deployments.key_ring import KeyRing
from pipeline.config import Settings
from pipeline.errors import StorageUnavailable
from pipeline.jobs.api_keys import ApiKeys, fingerprint


class WatchedKeys(ApiKeys):
    """Counts how often uses are written; fails while told to."""

    writings = 0
    fails = False

    def used(self, times: Mapping[str, float]) -> None:
        if self.fails:
            raise StorageUnavailable("Away.")
        super().used(times)
        self.writings += 1


@pytest.fixture
def url(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path / 'jobs.db'}"


async def test_uses_are_written_down_together(url: str) -> None:
    keys = WatchedKeys(url)
    texts = [keys.create(name, "free")[1] for name in ("a", "b")]
    ring = KeyRing(lambda: keys, note_every_s=0.05, now=lambda: 7.0)

    for text in texts * 5:
        assert await ring.find(fingerprint(text) or "") is not None
    assert keys.writings == 0
    async with asyncio.timeout(10):
        while not keys.writings:
            await asyncio.sleep(0.01)

    assert [key.last_used_at for key in keys.all()] == [7.0, 7.0]
    assert keys.writings == 1
    await ring.stop()


async def test_the_last_uses_are_written_when_it_stops(url: str) -> None:
    keys = WatchedKeys(url)
    _, text = keys.create("a", "free")
    ring = KeyRing(lambda: keys, now=lambda: 7.0)
    await ring.find(fingerprint(text) or "")

    await ring.stop()

    assert [key.last_used_at for key in ApiKeys(url).all()] == [7.0]


async def test_a_database_that_is_away_is_tried_again_after_the_next_use(url: str) -> None:
    keys = WatchedKeys(url)
    _, text = keys.create("a", "free")
    ring = KeyRing(lambda: keys, note_every_s=0.01)
    keys.fails = True
    await ring.find(fingerprint(text) or "")
    while ring._used:
        await asyncio.sleep(0.01)

    keys.fails = False
    await ring.find(fingerprint(text) or "")
    async with asyncio.timeout(10):
        while not keys.writings:
            await asyncio.sleep(0.01)

    await ring.stop()


async def test_an_unknown_key_is_not_found_and_not_used(url: str) -> None:
    keys = WatchedKeys(url)
    ring = KeyRing(lambda: keys)

    assert await ring.find("0" * 64) is None
    await ring.stop()
    assert keys.writings == 0


async def test_a_ring_finds_keys_of_the_jobs_database(tmp_path: Path) -> None:
    settings = Settings(_env_file=None, work_dir=str(tmp_path), api_key_secret="pepper")
    made = ApiKeys(f"sqlite:///{tmp_path / 'jobs.db'}", secret="pepper")
    _, text = made.create("a", "pro")
    ring = KeyRing.of(settings)

    found = await ring.find(fingerprint(text) or "")

    assert found is not None
    assert (found.name, found.tier) == ("a", "pro")
    await ring.stop()


async def test_a_ring_that_was_never_asked_opens_nothing(tmp_path: Path) -> None:
    ring = KeyRing.of(Settings(_env_file=None, work_dir=str(tmp_path / "work")))

    await ring.stop()

    assert not (tmp_path / "work").exists()
