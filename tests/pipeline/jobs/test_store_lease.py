"""The lease: one store writes, and an older one's writes are refused."""

from __future__ import annotations

import pickle
import threading
from collections.abc import Callable

import pytest
import sqlalchemy as sa

from pipeline.errors import LeaseLost
from pipeline.jobs.records import IdempotencyKey
from pipeline.jobs.store import JobStore, LeaseHeld
from pipeline.jobs.tables import metadata
from pipeline.types import MaskQuality
from tests.pipeline.jobs.conftest import Clock
from tests.pipeline.jobs.jobs import OBJECTS, UPLOAD, end, let_run_out, process, upload

Open = Callable[[], JobStore]

WRITES = {
    "reserve": lambda store: store.reserve("new", client="", size=1),
    "reserve again": lambda store: store.reserve("new", client="", size=1, key=IdempotencyKey("s", "k", "f")),
    "create": lambda store: store.create("reserved", width=7, height=5, size=1),
    "create again": lambda store: store.create("uploaded", width=7, height=5, size=1),
    "start": lambda store: store.start("uploaded", OBJECTS, keep_files=UPLOAD),
    "begin": lambda store: store.begin("processing", 1),
    "requeue": lambda store: store.requeue("processing", 1, died=True),
    "advance": lambda store: store.advance("processing", 1, stage="late", progress=99, add_file="late.png"),
    "found": lambda store: store.found("processing", 1, (MaskQuality(0.5, 0.5),)),
    "finish": lambda store: store.finish("processing", 1),
    "cancel": lambda store: store.cancel("processing", keep_files=UPLOAD),
    "delete": lambda store: store.delete("uploaded"),
    "forget_expired": lambda store: store.forget_expired(),
    "buried": lambda store: store.buried("doomed"),
    "delivered": lambda store: store.delivered(store.due_deliveries()[0].delivery_id),
    "postpone": lambda store: store.postpone_delivery(store.due_deliveries()[0].delivery_id, until=5.0),
    "give up": lambda store: store.postpone_delivery(store.due_deliveries()[0].delivery_id, until=None),
}


def everything(store: JobStore) -> list[list[tuple[object, ...]]]:
    """All rows except the lease's."""
    with store._database.reading() as connection:
        tables = [table for table in metadata.sorted_tables if table.name != "lease"]
        return [[tuple(row) for row in connection.execute(sa.select(table))] for table in tables]


@pytest.mark.parametrize("write", WRITES.values(), ids=WRITES)
def test_nobody_writes_without_the_lease(
    store: JobStore, open_store: Open, write: Callable[[JobStore], object]
) -> None:
    other = open_store()
    fill(store)
    before = everything(store)
    with pytest.raises(LeaseLost) as refused:
        write(other)
    assert refused.value.fields["retry_after"] > 0
    assert everything(store) == before


@pytest.mark.parametrize("write", WRITES.values(), ids=WRITES)
def test_the_old_holder_writes_no_more_after_a_takeover(
    store: JobStore, open_store: Open, write: Callable[[JobStore], object]
) -> None:
    fill(store)
    let_run_out(store)
    successor = open_store()
    successor.acquire_lease("the next", ttl_s=60)
    before = everything(store)
    with pytest.raises(LeaseLost):
        write(store)
    assert everything(store) == before
    write(successor)
    if write not in (WRITES["create again"], WRITES["forget_expired"]):
        assert everything(store) != before


def fill(store: JobStore) -> None:
    store.reserve("reserved", client="", size=1)
    upload(store, "uploaded")
    process(store, "processing")
    process(store, "called", callback_url="https://example.org/")
    store.finish("called", 1)
    end(store, "doomed", "ready")
    store.delete("doomed")


def test_a_lease_is_held_until_it_runs_out(store: JobStore, open_store: Open) -> None:
    other = open_store()
    with pytest.raises(LeaseHeld) as held:
        other.acquire_lease("the next", ttl_s=60)
    assert 0 < held.value.retry_after_s <= 60
    assert "this test" in str(held.value)
    let_run_out(store)
    other.acquire_lease("the next", ttl_s=60)
    upload(other)
    with pytest.raises(LeaseHeld):
        store.acquire_lease("this test", ttl_s=60)


