"""Jobs on the real servers: PostgreSQL and S3 beside SQLite and a folder, with restarts and an outage."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest

from pipeline.errors import JobNotFound
from pipeline.jobs.artifacts import ArtifactStore
from pipeline.operations.extract_and_remove import artifact_names
from tests.deployments.job_process import TWO, run
from tests.deployments.world import WatchedStore
from tests.servers import postgres
from tests.stub_models import PATIENCE_S, HeldSegmenter


@pytest.fixture(scope="module")
def postgres_server() -> Iterator[postgres.PostgresServer]:
    programs = postgres.programs()
    if programs is None:
        pytest.skip("PostgreSQL's server is not installed (Debian: apt-get install postgresql)")
    server = postgres.PostgresServer(programs)
    yield server
    server.remove()


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    if request.param == "sqlite":
        yield f"sqlite:///{tmp_path / 'jobs.db'}"
    else:
        with request.getfixturevalue("postgres_server").database() as found:
            yield found


async def test_a_job_lives_through_a_restart_and_a_second_run(
    url: str, artifacts: ArtifactStore, tmp_path: Path
) -> None:
    held = HeldSegmenter()
    async with run(tmp_path, store=WatchedStore(url, ttl_s=3600), artifacts=artifacts, segmenter=held) as process:
        await process.begin("a", TWO)
        await process.begin("b", TWO)
        await asyncio.wait_for(held.entered.wait(), PATIENCE_S)
        await process.scheduler.cancel("b")
    async with run(tmp_path, store=WatchedStore(url, ttl_s=3600), artifacts=artifacts) as process:
        first = await process.store.ended("a")
        assert first.state == "ready"
        files = process.files(first)
        await process.scheduler.segment("a", TWO)
        second = await process.store.ended("a")
        assert sorted(files) == sorted(artifact_names(2))
        assert process.files(second) == files
        await process.scheduler.delete("a")
        await process.scheduler.delete("b")
        with pytest.raises(JobNotFound):
            await process.scheduler.get("a")
        assert list(artifacts.job_ids()) == []


@pytest.mark.slow
async def test_an_outage_of_postgresql_heals(
    postgres_server: postgres.PostgresServer, tmp_path: Path, service_log: pytest.LogCaptureFixture
) -> None:
    held = HeldSegmenter()
    with postgres_server.database() as url:
        async with run(
            tmp_path, store=WatchedStore(url, ttl_s=3600), segmenter=held, renew_every_s=0.2, lease_ttl_s=2
        ) as process:
            for number in range(6):
                await process.begin(f"job{number}", TWO)
            await asyncio.wait_for(held.entered.wait(), PATIENCE_S)
            await asyncio.to_thread(postgres_server.stop)
            held.release.set()
            async with asyncio.timeout(PATIENCE_S):
                while "waits for the database" not in service_log.text:
                    await asyncio.sleep(0.02)
            await asyncio.sleep(2.5)  # the lease runs out meanwhile, and nobody takes it
            await asyncio.to_thread(postgres_server.start)
            for number in range(6):
                record = await process.store.ended(f"job{number}")
                assert (record.state, record.attempts) == ("ready", 1)
            process.scheduler.check()
