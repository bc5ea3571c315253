"""What the books notice."""

from __future__ import annotations

import pytest

from scripts.chaos_parts.ledger import Entry, Ledger
from scripts.chaos_parts.plans import TAP_SETS, Photo, Plan, Tap

PLAN = Plan(Photo("a.jpg", b""), "one", TAP_SETS["one"])
UPLOADED = {"job_id": "a", "width": 70, "height": 50}


def status(progress: int, state: str = "processing") -> dict:
    return {"status": state, "stage": "filling", "progress": progress}


@pytest.fixture
def entry() -> Entry:
    entry = Entry("key", PLAN)
    entry.uploaded(UPLOADED)
    entry.segmented()
    return entry


def test_progress_that_rises_or_rests_is_fine(entry: Entry) -> None:
    for progress in (0, 5, 5, 99):
        entry.saw(status(progress))
    entry.saw(status(100, "ready"))
    assert not entry.problems
    assert entry.ready_at_s is not None


def test_progress_that_falls_is_a_problem(entry: Entry) -> None:
    entry.saw(status(40))
    entry.saw(status(39))
    assert entry.problems == ["progress fell from 40 to 39 (filling → filling)"]


def test_progress_begins_anew_with_another_run(entry: Entry) -> None:
    entry.saw(status(100, "ready"))
    entry.begins_again(PLAN)
    entry.segmented()
    entry.saw(status(0))
    assert (entry.run, entry.problems) == (2, [])


def test_a_job_that_was_ready_stays_so(entry: Entry) -> None:
    entry.saw(status(100, "ready"))
    entry.saw(status(100))
    assert entry.problems == ["was ready and is processing"]


def test_a_key_that_gets_a_second_job_keeps_both_ids(entry: Entry) -> None:
    entry.uploaded(UPLOADED)
    assert entry.job_ids == ["a"]
    entry.uploaded({**UPLOADED, "job_id": "b"})
    assert entry.job_ids == ["a", "b"]


@pytest.mark.parametrize(("numbers", "problems"), [([1, 2, 5], 0), ([1, 2, 2], 1), ([3, 2, 4], 1)])
def test_event_numbers_rise(entry: Entry, numbers: list[int], problems: int) -> None:
    for number in numbers:
        entry.saw_event(number, status(5))
    assert len(entry.problems) == problems


def test_events_that_are_caught_up_with_may_be_older_than_a_status(entry: Entry) -> None:
    entry.saw(status(78))
    for number, progress in enumerate((0, 5, 30, 85), 1):
        entry.saw_event(number, status(progress))
    assert (entry.problems, entry.progress) == ([], 85)
    entry.saw_event(5, status(40))
    assert entry.problems == ["progress of event 5 fell from 85 to 40"]


def test_the_first_end_after_a_fault_is_of_a_job_that_was_accepted_after_it() -> None:
    old, new = Entry("1", PLAN), Entry("2", PLAN)
    old.segmented_at_s, old.ready_at_s = 9, 11
    new.segmented_at_s, new.ready_at_s = 12, 15
    assert Ledger([old, new]).first_end_after(10) == 15
    assert Ledger([old]).first_end_after(10) is None


def test_a_job_whose_owner_has_let_it_go_is_not_in_flight(entry: Entry) -> None:
    ledger = Ledger([entry, Entry("never sent", PLAN)])
    assert ledger.in_flight() == [entry]
    assert ledger.accepted() == [entry]
    entry.cancel = "asked"
    assert not ledger.in_flight()


def test_a_plan_taps_in_pixels_of_the_picture() -> None:
    plan = Plan(Photo("a.jpg", b""), "two", ((Tap(0.5, 0.9), Tap(0.1, 0, 0)), (Tap(0.999, 0.999),)))
    assert plan.request(70, 50) == {"coordinates_list": [[[35, 45], [7, 0]], [[69, 49]]], "labels": [[1, 0], [1]]}
