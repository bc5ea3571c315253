"""Any sequence of calls on the store does what a dictionary of jobs would do."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from pipeline.errors import ClearcutError, JobBusy, JobFinished, JobNotFound, KeyReused, Overloaded, StorageFull
from pipeline.jobs.records import IdempotencyKey
from pipeline.jobs.store import RESERVED_S, JobStore
from tests.pipeline.jobs.conftest import TTL_S, Clock
from tests.pipeline.jobs.jobs import OBJECTS, UPLOAD, let_run_out

IDS = st.sampled_from(["a", "b", "c"])
KEYS = st.none() | st.builds(IdempotencyKey, st.just("s"), st.sampled_from("kl"), st.sampled_from("fg"))
MAX_BYTES = 60
MAX_WAITING = 2


@dataclass
class Job:
    """What the model knows of a job."""

    state: str
    expires_at: float
    sizes: dict[str, int]
    run: int = 0
    progress: int = 0
    stage: str = ""
    attempts: int = 0
    deaths: int = 0
    called: bool = False
    events: list[str] = field(default_factory=list)
    began_at: int = 0  # how many events there were before this run


class Model(RuleBasedStateMachine):
    """Calls the store and the model, and compares what came of it."""

    open_store: Callable[[Clock], JobStore]

    def __init__(self) -> None:
        super().__init__()
        self.clock = Clock()
        self.store = type(self).open_store(self.clock)
        self.jobs: dict[str, Job] = {}
        self.keys: dict[str, tuple[str, str]] = {}
        self.doomed: dict[str, int] = {}
        self.callbacks = 0

    @initialize()
    def own(self) -> None:
        self.store.acquire_lease("the model", ttl_s=60)
        for job_id in self.store.doomed():
            self.store.buried(job_id)

    def teardown(self) -> None:
        self.store.close()

    # The model's half.

    def alive(self, job_id: str) -> Job | None:
        job = self.jobs.get(job_id)
        return job if job and (job.state == "processing" or job.expires_at > self.clock()) else None

    def visible(self, job_id: str) -> Job | None:
        job = self.alive(job_id)
        return job if job and job.state != "reserved" else None

    def used(self) -> int:
        return sum(sum(job.sizes.values()) for job in self.jobs.values()) + sum(self.doomed.values())

    def keyed(self, key: IdempotencyKey | None, job_id: str | None = None) -> str | type[ClearcutError] | None:
        found, fingerprint = self.keys.get(key.key, ("", "")) if key else ("", "")
        if not found or self.alive(found) is None:
            return None
        assert key is not None
        return found if fingerprint == key.fingerprint and job_id in (None, found) else KeyReused

    def forget(self, job_id: str) -> None:
        self.doomed[job_id] = sum(self.jobs.pop(job_id).sizes.values())
        self.keys = {key: tied for key, tied in self.keys.items() if tied[0] != job_id}

    def touched(self, job: Job) -> None:
        job.expires_at = self.clock() + TTL_S

    def end(self, job: Job, state: str) -> None:
        job.state = job.stage = state
        job.events.append(f"end {state}")
        self.callbacks += job.called

    # Both halves.

    @rule(job_id=IDS, size=st.integers(0, 40), key=KEYS)
    def reserve(self, job_id: str, size: int, key: IdempotencyKey | None) -> None:
        def call() -> object:
            return self.store.reserve(job_id, client="c", size=size, key=key, max_bytes=MAX_BYTES).job_id

        earlier = self.keyed(key)
        if earlier is KeyReused:
            return self.refused(KeyReused, call)
        if isinstance(earlier, str):
            assert call() == earlier
            if self.jobs[earlier].state == "reserved":
                self.jobs[earlier].expires_at = self.clock() + RESERVED_S
            return None
        if job_id in self.jobs or job_id in self.doomed:
            return self.refused(JobBusy, call)
        if self.used() + size > MAX_BYTES:
            return self.refused(StorageFull, call)
        assert call() == job_id
        self.jobs[job_id] = Job("reserved", self.clock() + RESERVED_S, {"reserved": size})
        if key:
            self.keys[key.key] = (job_id, key.fingerprint)
        return None

    @rule(job_id=IDS, size=st.integers(0, 40))
    def create(self, job_id: str, size: int) -> None:
        job = self.alive(job_id)
        if job is None:
            return self.refused(JobNotFound, lambda: self.store.create(job_id, width=7, height=5, size=size))
        self.store.create(job_id, width=7, height=5, size=size)
        if job.state == "reserved":
            job.state = job.stage = "uploaded"
            job.sizes = {"original.png": size}
            self.touched(job)
        return None

    @rule(job_id=IDS, key=KEYS, called=st.booleans())
    def start(self, job_id: str, key: IdempotencyKey | None, called: bool) -> None:
        def call() -> bool:
            url = "https://example.org/" if called else None
            return self.store.start(
                job_id, OBJECTS, keep_files=UPLOAD, callback_url=url, key=key, max_waiting=MAX_WAITING
            )[1]

        job = self.visible(job_id)
        if job is None:
            return self.refused(JobNotFound, call)
        earlier = self.keyed(key, job_id)
        if earlier is KeyReused:
            return self.refused(KeyReused, call)
        if earlier is not None:
            assert not call()
            return None
        if job.state == "processing":
            return self.refused(JobBusy, call)
        if sum(other.state == "processing" for other in self.jobs.values()) >= MAX_WAITING:
            return self.refused(Overloaded, call)
        assert call()
        job.state, job.stage, job.called = "processing", "queued", called
        job.run += 1
        job.progress = job.attempts = job.deaths = 0
        job.sizes = {name: size for name, size in job.sizes.items() if name in UPLOAD}
        job.began_at = len(job.events)
        job.events.append("stage queued")
        self.touched(job)
        if key:
            self.keys[key.key] = (job_id, key.fingerprint)
        return None

    @rule(
        job_id=IDS,
        behind=st.sampled_from([0, 0, 0, 1]),
        what=st.sampled_from(["begin", "requeue", "died", "advance", "ready", "error"]),
        progress=st.integers(0, 100),
        stage=st.sampled_from([None, "loading", "cutting"]),
        name=st.sampled_from([None, "m", "n"]),
        size=st.integers(1, 9),
    )
    def work(
        self, job_id: str, behind: int, what: str, progress: int, stage: str | None, name: str | None, size: int
    ) -> None:
        job = self.jobs.get(job_id)
        run = (job.run if job else 1) - behind
        calls = {
            "begin": lambda: self.store.begin(job_id, run),
            "requeue": lambda: self.store.requeue(job_id, run),
            "died": lambda: self.store.requeue(job_id, run, died=True),
            "advance": lambda: self.store.advance(
                job_id, run, stage=stage, progress=progress, add_file=name, size=size if name else 0
            ),
            "ready": lambda: self.store.finish(job_id, run),
            "error": lambda: self.store.finish(job_id, run, error="It failed."),
        }
        if job is None or job.state != "processing" or run != job.run:
            return self.refused(JobNotFound, calls[what])
        calls[what]()
        self.touched(job)
        stage = "queued" if what in ("requeue", "died") else stage if what == "advance" else None
        job.attempts += what == "begin"
        job.deaths += what == "died"
        if stage and stage != job.stage:
            job.stage = stage
            job.events.append(f"stage {stage}")
        if what == "advance":
            job.progress = max(job.progress, progress)
            if name and name not in job.sizes:
                job.events.append(f"artifact {name}")
            if name:
                job.sizes[name] = size
        if what in ("ready", "error"):
            job.progress = 100 if what == "ready" else job.progress
            self.end(job, what)
            job.stage = "done" if what == "ready" else "failed"
        return None

    @rule(job_id=IDS)
    def cancel(self, job_id: str) -> None:
        job = self.visible(job_id)
        if job is None or job.state not in ("uploaded", "processing"):
            error = JobFinished if job else JobNotFound
            return self.refused(error, lambda: self.store.cancel(job_id, keep_files=UPLOAD))
        self.store.cancel(job_id, keep_files=UPLOAD)
        job.sizes = {name: size for name, size in job.sizes.items() if name in UPLOAD}
        self.touched(job)
        self.end(job, "canceled")
        return None

    @rule(job_id=IDS)
    def delete(self, job_id: str) -> None:
        if self.alive(job_id) is None:
            return self.refused(JobNotFound, lambda: self.store.delete(job_id))
        self.store.delete(job_id)
        self.forget(job_id)
        return None

    @rule(seconds=st.sampled_from([1.0, RESERVED_S, TTL_S]))
    def wait(self, seconds: float) -> None:
        self.clock.seconds += seconds

    @rule()
    def forget_expired(self) -> None:
        over = {job_id for job_id in self.jobs if self.alive(job_id) is None}
        assert set(self.store.forget_expired()) == over
        for job_id in over:
            self.forget(job_id)

    @precondition(lambda self: self.doomed)
    @rule()
    def bury(self) -> None:
        job_id = min(self.doomed)
        self.store.buried(job_id)
        del self.doomed[job_id]

    @precondition(lambda self: self.callbacks)
    @rule(arrived=st.booleans())
    def call_back(self, arrived: bool) -> None:
        delivery = self.store.due_deliveries(1)[0]
        if arrived:
            self.store.delivered(delivery.delivery_id)
        else:
            self.store.postpone_delivery(delivery.delivery_id, until=None)
        self.callbacks -= 1

    @rule()
    def restart(self) -> None:
        self.store.close()
        self.store = type(self).open_store(self.clock)
        let_run_out(self.store)
        self.store.acquire_lease("its successor", ttl_s=60)

    def refused(self, error: type[ClearcutError], call: Callable[[], object]) -> None:
        with pytest.raises(error):
            call()

    @invariant()
    def they_agree(self) -> None:
        assert self.store.used_bytes() == self.used()
        assert set(self.store.doomed()) == set(self.doomed)
        assert {record.job_id for record in self.store.unfinished()} == {
            job_id for job_id, job in self.jobs.items() if job.state == "processing"
        }
        assert len(self.store.due_deliveries(1000)) == self.callbacks
        for job_id in "abc":
            job = self.visible(job_id)
            if job is None:
                self.refused(JobNotFound, lambda job_id=job_id: self.store.get(job_id))  # type: ignore[misc]
                continue
            record = self.store.get(job_id)
            assert (record.state, record.stage, record.run) == (job.state, job.stage, job.run)
            assert (record.progress, record.attempts, record.deaths) == (job.progress, job.attempts, job.deaths)
            assert (record.expires_at, record.bytes_stored) == (job.expires_at, sum(job.sizes.values()))
            assert set(record.files) == set(job.sizes)
            events = self.store.events_after(job_id, 0)
            told = [f"{event.kind} {event.name}" for event in events]
            assert told == job.events[len(job.events) - len(told) :]
            assert [event.number for event in events] == [
                number for number, _ in enumerate(job.events, 1) if number > len(job.events) - len(told)
            ]
            assert len(told) >= len(job.events) - job.began_at


@pytest.mark.slow
def test_the_store_does_what_a_dictionary_would(
    request: pytest.FixtureRequest, url: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    postgres = None if url.startswith("sqlite") else request.getfixturevalue("postgres_server")

    class Machine(Model):
        def __init__(self) -> None:
            self.context = postgres.database() if postgres else None
            place = self.context.__enter__() if self.context else f"sqlite:///{tmp_path_factory.mktemp('m')}/jobs.db"
            type(self).open_store = staticmethod(lambda clock: JobStore(place, ttl_s=TTL_S, now=clock))
            super().__init__()

        def teardown(self) -> None:
            super().teardown()
            if self.context:
                self.context.__exit__(None, None, None)

    checks = [HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.filter_too_much]
    run_state_machine_as_test(
        Machine,
        settings=settings(
            max_examples=25,
            stateful_step_count=40,
            deadline=None,
            derandomize=True,
            database=None,
            suppress_health_check=checks,
        ),
    )
