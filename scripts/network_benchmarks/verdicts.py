"""What the networks must reach on a CPU, and whether they do."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from scripts.network_benchmarks.candidates import BASELINE, Candidate
from scripts.network_benchmarks.cases import Figure
from scripts.network_benchmarks.ratios import Speedup
from scripts.network_benchmarks.starts import Start


@dataclass(frozen=True)
class Target:
    """What one case must reach.

    Attributes:
        speedup: How many times faster than the straightforward network, by an engine that keeps the limits.
        float32_only: Whether engines asked for lower precision do not count.
        resident_mib: The most it may hold after a start that finds its compiled model; None if nothing is asked.
    """

    speedup: float
    float32_only: bool = True
    resident_mib: float | None = None


TARGETS: Final[dict[str, Target]] = {
    "lite": Target(3, resident_mib=2560),
    "general": Target(2),
    "mobile-sam-encode": Target(4),
    "lama": Target(2.2, float32_only=False),
}


@dataclass
class Result:
    """What one candidate gave; with ``refusal``, why it gave nothing."""

    candidate: Candidate
    refusal: str | None = None
    seconds: list[float] = field(default_factory=list)
    speedup: Speedup | None = None
    figures: list[Figure] = field(default_factory=list)
    starts: list[Start] = field(default_factory=list)

    @property
    def is_faithful(self) -> bool:
        return all(figure.is_met for figure in self.figures)


@dataclass(frozen=True)
class Verdict:
    """One target and whether it was met; None if that was not measured."""

    text: str
    is_met: bool | None

    def __str__(self) -> str:
        return f"{self.text}: {'not measured' if self.is_met is None else 'met' if self.is_met else 'MISSED'}"


def judge(case: str, results: Sequence[Result], targets: Mapping[str, Target] = TARGETS) -> list[Verdict]:
    """The case's verdicts; each names the engine it is about, the fastest that keeps the limits."""
    target = targets.get(case)
    if target is None:
        return []
    fit = [r for r in results if r.candidate != BASELINE and r.speedup and r.is_faithful]
    if target.float32_only:
        fit = [r for r in fit if not r.candidate.is_half]
    asked = f"{case} at least {target.speedup:g}x faster"
    if not fit:
        return [Verdict(f"{asked}, by no engine that keeps the limits", False)]
    best = max(fit, key=lambda r: r.speedup.median if r.speedup else 0.0)
    assert best.speedup is not None
    verdicts = [Verdict(f"{asked}, {best.speedup} by {best.candidate}", best.speedup.median >= target.speedup)]
    if target.resident_mib is not None:
        held = best.starts[-1].resident_mib if best.starts else None
        text = f"{case} holds at most {target.resident_mib:g} MiB"
        shown = "" if held is None else f", {held:.0f} MiB by {best.candidate}"
        verdicts.append(Verdict(text + shown, None if held is None else held <= target.resident_mib))
    return verdicts
