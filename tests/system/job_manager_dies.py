"""Runs jobs over stub models on a small cluster, kills JobManager in their midst, and prints what callers saw.

Run by test_job_manager.py in a process of its own, since a cluster started in pytest's would outlive its tests.
"""

from __future__ import annotations

import asyncio
import collections
import json
import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import ray
from ray import serve

from deployments.job_manager import JobManager
from deployments.model_status import ModelStatus
from deployments.remote_jobs import RemoteJobs
from pipeline.config import Settings
from pipeline.jobs.artifacts import open_artifacts
from pipeline.jobs.records import JobObject
from pipeline.jobs.store import JobStore
from tests.stub_models import ColourInpainter, DiscSegmenter, encode, photo

JOBS_BEFORE = 24
KILLS = 2
SMALL = {"num_cpus": 0.1}


@serve.deployment(name="MobileSAM", max_ongoing_requests=64, ray_actor_options=SMALL)
class StubSegmenter:
    """The stub behind a handle."""

    def __init__(self) -> None:
        self._model = DiscSegmenter()

    async def status(self) -> ModelStatus:
        return ModelStatus(await self._model.info())

    async def embed(self, image: Any, **_: Any) -> Any:
        return await self._model.embed(image)

    async def masks(self, embedding: Any, prompts: Any, candidates: int = 1, **_: Any) -> Any:
        return await self._model.masks(embedding, prompts, candidates=candidates)


@serve.deployment(name="LaMa", max_ongoing_requests=64, ray_actor_options=SMALL)
class StubInpainter:
    """The stub behind a handle, slow enough to be interrupted."""

    def __init__(self) -> None:
        self._model = ColourInpainter()

    async def status(self) -> ModelStatus:
        return ModelStatus(await self._model.info())

    async def inpaint(self, image: Any, mask: Any, **_: Any) -> Any:
        await asyncio.sleep(0.3)
        return await self._model.inpaint(image, np.array(mask))


class Caller:
    """One client's calls, and how long the slowest took."""

    def __init__(self) -> None:
        self.jobs = RemoteJobs(serve.get_deployment_handle("JobManager", "jobs"))
        self.artifacts = open_artifacts(os.environ["WORK_DIR"])
        self.accepted: list[str] = []
        self.errors: list[str] = []
        self.slowest_s: collections.Counter[str] = collections.Counter()

    async def ask(self, what: str, answer: Any) -> Any:
        begun = time.monotonic()
        try:
            return await answer
        except Exception as error:
            self.errors.append(f"{what}: {error!r}")
        finally:
            self.slowest_s[what] = max(self.slowest_s[what], round(time.monotonic() - begun, 2))

    async def add(self, job_id: str) -> None:
        data = encode(photo())
        await self.ask("reserve", self.jobs.reserve(job_id, client=job_id[0], size=len(data)))
        await asyncio.to_thread(self.artifacts.write, job_id, "original.png", data)
        await self.ask("create", self.jobs.create(job_id, width=120, height=90, size=len(data)))
        objects = (JobObject(((60.0, 45.0),), (1,)), JobObject(((20.0, 30.0),), (1,)))
        if await self.ask("segment", self.jobs.segment(job_id, objects, callback_url=f"https://example.com/{job_id}")):
            self.accepted.append(job_id)

    async def add_more(self) -> None:
        number = 0
        while True:
            await self.add(f"more{number}")
            number += 1
            await asyncio.sleep(0.2)

    async def ask_often(self) -> None:
        while True:
            await self.ask("get", self.jobs.get(self.accepted[0]))
            await asyncio.sleep(0.05)


def job_manager_pid() -> int | None:
    """The process of JobManager's replica, by the name that Ray gives it."""
    for entry in Path("/proc").iterdir():
        try:
            if entry.name.isdigit() and (entry / "cmdline").read_bytes().startswith(b"ray::ServeReplica:jobs:JobM"):
                return int(entry.name)
        except OSError:
            continue
    return None


async def measure() -> dict[str, object]:
    caller = Caller()
    for number in range(JOBS_BEFORE):
        await caller.add(f"early{number}")
    beside = [asyncio.create_task(caller.add_more()), asyncio.create_task(caller.ask_often())]
    pids = []
    for _ in range(KILLS):
        await asyncio.sleep(1.5)
        pid = job_manager_pid()
        assert pid is not None
        pids.append(pid)
        os.kill(pid, signal.SIGKILL)
        while job_manager_pid() in (None, *pids):
            await asyncio.sleep(0.1)
        await caller.ask("ready", caller.jobs.ready())
    for task in beside:
        task.cancel()
    views = [await caller.jobs.get(job_id, wait_s=60) for job_id in caller.accepted]
    ends = []
    for job_id in caller.accepted:
        events = await caller.jobs.events(job_id, after=0, wait_s=0)
        ends.append(sum(event.kind == "end" for event in events))
        progress = [event.record.progress for event in events]
        assert progress == sorted(progress)
    return {
        "accepted": len(caller.accepted),
        "states": collections.Counter(view.record.state for view in views),
        "texts": sorted({view.record.error for view in views if view.record.error}),
        "files": sorted({len(view.record.files) for view in views}),
        "attempts": collections.Counter(str(view.record.attempts) for view in views),
        "ends": collections.Counter(map(str, ends)),
        "errors": caller.errors,
        "slowest_s": caller.slowest_s,
        "processes": len(set(pids)),
    }


if __name__ == "__main__":
    ray.init(num_cpus=4, include_dashboard=False)
    serve.start(proxy_location="Disabled")
    manager = JobManager.options(ray_actor_options=SMALL).bind(StubSegmenter.bind(), StubInpainter.bind())
    serve.run(manager, name="jobs", route_prefix=None)
    result = asyncio.run(measure())
    begun = time.monotonic()
    serve.delete("jobs")
    result["stop_s"] = round(time.monotonic() - begun, 2)
    database = f"sqlite:///{Path(Settings().work_dir) / 'jobs.db'}"
    JobStore(database, ttl_s=3600).acquire_lease("test", ttl_s=5)  # raises if the replica did not give it back
    later = JobStore(database, ttl_s=3600, now=lambda: time.time() + 1e7)  # when every callback is due
    jobs = [delivery.job_id for delivery in later.due_deliveries(10_000)]
    result["callbacks"] = [len(jobs), len(set(jobs))]
    print("RESULT " + json.dumps(result))
    serve.shutdown()
    ray.shutdown()
    sys.exit(0)
