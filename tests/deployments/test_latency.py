"""Latencies of the last hour: averages, percentiles, several replicas, and time that passes."""

from __future__ import annotations

import pytest

from deployments.latency import LatencyBoard, LatencyWindow, summarize


class Clock:
    def __init__(self) -> None:
        self.seconds = 1_000_000.0

    def __call__(self) -> float:
        return self.seconds


@pytest.fixture
def clock() -> Clock:
    return Clock()


def test_nothing_recorded_is_all_zeros() -> None:
    summary = summarize([])
    assert (summary.avg_latency_ms, summary.p50_latency_ms, summary.p99_latency_ms) == (0.0, 0.0, 0.0)
    assert summary.requests_last_hour == 0


def test_one_request_is_every_percentile(clock: Clock) -> None:
    window = LatencyWindow(clock)
    window.record(72.3)
    summary = summarize(window.snapshot().values())
    assert summary.avg_latency_ms == 72.3
    for percentile in (summary.p50_latency_ms, summary.p95_latency_ms, summary.p99_latency_ms):
        assert percentile == pytest.approx(72.3, rel=0.021)


@pytest.mark.parametrize("latency_ms", [0.5, 3.0, 72.3, 1_234.0, 30_000.0])
def test_a_percentile_is_off_by_two_percent_at_most(clock: Clock, latency_ms: float) -> None:
    window = LatencyWindow(clock)
    window.record(latency_ms)
    summary = summarize(window.snapshot().values())
    assert summary.p95_latency_ms == pytest.approx(latency_ms, rel=0.021, abs=0.05)


def test_percentiles_are_nearest_ranks(clock: Clock) -> None:
    window = LatencyWindow(clock)
    for latency_ms in range(1, 101):
        window.record(float(latency_ms))
    summary = summarize(window.snapshot().values())
    assert summary.avg_latency_ms == 50.5
    assert summary.p50_latency_ms == pytest.approx(50, rel=0.03)
    assert summary.p95_latency_ms == pytest.approx(95, rel=0.03)
    assert summary.p99_latency_ms == pytest.approx(99, rel=0.03)


@pytest.mark.parametrize("latency_ms", [0.0, -1.0])
def test_no_time_at_all_is_no_failure(clock: Clock, latency_ms: float) -> None:
    window = LatencyWindow(clock)
    window.record(latency_ms)
    assert summarize(window.snapshot().values()).p50_latency_ms == 0.0


def test_failed_requests_count_without_a_latency(clock: Clock) -> None:
    window = LatencyWindow(clock)
    window.record(100.0)
    window.record(None)
    summary = summarize(window.snapshot().values())
    assert (summary.requests_last_hour, summary.avg_latency_ms) == (2, 100.0)


def test_an_hour_later_a_request_is_forgotten(clock: Clock) -> None:
    window = LatencyWindow(clock)
    window.record(10.0)
    clock.seconds += 59 * 60
    assert summarize(window.snapshot().values()).requests_last_hour == 1
    clock.seconds += 60
    assert window.snapshot() == {}


def test_the_board_adds_replicas_up(clock: Clock) -> None:
    board = LatencyBoard(clock)
    for replica, latency_ms in (("a", 10.0), ("b", 30.0)):
        window = LatencyWindow(clock)
        window.record(latency_ms)
        summary = board.report(replica, window.snapshot())
    assert (summary.requests_last_hour, summary.avg_latency_ms) == (2, 20.0)


def test_a_replica_that_reports_again_is_not_counted_twice(clock: Clock) -> None:
    board, window = LatencyBoard(clock), LatencyWindow(clock)
    for _ in range(3):
        window.record(10.0)
        summary = board.report("a", window.snapshot())
    assert summary.requests_last_hour == 3


def test_a_replica_that_is_gone_is_forgotten_after_an_hour(clock: Clock) -> None:
    board = LatencyBoard(clock)
    window = LatencyWindow(clock)
    window.record(10.0)
    board.report("gone", window.snapshot())
    clock.seconds += 3600
    assert board.report("here", {}).requests_last_hour == 0
