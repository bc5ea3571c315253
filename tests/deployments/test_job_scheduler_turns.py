"""Who works when: as many jobs at once as allowed, in fair turns, and what waiting jobs are told."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from pipeline.errors import JobNotFound
from tests.deployments.job_process import ONE, Process, run
from tests.stub_models import PATIENCE_S, HeldSegmenter


def begun(process: Process) -> list[str]:
    """The jobs in the order in which work on them began."""
    return [record.job_id for record in process.store.history if record.stage == "loading"]


async def test_no_more_jobs_run_at_once_than_allowed(tmp_path: Path) -> None:
    held = HeldSegmenter()
    async with run(tmp_path, segmenter=held, limits={"max_running": 2}) as process:
        for job_id in ("a", "b", "c", "d"):
            await process.begin(job_id)
        await asyncio.wait_for(held.entered.wait(), PATIENCE_S)
        held.release.set()
        for job_id in ("a", "b", "c", "d"):
            assert (await process.store.ended(job_id)).state == "ready"
    assert held.most_inside <= 2


async def test_one_clients_jobs_have_their_turns_in_the_order_of_their_coming(tmp_path: Path) -> None:
    held = HeldSegmenter()
    async with run(tmp_path, segmenter=held, limits={"max_running": 1}) as process:
        for job_id in ("c", "a", "b"):
            await process.begin(job_id)
        held.release.set()
        await process.store.ended("b")
    assert begun(process) == ["c", "a", "b"]


async def test_one_clients_many_jobs_do_not_starve_anothers_one(tmp_path: Path) -> None:
    held = HeldSegmenter()
    async with run(tmp_path, segmenter=held, limits={"max_running": 1}) as process:
        for number in range(10):
            await process.begin(f"many{number}", client="many")
        await process.begin("one", client="one")
        held.release.set()
        await process.store.ended("many9")
    assert begun(process).index("one") <= 2
    assert [job_id for job_id in begun(process) if job_id != "one"] == [f"many{number}" for number in range(10)]


async def test_a_waiting_job_knows_its_place_and_a_running_one_has_none(tmp_path: Path) -> None:
    held = HeldSegmenter()
    async with run(tmp_path, segmenter=held, limits={"max_running": 1}) as process:
        for job_id, client in (("a", "x"), ("b", "x"), ("c", "x"), ("d", "y")):
            await process.begin(job_id, client=client)
        places = {job_id: (await process.scheduler.get(job_id)).queue_position for job_id in "abcd"}
        assert places["a"] is None
        assert sorted(str(place) for job, place in places.items() if job != "a") == ["1", "2", "3"]
        assert places["d"] in (1, 2)
        await process.scheduler.cancel("b")
        assert (await process.scheduler.get("b")).queue_position is None
        held.release.set()
        await process.store.ended("c")
        assert (await process.scheduler.get("c")).queue_position is None


async def test_the_wait_is_estimated_from_the_jobs_before(tmp_path: Path) -> None:
    held = HeldSegmenter()
    async with run(tmp_path, segmenter=held, limits={"max_running": 1}) as process:
        await process.begin("a")
        await process.begin("b")
        assert (await process.scheduler.get("b")).estimated_wait_s is None
        held.release.set()
        await process.store.ended("b")
        held.release.clear()
        for job_id in ("c", "d", "e"):
            await process.begin(job_id)
        second, third = await process.scheduler.get("d"), await process.scheduler.get("e")
        assert second.estimated_wait_s is not None
        assert third.estimated_wait_s == pytest.approx(2 * second.estimated_wait_s)


async def test_a_failed_job_gives_its_turn_back(tmp_path: Path) -> None:
    async with run(tmp_path, limits={"max_running": 1}) as process:
        await process.add("no-file", upload=False)
        await process.scheduler.segment("no-file", ONE)
        assert (await process.store.ended("no-file")).state == "error"
        await process.begin("a")
        assert (await process.store.ended("a")).state == "ready"


async def test_a_deleted_job_gives_its_turn_back(tmp_path: Path) -> None:
    held = HeldSegmenter()
    async with run(tmp_path, segmenter=held, limits={"max_running": 1}) as process:
        await process.begin("a")
        await process.begin("b")
        await asyncio.wait_for(held.entered.wait(), PATIENCE_S)
        await process.scheduler.delete("a")
        held.release.set()
        assert (await process.store.ended("b")).state == "ready"
        with pytest.raises(JobNotFound):
            await process.scheduler.get("a")
