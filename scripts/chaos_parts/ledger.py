"""The books: every job that was accepted, what its owner asked for since, and what was seen of it."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import Any, Literal

from scripts.chaos_parts.plans import Plan

OPEN_STATES = ("uploaded", "processing")
Wish = Literal["keep", "again", "cancel", "cleanup"]


@dataclass
class Entry:
    """One job, from its owner's side.

    Attributes:
        key: The owner's name for it, from which the Idempotency-Keys are made.
        plan: What it is segmented with in its present run.
        job_ids: Every id that was answered for its key.
        cancel, cleanup: ``asked`` once sent, ``done`` once answered 200, ``late`` where the job had ended before.
        problems: What was seen that must not be.
    """

    key: str
    plan: Plan
    wish: Wish = "keep"
    job_ids: list[str] = field(default_factory=list)
    size_wh: tuple[int, int] = (0, 0)
    run: int = 1
    segmented_at_s: float | None = None
    cancel: Literal["", "asked", "done", "late"] = ""
    cleanup: Literal["", "asked", "done"] = ""
    state: str = ""
    stage: str = ""
    progress: int = 0
    ready_at_s: float | None = None
    last_event: int = 0
    told_progress: int = 0
    downloads: int = 0
    problems: list[str] = field(default_factory=list)

    @property
    def job_id(self) -> str:
        return self.job_ids[0]

    @property
    def is_accepted(self) -> bool:
        return bool(self.job_ids)

    @property
    def is_in_flight(self) -> bool:
        return self.segmented_at_s is not None and self.state == "processing" and not (self.cancel or self.cleanup)

    def uploaded(self, answer: dict[str, Any]) -> None:
        """``/upload`` answered 200; one key must always get the same job."""
        if answer["job_id"] not in self.job_ids:
            self.job_ids.append(answer["job_id"])
        self.size_wh = (answer["width"], answer["height"])
        self.state = self.state or "uploaded"

    def begins_again(self, plan: Plan) -> None:
        """Another run is about to be asked for: progress begins anew."""
        self.plan = plan
        self.run += 1
        self.progress = self.told_progress = 0
        self.segmented_at_s = self.ready_at_s = None

    def segmented(self) -> None:
        """``/segment`` answered 200, for the first time or again."""
        if self.segmented_at_s is None:
            self.segmented_at_s = time.monotonic()
            self.state = "processing"

    def saw(self, status: dict[str, Any]) -> None:
        """A status document arrived: within a run progress never falls, and what has ended stays so."""
        state, progress = status["status"], status["progress"]
        if progress < self.progress:
            self.problems.append(f"progress fell from {self.progress} to {progress} ({self.stage} → {status['stage']})")
        if self.ready_at_s is not None and state != "ready":
            self.problems.append(f"was ready and is {state}")
        if state == "ready" and self.ready_at_s is None:
            self.ready_at_s = time.monotonic()
        self.state, self.stage, self.progress = state, status["stage"], max(progress, self.progress)

    def saw_event(self, number: int, status: dict[str, Any]) -> None:
        """An event arrived with the job as it stood then: numbers rise, and among events progress never falls.

        A stream that broke is caught up with, so an event may be older than what a status told meanwhile.
        """
        if number <= self.last_event:
            self.problems.append(f"event {number} came after event {self.last_event}")
        if status["progress"] < self.told_progress:
            self.problems.append(f"progress of event {number} fell from {self.told_progress} to {status['progress']}")
        self.last_event = max(number, self.last_event)
        self.told_progress = max(status["progress"], self.told_progress)
        if status["progress"] >= self.progress:
            self.saw(status)


@dataclass
class Ledger:
    """Every job that was sent."""

    entries: list[Entry] = field(default_factory=list)

    def accepted(self) -> list[Entry]:
        return [entry for entry in self.entries if entry.is_accepted]

    def in_flight(self) -> list[Entry]:
        """Those that are being worked on or wait, as far as their owners know."""
        return [entry for entry in self.entries if entry.is_in_flight]

    def first_end_after(self, since_s: float) -> float | None:
        """When the first job that was accepted after ``since_s`` was ready."""
        ends = [
            entry.ready_at_s
            for entry in self.entries
            if entry.ready_at_s is not None and entry.segmented_at_s is not None and entry.segmented_at_s > since_s
        ]
        return min(ends, default=None)