def test_a_lease_that_ran_out_holds_until_another_takes_it(store: JobStore) -> None:
    let_run_out(store)
    upload(store)
    store.renew_lease()
    assert store.get("a").state == "uploaded"


def test_a_renewed_lease_lasts_longer(store: JobStore, open_store: Open) -> None:
    let_run_out(store)
    store.renew_lease()
    with pytest.raises(LeaseHeld) as held:
        open_store().acquire_lease("the next", ttl_s=60)
    assert held.value.retry_after_s > 30


def test_a_lease_that_another_took_is_not_renewed(store: JobStore, open_store: Open) -> None:
    let_run_out(store)
    successor = open_store()
    successor.acquire_lease("the next", ttl_s=60)
    with pytest.raises(LeaseLost):
        store.renew_lease()
    successor.renew_lease()


def test_a_lease_never_acquired_is_not_renewed(open_store: Open) -> None:
    with pytest.raises(LeaseLost):
        open_store().renew_lease()


def test_a_released_lease_is_free_at_once(store: JobStore, open_store: Open) -> None:
    store.release_lease()
    with pytest.raises(LeaseLost):
        upload(store)
    open_store().acquire_lease("the next", ttl_s=60)


def test_releasing_a_lost_lease_leaves_the_new_one_alone(store: JobStore, open_store: Open) -> None:
    let_run_out(store)
    successor = open_store()
    successor.acquire_lease("the next", ttl_s=60)
    store.release_lease()
    upload(successor)


def test_the_holder_may_acquire_again(store: JobStore) -> None:
    store.acquire_lease("this test", ttl_s=60)
    upload(store)


def test_of_racing_stores_one_gets_the_lease(open_store: Open) -> None:
    stores = [open_store() for _ in range(4)]
    start = threading.Barrier(len(stores))
    outcomes: list[object] = []

    def acquire(store: JobStore) -> None:
        start.wait()
        try:
            store.acquire_lease("a racer", ttl_s=60)
            outcomes.append(store)
        except BaseException as error:
            outcomes.append(error)

    threads = [threading.Thread(target=acquire, args=(store,)) for store in stores]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    winners = [outcome for outcome in outcomes if isinstance(outcome, JobStore)]
    assert len(winners) == 1
    assert sum(isinstance(outcome, LeaseHeld) for outcome in outcomes) == 3
    upload(winners[0])


def test_a_takeover_waits_for_a_write_that_has_begun(store: JobStore, open_store: Open) -> None:
    """What the old holder was allowed to write is there before the new one looks."""
    upload(store)
    let_run_out(store)
    successor = open_store()
    seen: list[str] = []

    def take_over() -> None:
        successor.acquire_lease("the next", ttl_s=60)
        seen.append(successor.get("a").state)

    thread = threading.Thread(target=take_over)
    with store._write() as connection:
        thread.start()
        connection.execute(sa.text("UPDATE jobs SET state = 'canceled'"))
        thread.join(0.2)
        assert seen == []
    thread.join()
    assert seen == ["canceled"]


def test_the_time_of_postgresql_counts_there(store: JobStore, open_store: Open, url: str, clock: Clock) -> None:
    """Two machines' clocks may differ; on SQLite both stores are on one machine."""
    clock.seconds += 1_000_000
    other = open_store()
    if url.startswith("sqlite"):
        other.acquire_lease("the next", ttl_s=60)
    else:
        with pytest.raises(LeaseHeld):
            other.acquire_lease("the next", ttl_s=60)


def test_its_refusal_survives_the_way_between_processes() -> None:
    error = pickle.loads(pickle.dumps(LeaseHeld("somebody", 2.5)))
    assert isinstance(error, LeaseHeld)
    assert error.retry_after_s == 2.5
    assert "somebody" in str(error)
