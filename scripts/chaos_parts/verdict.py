"""Which answers were allowed: 503 in our words at any time; broken connections only while the door was away."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from scripts.chaos_parts.answers import AT_THE_DOOR, Answer, Journal
from scripts.chaos_parts.campaign import Outage


def is_allowed(answer: Answer, outages: Sequence[Outage]) -> bool:
    """Whether a good service may have answered so."""
    if answer.is_good or (answer.status == 503 and answer.code not in AT_THE_DOOR):
        return True
    return answer.code in AT_THE_DOOR and any(
        outage.breaks_connections and answer.started_s <= outage.over_s and answer.ended_s >= outage.began_s
        for outage in outages
    )


def forbidden(journal: Journal, outages: Sequence[Outage]) -> list[str]:
    """The answers that were not allowed, counted, each with the fault it came after."""
    counts = Counter(
        (answer.kind, answer.label, _after(answer, outages))
        for answer in journal.answers
        if not is_allowed(answer, outages)
    )
    return [f"{kind}: {count}× {label} after {fault}" for (kind, label, fault), count in sorted(counts.items())]


def _after(answer: Answer, outages: Sequence[Outage]) -> str:
    before = [outage.fault for outage in outages if outage.began_s <= answer.ended_s]
    return before[-1] if before else "no fault"
