"""The limit of removals in flight, on simulated machines that run in no time."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, field

import pytest

from deployments.concurrency import BURST, CALM_S, MAX_LIMIT, START_LIMIT, ConcurrencyLimit, Place
from scripts.benchmark_stats import percentile

IDLE_S = 0.2


@dataclass
class Machine:
    """Works on everything in flight at once; ``speed(n)`` is the share of full speed each of ``n`` gets."""

    speed: Callable[[int], float]
    now: float = 0.0
    fixed: int = 0
    work: dict[Place, tuple[float, float]] = field(default_factory=dict)  # seconds of work left, time of arrival
    latencies: list[float] = field(default_factory=list)
    refused: int = 0

    def __post_init__(self) -> None:
        self.limit = ConcurrencyLimit(self.fixed, now=lambda: self.now)

    def offer(self, work_s: float = IDLE_S) -> Place | None:
        place = self.limit.admit()
        if place is None:
            self.refused += 1
            return None
        self.work[place] = (work_s, self.now)
        return place

    def run_until(self, then: float) -> None:
        while self.work:
            speed = self.speed(len(self.work))
            first, (left, arrived) = min(self.work.items(), key=lambda item: item[1][0])
            if self.now + left / speed > then:
                break
            self._advance(left / speed, speed)
            del self.work[first]
            first.end(answered=True)
            self.latencies.append(self.now - arrived)
        if self.work:
            self._advance(then - self.now, self.speed(len(self.work)))
        self.now = then

    def _advance(self, seconds: float, speed: float) -> None:
        self.now += seconds
        self.work = {place: (left - seconds * speed, at) for place, (left, at) in self.work.items()}

    def idle_requests(self, count: int = 5, work_s: float = IDLE_S) -> None:
        for _ in range(count):
            self.offer(work_s)
            self.run_until(self.now + 1.0)

    def flood(self, per_s: float, seconds: float, seed: int = 3) -> None:
        """Requests at random moments that wait for nobody; their sizes differ by a factor of two."""
        chance = random.Random(seed)
        end = self.now + seconds
        while self.now < end:
            self.run_until(self.now + chance.expovariate(per_s))
            self.offer(IDLE_S * chance.uniform(0.67, 1.33))


def cores(count: float) -> Callable[[int], float]:
    return lambda n: min(1.0, count / n)


@pytest.mark.parametrize(("count", "capacity"), [(1, 5), (1.5, 7.5), (4, 20), (16, 80)])
def test_ten_times_too_many_leave_the_latency_of_the_accepted(count: float, capacity: float) -> None:
    machine = Machine(cores(count))
    machine.idle_requests()
    machine.latencies.clear()
    machine.flood(per_s=10 * capacity, seconds=60)
    assert percentile(machine.latencies, 0.95) < 3 * IDLE_S
    assert len(machine.latencies) / 60 > 0.85 * capacity
    assert machine.refused > 0


def test_a_machine_that_starts_under_pressure_learns_its_idle_latency_by_letting_requests_run_alone() -> None:
    machine = Machine(cores(1.5))
    machine.flood(per_s=75, seconds=20)
    assert machine.limit.idle_s == pytest.approx(IDLE_S, rel=0.35)
    machine.latencies.clear()
    machine.flood(per_s=75, seconds=40)
    assert percentile(machine.latencies, 0.95) < 3 * IDLE_S


def test_nobody_is_refused_on_an_unknown_machine_before_it_is_full() -> None:
    machine = Machine(cores(1))
    places = [machine.offer() for _ in range(int(START_LIMIT) + BURST)]
    assert None not in places
    assert machine.offer() is None


def test_a_short_burst_is_let_in_once_and_again_after_a_calm_time() -> None:
    machine = Machine(cores(2))
    machine.idle_requests()
    limit = machine.limit.limit

    def crowd() -> int:
        taken = sum(machine.offer() is not None for _ in range(50))
        machine.run_until(machine.now + 30 * IDLE_S)
        return taken

    assert crowd() >= limit + BURST
    assert crowd() <= limit + 2, "no calm since the last one"
    machine.now += CALM_S
    assert crowd() >= BURST


def test_where_work_in_parallel_is_free_the_limit_grows_to_its_maximum() -> None:
    machine = Machine(cores(1000))
    machine.idle_requests()
    machine.flood(per_s=600, seconds=10)
    assert machine.limit.limit == MAX_LIMIT


def test_a_machine_that_slows_down_takes_fewer() -> None:
    machine = Machine(cores(8))
    machine.idle_requests()
    machine.flood(per_s=400, seconds=20)
    before = machine.limit.limit
    machine.speed = cores(2)
    machine.flood(per_s=400, seconds=20)
    assert machine.limit.limit <= before / 2


def test_few_requests_do_not_lower_the_limit() -> None:
    machine = Machine(cores(16))
    machine.idle_requests()
    machine.flood(per_s=400, seconds=20)
    machine.run_until(machine.now + 1)
    before = machine.limit.limit
    machine.idle_requests(50)
    assert machine.limit.limit == before


def test_the_idle_latency_is_not_learnt_from_requests_that_ran_while_others_were_refused() -> None:
    machine = Machine(cores(1))
    machine.idle_requests()
    for _ in range(200):  # alone, on a machine that turning others away makes twice as slow
        place = machine.limit.admit()
        assert place is not None
        others = iter(machine.limit.admit, None)
        for other in list(others):
            other.end(answered=False)
        machine.now += 2 * IDLE_S
        place.end(answered=True)
    assert machine.limit.idle_s == pytest.approx(IDLE_S)


def test_failures_teach_nothing() -> None:
    machine = Machine(cores(1))
    for _ in range(10):
        place = machine.limit.admit()
        assert place is not None
        machine.now += 0.001
        place.end(answered=False)
    assert machine.limit.idle_s is None


def test_an_idle_latency_that_is_old_is_measured_anew_under_pressure() -> None:
    machine = Machine(cores(1.5))
    machine.idle_requests(work_s=IDLE_S / 10)
    machine.now += 1000
    machine.flood(per_s=75, seconds=20)
    assert machine.limit.idle_s == pytest.approx(IDLE_S, rel=0.35)


def test_a_fixed_limit_stays() -> None:
    machine = Machine(cores(1), fixed=7)
    machine.idle_requests()
    machine.flood(per_s=50, seconds=20)
    assert machine.limit.limit == 7


def test_a_place_is_given_back_once() -> None:
    limit = ConcurrencyLimit(2)
    place = limit.admit()
    assert place is not None
    place.end(answered=True)
    place.end(answered=False)
    place.leave()
    assert limit.in_flight == 0
    assert not place.come_back()
    assert limit.in_flight == 0


def test_a_place_that_was_left_is_taken_by_others() -> None:
    limit = ConcurrencyLimit(1)
    slow = limit.admit()
    assert slow is not None
    slow.leave()
    quick = limit.admit()
    assert quick is not None
    assert not slow.come_back()
    quick.end(answered=True)
    assert slow.come_back()
    assert limit.in_flight == 1


def test_the_time_before_a_place_was_taken_again_does_not_count() -> None:
    machine = Machine(cores(1))
    for _ in range(5):
        place = machine.limit.admit()
        assert place is not None
        place.leave()
        machine.now += 30  # a slow sender
        assert place.come_back()
        machine.now += IDLE_S
        place.end(answered=True)
    assert machine.limit.idle_s == pytest.approx(IDLE_S)
    assert machine.limit.retry_after_s == 1
