"""The table of outages: for each fault how long callers went without a good answer, and what they got instead."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from scripts.chaos_parts.answers import Journal
from scripts.chaos_parts.campaign import Outage

HEADS = ("killed", "no removal for", "no status for", "normal after", "new job after", "other answers meanwhile")


def rows(journal: Journal, outages: Sequence[Outage]) -> list[dict[str, Any]]:
    """One row per outage; times in seconds, from the kill until the next fault may strike."""
    return [
        {
            "fault": outage.fault,
            "pids": outage.pids if len(outage.pids) == 1 else len(outage.pids),
            "was_the_moment": outage.was_the_moment,
            "longest_without_removal_s": round(journal.longest_gap_s("remove", outage.began_s, outage.over_s), 2),
            "longest_without_status_s": round(journal.longest_gap_s("status", outage.began_s, outage.over_s), 2),
            "normal_after_s": None if outage.normal_s is None else round(outage.normal_s, 1),
            "new_job_after_s": None if outage.job_s is None else round(outage.job_s, 1),
            "answers": {
                f"{kind} {label}": count
                for (kind, label), count in sorted(journal.bad(outage.began_s, outage.over_s).items())
            },
        }
        for outage in outages
    ]


def text(found: Sequence[dict[str, Any]]) -> str:
    """The rows for a terminal."""
    lines = [HEADS]
    for row in found:
        calm = row["fault"] == "(none)"
        lines.append(
            (
                row["fault"] + ("" if row["was_the_moment"] else " *"),
                f"{row['longest_without_removal_s']:.1f} s",
                f"{row['longest_without_status_s']:.1f} s",
                "" if calm else _seconds(row["normal_after_s"]),
                "" if calm else _seconds(row["new_job_after_s"]),
                ", ".join(f"{count}× {label}" for label, count in row["answers"].items()) or "-",
            )
        )
    widths = [max(len(line[column]) for line in lines) for column in range(len(HEADS) - 1)]
    return "\n".join(
        "  ".join([line[0].ljust(widths[0]), *map(str.rjust, line[1:-1], widths[1:]), line[-1]]) for line in lines
    )


def _seconds(value: float | None) -> str:
    return "never" if value is None else f"{value:.1f} s"
