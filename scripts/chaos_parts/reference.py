"""What an undisturbed service makes of every kind of job, and how long each kind of work takes the machine."""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

from tqdm import tqdm

from scripts.chaos_parts.caller import Caller, GaveUp
from scripts.chaos_parts.job_client import JobClient
from scripts.chaos_parts.ledger import OPEN_STATES, Entry
from scripts.chaos_parts.load import REMOVE
from scripts.chaos_parts.plans import Photo, Plan

AT_ONCE = 4
REMOVALS = 12

T = TypeVar("T")


@dataclass(frozen=True)
class Outcome:
    """How a job ended, why if not well, and its files."""

    state: str
    error: str | None
    files: dict[str, bytes]


@dataclass(frozen=True)
class Reference:
    """Outcomes by the plan's name; seconds of the whole machine that one piece of work takes."""

    outcomes: dict[str, Outcome]
    job_s: float
    removal_s: float


async def measure(caller: Caller, owner: JobClient, plans: Sequence[Plan]) -> Reference:
    """Runs every plan once, and some removals, several at a time.

    Raises:
        GaveUp: The service does not serve them even undisturbed.
    """
    photos = [plan.photo for plan in plans]
    removals = [photos[number % len(photos)] for number in range(REMOVALS)]
    await _all("warm-up", removals[:2], lambda photo: _remove(caller, photo))
    removal_s, _ = await _all("removals", removals, lambda photo: _remove(caller, photo))
    job_s, outcomes = await _all("jobs", plans, lambda plan: run_job(caller, owner, plan))
    return Reference({plan.name: outcome for plan, outcome in zip(plans, outcomes, strict=True)}, job_s, removal_s)


async def run_job(caller: Caller, owner: JobClient, plan: Plan) -> Outcome:
    """One job from its upload to its files; it is deleted."""
    entry = Entry(secrets.token_hex(8), plan)
    await owner.live(entry)
    status = await owner.status(entry)
    if entry.problems or status is None or status["status"] in OPEN_STATES:
        raise GaveUp(f"undisturbed, {plan.name} ended so: {status}; {'; '.join(entry.problems)}")
    outcome = await outcome_of(caller, entry.job_id, status)
    await caller.patiently("cleanup", "DELETE", f"/cleanup/{entry.job_id}")
    return outcome


async def outcome_of(caller: Caller, job_id: str, status: dict[str, object]) -> Outcome:
    """The outcome that a status document tells of, with every file it lists. Raises ``GaveUp``."""
    names = status["files"]
    assert isinstance(names, list)
    files = {}
    for name in names:
        files[name] = (await caller.patiently("download", "GET", f"/download/{job_id}/{name}")).content
    error = status.get("error")
    return Outcome(str(status["status"]), str(error) if error else None, files)


async def _remove(caller: Caller, photo: Photo) -> None:
    await caller.patiently("remove", "POST", REMOVE, files={"image": (photo.name, photo.data)})


async def _all(
    what: str, items: Sequence[Plan] | Sequence[Photo], work: Callable[..., Awaitable[T]]
) -> tuple[float, list[T]]:
    """Seconds per item, and the results in order."""
    turns = asyncio.Semaphore(AT_ONCE)
    started = time.monotonic()
    with tqdm(total=len(items), desc=f"undisturbed: {what}", disable=None) as bar:

        async def one(item: object) -> T:
            async with turns:
                result = await work(item)
            bar.update()
            return result

        results = await asyncio.gather(*(one(item) for item in items))
    return (time.monotonic() - started) / len(items), list(results)
