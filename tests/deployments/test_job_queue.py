"""Fair turns: clients alternate, each client's jobs keep their order, and positions tell the truth."""

from __future__ import annotations

import random

import pytest

from deployments.job_queue import FairQueue, RunTimes, Waiting


def queue_of(*names: str) -> FairQueue:
    """Jobs named by their client's letter and a number, in this order."""
    queue = FairQueue()
    for name in names:
        queue.add(Waiting(name, client=name[0], run=1))
    return queue


def take_all(queue: FairQueue) -> list[str]:
    return [queue.take().job_id for _ in range(len(queue))]


def test_one_clients_jobs_keep_their_order() -> None:
    assert take_all(queue_of("a1", "a2", "a3")) == ["a1", "a2", "a3"]


def test_clients_take_turns() -> None:
    assert take_all(queue_of("a1", "a2", "a3", "b1", "b2", "c1")) == ["a1", "b1", "c1", "a2", "b2", "a3"]


def test_a_client_that_comes_back_queues_behind_the_others() -> None:
    queue = queue_of("a1", "b1")
    queue.take()
    queue.add(Waiting("a2", "a", 1))
    assert take_all(queue) == ["b1", "a2"]


def test_a_job_that_begins_again_comes_before_its_clients_others() -> None:
    queue = queue_of("a1", "a2", "b1")
    queue.add(Waiting("a0", "a", 1, alone=True), first=True)
    assert take_all(queue) == ["a0", "b1", "a1", "a2"]


def test_the_next_job_stays_until_it_is_taken() -> None:
    queue = queue_of("a1", "b1")
    assert queue.next() == queue.next() == queue.take()
    assert [waiting.job_id for waiting in queue] == ["b1"]


def test_a_removed_job_never_has_its_turn() -> None:
    queue = queue_of("a1", "a2", "b1")
    assert queue.remove("a1")
    assert not queue.remove("a1")
    assert queue.remove("b1")
    assert take_all(queue) == ["a2"]


def test_nothing_waits_in_an_empty_queue() -> None:
    queue = queue_of()
    assert queue.next() is None
    assert queue.position("a1") is None
    with pytest.raises(LookupError):
        queue.take()


@pytest.mark.parametrize("seed", range(20))
def test_positions_are_those_in_which_jobs_are_taken(seed: int) -> None:
    """Whatever was added, taken and removed before."""
    dice, queue = random.Random(seed), FairQueue()
    for number in range(60):
        if (dice.random() < 0.25) and len(queue):
            queue.take()
        elif dice.random() < 0.2 and len(queue):
            queue.remove(dice.choice(list(queue)).job_id)
        else:
            client = dice.choice("abcd")
            queue.add(Waiting(f"{client}{number}", client, 1), first=dice.random() < 0.1)
    places = {waiting.job_id: queue.position(waiting.job_id) for waiting in queue}
    assert len(places) > 3
    assert places == {job_id: place for place, job_id in enumerate(take_all(queue), start=1)}


def test_the_estimated_wait_follows_the_last_run_times() -> None:
    times = RunTimes()
    assert times.wait_s(1, slots=2) is None
    times.add(10)
    assert times.wait_s(1, slots=2) == 5
    assert times.wait_s(4, slots=2) == 20
    for _ in range(50):
        times.add(1)
    assert times.wait_s(2, slots=2) == pytest.approx(1, rel=0.01)
