"""Idempotency keys: a request sent again makes no second job and no second run."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import replace

import pytest

from pipeline.errors import JobBusy, JobNotFound, KeyReused, StorageFull
from pipeline.jobs.records import IdempotencyKey, JobRecord
from pipeline.jobs.store import JobStore
from tests.pipeline.jobs.conftest import TTL_S, Clock
from tests.pipeline.jobs.jobs import OBJECTS, UPLOAD, upload

UPLOADS = IdempotencyKey("client 1 /upload", "k", "f" * 64)
STARTS = IdempotencyKey("client 1 /segment", "k", "e" * 64)
VALUES = pytest.mark.parametrize("key", ["k", "", "ü" * 3000, "a\0b", "\ud800"], ids=lambda key: ascii(key)[:12])


def start(store: JobStore, key: IdempotencyKey | None, job_id: str = "a") -> tuple[JobRecord, bool]:
    return store.start(job_id, OBJECTS, keep_files=UPLOAD, key=key)


class TestReserve:
    @VALUES
    def test_the_same_key_gives_the_same_job(self, store: JobStore, key: str) -> None:
        first = store.reserve("a", client="", size=1, key=replace(UPLOADS, key=key))
        assert store.reserve("b", client="", size=1, key=replace(UPLOADS, key=key)) == first
        assert store.used_bytes() == 1

    def test_it_gives_the_job_as_it_is_by_now(self, store: JobStore, open_store: Callable[[], JobStore]) -> None:
        store.reserve("a", client="", size=1, key=UPLOADS)
        store.create("a", width=7, height=5, size=1)
        assert store.reserve("b", client="", size=1, key=UPLOADS).state == "uploaded"
        record, _ = start(store, None)
        store.release_lease()
        successor = open_store()
        successor.acquire_lease("after a restart", ttl_s=60)
        assert successor.reserve("c", client="", size=1, key=UPLOADS) == record

    def test_it_gives_the_job_even_when_there_is_no_room_for_another(self, store: JobStore) -> None:
        store.reserve("a", client="", size=9, key=UPLOADS, max_bytes=10)
        assert store.reserve("b", client="", size=9, key=UPLOADS, max_bytes=10).job_id == "a"
        with pytest.raises(StorageFull):
            store.reserve("b", client="", size=9, max_bytes=10)

    def test_a_reservation_asked_for_again_lives_on(self, store: JobStore, clock: Clock) -> None:
        store.reserve("a", client="", size=1, key=UPLOADS)
        clock.seconds += 500
        store.reserve("b", client="", size=1, key=UPLOADS)
        clock.seconds += 500
        assert store.create("a", width=7, height=5, size=1).state == "uploaded"

    def test_another_request_with_the_key_is_refused(self, store: JobStore) -> None:
        store.reserve("a", client="", size=1, key=UPLOADS)
        with pytest.raises(KeyReused):
            store.reserve("b", client="", size=1, key=replace(UPLOADS, fingerprint="0" * 64))

    def test_another_scope_is_another_key(self, store: JobStore) -> None:
        store.reserve("a", client="", size=1, key=UPLOADS)
        other = store.reserve("b", client="", size=1, key=replace(UPLOADS, scope="client 2 /upload"))
        assert other.job_id == "b"

    def test_scope_and_key_do_not_run_into_each_other(self, store: JobStore) -> None:
        store.reserve("a", client="", size=1, key=IdempotencyKey("ab", "c", "f"))
        assert store.reserve("b", client="", size=1, key=IdempotencyKey("a", "bc", "f")).job_id == "b"

    @pytest.mark.parametrize("forget", [True, False])
    def test_the_key_of_an_expired_job_is_free(self, store: JobStore, clock: Clock, forget: bool) -> None:
        store.reserve("a", client="", size=1, key=UPLOADS)
        store.create("a", width=7, height=5, size=1)
        clock.seconds += TTL_S
        if forget:
            store.forget_expired()
        again = replace(UPLOADS, fingerprint="0" * 64)
        assert store.reserve("b", client="", size=1, key=again).job_id == "b"
        store.forget_expired()
        assert store.reserve("c", client="", size=1, key=again).job_id == "b"

    def test_the_key_of_a_deleted_job_is_free(self, store: JobStore) -> None:
        store.reserve("a", client="", size=1, key=UPLOADS)
        store.delete("a")
        assert store.reserve("b", client="", size=1, key=UPLOADS).job_id == "b"

    def test_a_refused_reservation_keeps_no_key(self, store: JobStore) -> None:
        with pytest.raises(StorageFull):
            store.reserve("a", client="", size=9, key=UPLOADS, max_bytes=8)
        assert store.reserve("b", client="", size=1, key=UPLOADS).job_id == "b"

    def test_of_racing_requests_one_makes_the_job(self, store: JobStore) -> None:
        barrier = threading.Barrier(6)
        outcomes: list[object] = []

        def reserve(job_id: str) -> None:
            barrier.wait()
            try:
                outcomes.append(store.reserve(job_id, client="", size=1, key=UPLOADS).job_id)
            except BaseException as error:
                outcomes.append(error)

        threads = [threading.Thread(target=reserve, args=(job_id,)) for job_id in "abcdef"]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(outcomes) == 6
        assert len(set(outcomes)) == 1
        assert store.used_bytes() == 1


class TestStart:
    @VALUES
    def test_the_same_key_starts_one_run(self, store: JobStore, key: str) -> None:
        upload(store)
        record, is_new = start(store, replace(STARTS, key=key))
        assert is_new
        assert start(store, replace(STARTS, key=key)) == (record, False)
        assert len(store.events_after("a", 0)) == 1

    def test_the_job_is_told_as_it_is_by_now(self, store: JobStore) -> None:
        upload(store)
        start(store, STARTS)
        finished = store.finish("a", 1)
        assert start(store, STARTS) == (finished, False)
        latest, is_new = start(store, replace(STARTS, key="another"))
        assert (latest.run, is_new) == (2, True)
        assert start(store, STARTS) == (latest, False)

    def test_it_is_told_even_when_too_many_wait(self, store: JobStore) -> None:
        upload(store)
        record, _ = start(store, STARTS)
        assert store.start("a", OBJECTS, keep_files=UPLOAD, key=STARTS, max_waiting=1) == (record, False)

    def test_another_key_finds_the_job_busy_and_is_not_kept(self, store: JobStore) -> None:
        upload(store)
        start(store, STARTS)
        other = replace(STARTS, key="another")
        with pytest.raises(JobBusy):
            start(store, other)
        store.finish("a", 1)
        assert start(store, other)[1]

    def test_another_request_with_the_key_is_refused(self, store: JobStore) -> None:
        upload(store, "a")
        upload(store, "b")
        start(store, STARTS)
        with pytest.raises(KeyReused):
            start(store, replace(STARTS, fingerprint="0" * 64))
        with pytest.raises(KeyReused):
            start(store, STARTS, "b")

    def test_the_key_goes_with_the_job(self, store: JobStore) -> None:
        upload(store, "a")
        upload(store, "b")
        start(store, STARTS, "a")
        store.delete("a")
        with pytest.raises(JobNotFound):
            start(store, STARTS, "a")
        assert start(store, STARTS, "b")[1]

    def test_of_racing_requests_one_starts_the_run(self, store: JobStore) -> None:
        upload(store)
        barrier = threading.Barrier(6)
        outcomes: list[object] = []

        def run() -> None:
            barrier.wait()
            try:
                outcomes.append(start(store, STARTS)[1])
            except BaseException as error:
                outcomes.append(error)

        threads = [threading.Thread(target=run) for _ in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert sorted(map(str, outcomes)) == ["False"] * 5 + ["True"]
        assert store.get("a").run == 1
