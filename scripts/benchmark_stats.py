"""The arithmetic of ``benchmark.py``: percentiles of stages, and the table that shows them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass


@dataclass(frozen=True)
class StageStats:
    """How long one stage took over many requests, in milliseconds."""

    count: int
    p50_ms: float
    p95_ms: float
    p99_ms: float


def parse_server_timing(header: str) -> dict[str, float]:
    """Milliseconds by name, from a ``Server-Timing`` header; entries without a duration are left out."""
    stages: dict[str, float] = {}
    for entry in header.split(","):
        name, *parameters = (part.strip() for part in entry.split(";"))
        for parameter in parameters:
            key, _, value = parameter.partition("=")
            if key.strip().lower() == "dur":
                stages[name] = float(value.strip().strip('"'))
    return stages


def percentile(values: Sequence[float], share: float) -> float:
    """The smallest value that at least ``share`` (0 to 1) of ``values`` do not pass (nearest rank)."""
    if not values:
        raise ValueError("There is no percentile of nothing.")
    ranked = sorted(values)
    return ranked[max(math.ceil(share * len(ranked)), 1) - 1]


def stage_stats(samples: Sequence[Mapping[str, float]]) -> dict[str, StageStats]:
    """Figures of each stage that occurs in ``samples``, in the order of first occurrence."""
    columns: dict[str, list[float]] = {}
    for sample in samples:
        for stage, milliseconds in sample.items():
            columns.setdefault(stage, []).append(milliseconds)
    return {
        stage: StageStats(len(column), *(round(percentile(column, share), 2) for share in (0.50, 0.95, 0.99)))
        for stage, column in columns.items()
    }


def table(stages: Mapping[str, StageStats]) -> str:
    """``stages`` as aligned text, one line each below a heading."""
    width = max([len("stage"), *map(len, stages)])
    lines = [f"{'stage':<{width}}  {'count':>6}  {'p50 ms':>9}  {'p95 ms':>9}  {'p99 ms':>9}"]
    for stage, s in stages.items():
        lines.append(f"{stage:<{width}}  {s.count:>6}  {s.p50_ms:>9.1f}  {s.p95_ms:>9.1f}  {s.p99_ms:>9.1f}")
    return "\n".join(lines)


def as_json(stages: Mapping[str, StageStats]) -> dict[str, dict[str, float]]:
    return {stage: asdict(stats) for stage, stats in stages.items()}
