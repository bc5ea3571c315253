"""The arithmetic of ``benchmark_networks.py``: calls that take turns, their ratios, and tables."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Speedup:
    """How many times faster than the baseline.

    Attributes:
        median: Of the ratios of neighbours: the baseline's time over the candidate's in the same round.
        lowest: The smallest of them.
        highest: The largest of them.
        of_bests: The baseline's best time over the candidate's, whichever round each was in.
    """

    median: float
    lowest: float
    highest: float
    of_bests: float

    def __str__(self) -> str:
        return f"{self.median:.2f}x ({self.lowest:.2f} to {self.highest:.2f})"


def interleave(
    calls: Mapping[str, Callable[[], object]],
    rounds: int,
    *,
    clock: Callable[[], float] = time.perf_counter,
    tick: Callable[[], object] = lambda: None,
) -> dict[str, list[float]]:
    """Seconds of every call, by name, one for each round.

    In a round each call runs once; the first of a round is the second of the round before, so that none always follows
    the same. What slows the machine for a while slows them all.
    """
    names = list(calls)
    seconds: dict[str, list[float]] = {name: [] for name in names}
    for number in range(rounds):
        first = number % len(names)
        for name in names[first:] + names[:first]:
            start = clock()
            calls[name]()
            seconds[name].append(clock() - start)
            tick()
    return seconds


def speedup(baseline: Sequence[float], candidate: Sequence[float]) -> Speedup:
    """Of times measured by ``interleave``."""
    ratios = [slow / fast for slow, fast in zip(baseline, candidate, strict=True)]
    return Speedup(statistics.median(ratios), min(ratios), max(ratios), min(baseline) / min(candidate))


def table(heading: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Text in columns as wide as they must be: the first aligned left, the others right."""
    lines = [heading, *rows]
    widths = [max(len(line[i]) for line in lines) for i in range(len(heading))]
    return "\n".join(
        "  ".join([line[0].ljust(widths[0]), *(cell.rjust(w) for cell, w in zip(line[1:], widths[1:], strict=True))])
        for line in lines
    )
