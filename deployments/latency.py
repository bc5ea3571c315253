"""Latencies of the last hour: small histograms that replicas make and JobManager merges."""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

WINDOW_MINUTES = 60
_GROWTH = 1.04
"""Buckets grow by 4 %: a percentile is off by 2 % at most."""


@dataclass
class Minute:
    """What happened in one minute: requests, and the latencies of those that succeeded."""

    requests: int = 0
    total_ms: float = 0.0
    buckets: Counter[int] = field(default_factory=Counter)


Snapshot = dict[int, Minute]
"""Minutes since the epoch, and what happened in each."""


@dataclass(frozen=True)
class LatencySummary:
    """Milliseconds of the successful requests and the count of all requests, over the last hour."""

    avg_latency_ms: float
    p50_latency_ms: float
    p95_latency_ms: float
    p99_latency_ms: float
    requests_last_hour: int


class LatencyWindow:
    """Latencies one replica saw in the last hour."""

    def __init__(self, now: Callable[[], float] = time.time) -> None:
        self._now = now
        self._minutes: Snapshot = {}

    def record(self, latency_ms: float | None) -> None:
        """Counts a request; ``None`` if it did not succeed."""
        minute = self._minutes.setdefault(int(self._now() // 60), Minute())
        minute.requests += 1
        if latency_ms is not None:
            minute.total_ms += latency_ms
            minute.buckets[round(math.log(max(latency_ms, 0.01), _GROWTH))] += 1

    def snapshot(self) -> Snapshot:
        """The last hour; older minutes are dropped."""
        self._minutes = _recent(self._minutes, self._now())
        return self._minutes


class LatencyBoard:
    """What every ingress replica reported last."""

    def __init__(self, now: Callable[[], float] = time.time) -> None:
        self._now = now
        self._reports: dict[str, Snapshot] = {}

    def report(self, replica: str, snapshot: Snapshot) -> LatencySummary:
        """Keeps a replica's last hour; the summary over all of them."""
        self._reports[replica] = snapshot
        now = self._now()
        self._reports = {name: kept for name, old in self._reports.items() if (kept := _recent(old, now))}
        return summarize(minute for report in self._reports.values() for minute in report.values())


def summarize(minutes: Iterable[Minute]) -> LatencySummary:
    """Average and percentiles over ``minutes``; zeros if nothing succeeded."""
    requests, total_ms, buckets = 0, 0.0, Counter[int]()
    for minute in minutes:
        requests += minute.requests
        total_ms += minute.total_ms
        buckets.update(minute.buckets)
    count = buckets.total()
    return LatencySummary(
        avg_latency_ms=round(total_ms / count, 1) if count else 0.0,
        p50_latency_ms=_percentile(buckets, 0.50),
        p95_latency_ms=_percentile(buckets, 0.95),
        p99_latency_ms=_percentile(buckets, 0.99),
        requests_last_hour=requests,
    )


def _percentile(buckets: Counter[int], share: float) -> float:
    rank = math.ceil(share * buckets.total())
    for bucket in sorted(buckets):
        rank -= buckets[bucket]
        if rank <= 0:
            return float(round(_GROWTH**bucket, 1))
    return 0.0


def _recent(minutes: Snapshot, now: float) -> Snapshot:
    oldest = int(now // 60) - WINDOW_MINUTES
    return {minute: what for minute, what in minutes.items() if minute > oldest}
