"""What ``benchmark.py --overload`` prints, and whether the service kept its promises."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from scripts.benchmark_stats import percentile, stage_stats
from scripts.memory_soak import Held
from scripts.overload import Overload, Phase

MOST_TIMES_IDLE = 3.0
MOST_DECISION_MS = 100.0


def figures(overload: Overload) -> dict[str, Any]:
    """The measurement as plain figures, milliseconds and MiB, for people and for JSON."""
    idle, flood = overload.idle, overload.flood
    idle_ms, accepted_ms = _spread(idle.client_ms()), _spread(flood.client_ms())
    after_ms = _spread(overload.after.client_ms())
    refusals = [answer for answer in flood.answers if answer.outcome == "refused"]
    decisions = [answer.timing_ms["admission"] for answer in refusals if "admission" in answer.timing_ms]
    others = {what: count for what, count in flood.outcomes().items() if what not in ("accepted", "refused")}
    return {
        "idle_ms": idle_ms,
        "sustainable_per_s": round(overload.sustained.rate(), 3),
        "offered_per_s": round(overload.offered_per_s, 2),
        "sent_per_s": round(len(flood.answers) / flood.seconds, 2),
        "not_sent": flood.not_sent,
        "seconds": round(flood.seconds, 1),
        "accepted": len(flood.client_ms()),
        "accepted_per_s": round(flood.rate(), 3),
        "accepted_ms": accepted_ms,
        "accepted_p95_times_idle_p95": _ratio(accepted_ms, idle_ms),
        "refused": len(refusals),
        "refused_without_retry_after": sum(not answer.has_retry_after for answer in refusals),
        "refused_decided_ms": _spread(decisions),
        "refused_decided_by_timing": len(decisions),
        "refused_client_ms": _spread(flood.client_ms("refused")),
        "other_outcomes": others,
        "client_cpu_share": round(overload.client_cpu_share, 2),
        "after_ms": after_ms,
        "after_p50_times_idle_p50": _ratio(after_ms, idle_ms, "p50"),
        "stages_p50_ms": {"idle": _stages(idle), "overload": _stages(flood)},
        "memory_mb": {name: {when: _own(held) for when, held in row.items()} for name, row in overload.memory.items()},
    }


def broken_promises(told: dict[str, Any]) -> list[str]:
    """What the service should have kept and did not, in words."""
    broken = []
    times = told["accepted_p95_times_idle_p95"]
    if times is None or times >= MOST_TIMES_IDLE:
        broken.append(f"accepted p95 is {times} times idle p95, not under {MOST_TIMES_IDLE:g}")
    decided = told["refused_decided_ms"]
    if decided and decided["p95"] >= MOST_DECISION_MS:
        broken.append(f"refusals took {decided['p95']} ms (p95), not under {MOST_DECISION_MS:g}")
    if told["refused_decided_by_timing"] != told["refused"] or told["refused_without_retry_after"]:
        broken.append("a refusal came without Server-Timing or Retry-After")
    if told["other_outcomes"]:
        broken.append(f"answers of other kinds: {told['other_outcomes']}")
    return broken


def report(told: dict[str, Any]) -> str:
    """The figures as text."""
    lines = [
        f"idle, one caller     {_text(told['idle_ms'])}",
        f"sustainable          {told['sustainable_per_s']:.2f} images/s",
        f"offered              {told['offered_per_s']:.1f} requests/s for {told['seconds']:.0f} s"
        f" ({told['sent_per_s']:.1f} sent; client used {told['client_cpu_share']:.0%} of a core)",
        f"accepted             {told['accepted']}, {told['accepted_per_s']:.2f} images/s, {_text(told['accepted_ms'])}",
        f"  p95 / idle p95     {told['accepted_p95_times_idle_p95']}",
        f"refused              {told['refused']} with 503 OVERLOADED",
        f"  decided after      {_text(told['refused_decided_ms'])} (Server-Timing)",
        f"  the client waited  {_text(told['refused_client_ms'])}",
        f"anything else        {told['other_outcomes'] or 'nothing'}; not sent: {told['not_sent']}",
        f"one caller, after    {_text(told['after_ms'])}, p50 / idle p50 {told['after_p50_times_idle_p50']}",
        *(
            f"stages p50, {when:<9}" + ", ".join(f"{stage} {ms:.0f}" for stage, ms in stages.items())
            for when, stages in told["stages_p50_ms"].items()
        ),
        f"{'own memory, MiB':<24}{'before':>9}{'peak':>9}{'after':>9}",
    ]
    for name, row in told["memory_mb"].items():
        cells = (row.get(when) for when in ("before", "peak", "after"))
        lines.append(f"  {name:<22}" + "".join(f"{'ended' if cell is None else f'{cell:.0f}':>9}" for cell in cells))
    return "\n".join(lines)


def _stages(phase: Phase) -> dict[str, float]:
    """Median of each stage inside the service, and of what the caller waited beyond them."""
    accepted = [answer for answer in phase.answers if answer.outcome == "accepted"]
    samples = [
        {**answer.timing_ms, "outside": answer.client_ms - answer.timing_ms.get("total", 0.0)} for answer in accepted
    ]
    return {stage: stats.p50_ms for stage, stats in stage_stats(samples).items()}


def _spread(values: Sequence[float]) -> dict[str, float]:
    return {f"p{share}": round(percentile(values, share / 100), 2) for share in (50, 95, 99)} if values else {}


def _ratio(first: dict[str, float], second: dict[str, float], share: str = "p95") -> float | None:
    return round(first[share] / second[share], 2) if first and second else None


def _text(spread: dict[str, float]) -> str:
    return ", ".join(f"{share} {value:.1f} ms" for share, value in spread.items()) or "none"


def _own(held: Held | None) -> float | None:
    return None if held is None else round(held.own_mb, 1)
