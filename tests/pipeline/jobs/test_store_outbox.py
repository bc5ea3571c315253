"""Callbacks: written with the end they tell of, there until they arrived or are given up."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from pipeline.jobs.store import JobStore
from tests.pipeline.jobs.conftest import TTL_S, Clock
from tests.pipeline.jobs.jobs import OBJECTS, UPLOAD, end, process

URL = "https://example.org/done?job=1"


@pytest.mark.parametrize("state", ["ready", "error", "canceled"])
def test_the_end_of_a_job_is_to_be_told(store: JobStore, clock: Clock, state: str) -> None:
    process(store, callback_url=URL)
    assert store.due_deliveries() == []
    if state == "canceled":
        record = store.cancel("a", keep_files=UPLOAD)
    else:
        record = store.finish("a", 1, error="It failed." if state == "error" else None)
    (delivery,) = store.due_deliveries()
    assert (delivery.job_id, delivery.url, delivery.attempts, delivery.due_at) == ("a", URL, 0, clock.seconds)
    assert delivery.record == record
    assert len(delivery.delivery_id) == 32


@pytest.mark.parametrize("state", ["ready", "error", "canceled"])
def test_nobody_is_told_who_did_not_ask(store: JobStore, state: str) -> None:
    end(store, "a", state)
    assert store.due_deliveries() == []
    assert store.next_delivery_at() is None


def test_its_id_stays_and_its_attempts_are_counted(
    store: JobStore, clock: Clock, open_store: Callable[[], JobStore]
) -> None:
    process(store, callback_url=URL)
    store.finish("a", 1)
    (first,) = store.due_deliveries()
    store.postpone_delivery(first.delivery_id, until=clock.seconds + 10)
    assert store.due_deliveries() == []
    assert store.next_delivery_at() == clock.seconds + 10
    clock.seconds += 10
    (second,) = open_store().due_deliveries()
    assert (second.delivery_id, second.record, second.attempts) == (first.delivery_id, first.record, 1)


def test_one_that_arrived_is_not_sent_again(store: JobStore) -> None:
    process(store, callback_url=URL)
    store.finish("a", 1)
    (delivery,) = store.due_deliveries()
    for _ in range(2):
        store.delivered(delivery.delivery_id)
        assert store.due_deliveries() == []


def test_one_given_up_is_not_sent_again(store: JobStore) -> None:
    process(store, callback_url=URL)
    store.finish("a", 1)
    (delivery,) = store.due_deliveries()
    store.postpone_delivery(delivery.delivery_id, until=None)
    assert store.next_delivery_at() is None


def test_the_one_due_longest_comes_first_and_not_more_than_asked_for(store: JobStore, clock: Clock) -> None:
    for job_id in "bca":
        clock.seconds += 1
        process(store, job_id, callback_url=URL)
        store.finish(job_id, 1)
    assert [delivery.job_id for delivery in store.due_deliveries(2)] == ["b", "c"]
    assert [delivery.job_id for delivery in store.due_deliveries()] == ["b", "c", "a"]
    assert store.next_delivery_at() == clock.seconds - 2


def test_every_run_is_told_on_its_own(store: JobStore, clock: Clock) -> None:
    process(store, callback_url=URL)
    store.finish("a", 1)
    clock.seconds += 1
    store.start("a", OBJECTS, keep_files=UPLOAD, callback_url="https://example.net/")
    store.finish("a", 2)
    first, second = store.due_deliveries()
    assert first.delivery_id != second.delivery_id
    assert (first.url, second.url) == (URL, "https://example.net/")
    assert (first.record.run, second.record.run) == (1, 2)


def test_one_outlives_its_job(store: JobStore, clock: Clock) -> None:
    for job_id in "ab":
        process(store, job_id, callback_url=URL)
        store.finish(job_id, 1)
    store.delete("a")
    clock.seconds += TTL_S
    store.forget_expired()
    assert {delivery.job_id for delivery in store.due_deliveries()} == {"a", "b"}


def test_a_job_deleted_at_work_has_no_end_to_tell(store: JobStore) -> None:
    process(store, callback_url=URL)
    store.delete("a")
    assert store.next_delivery_at() is None
