"""The proof: every accepted job, one by one, against what its owner asked for and what an undisturbed run made."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from tqdm import tqdm

from scripts.chaos_parts.caller import Caller, GaveUp
from scripts.chaos_parts.comparison import decode, differences
from scripts.chaos_parts.ledger import OPEN_STATES, Entry, Ledger
from scripts.chaos_parts.reference import Outcome, outcome_of

ENDINGS_S = 180.0
POLL_S = 0.5
ORIGINAL = "original.png"


@dataclass
class Proof:
    """What became of the accepted jobs.

    Attributes:
        ended: How many ended in which state; ``deleted`` where their owner asked for it.
        errors: Reasons of those that ended in ``error`` and would not have, undisturbed.
        files: Artifacts that were compared; ``same_bytes`` of them are the reference's, byte for byte.
        problems: Everything lost, torn, wrong, or done twice.
        notes: What is no fault but worth knowing.
    """

    accepted: int = 0
    ended: Counter[str] = field(default_factory=Counter)
    errors: list[str] = field(default_factory=list)
    files: int = 0
    same_bytes: int = 0
    problems: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


async def wait_for_endings(caller: Caller, ledger: Ledger) -> None:
    """Returns when no accepted job is at work any more, or after ``ENDINGS_S``."""
    deadline = time.monotonic() + ENDINGS_S
    for entry in ledger.accepted():
        while time.monotonic() < deadline and not entry.cleanup:
            answer = await caller.patiently("status", "GET", f"/status/{entry.job_id}", expected={"JOB_NOT_FOUND"})
            if answer.is_error or answer.json()["status"] != "processing":
                break
            await asyncio.sleep(POLL_S)


async def prove(caller: Caller, ledger: Ledger, outcomes: dict[str, Outcome]) -> Proof:
    """Looks at every accepted job and all its files."""
    proof = Proof()
    await wait_for_endings(caller, ledger)
    for entry in tqdm(ledger.accepted(), desc="comparing", unit="job", disable=None):
        proof.accepted += 1
        found = list(entry.problems)
        if len(entry.job_ids) > 1:
            found.append(f"its key has {len(entry.job_ids)} jobs")
        try:
            found += await _examine(caller, entry, outcomes[entry.plan.name], proof)
        except GaveUp as error:
            found.append(str(error))
        proof.problems += [f"job {entry.job_id} ({entry.plan.name}): {problem}" for problem in found]
    proof.problems += [
        f"{entry.plan.name}: {problem}"
        for entry in ledger.entries
        if not entry.is_accepted
        for problem in entry.problems
    ]
    return proof


async def _examine(caller: Caller, entry: Entry, wanted: Outcome, proof: Proof) -> list[str]:
    answer = await caller.patiently("status", "GET", f"/status/{entry.job_id}", expected={"JOB_NOT_FOUND"})
    if answer.is_error:
        proof.ended["deleted" if entry.cleanup else "lost"] += 1
        return [] if entry.cleanup else ["it is lost: its status answers 404"]
    if entry.cleanup == "done":
        return ["it was deleted and is back"]
    status = answer.json()
    state, error = str(status["status"]), status.get("error")
    proof.ended[state] += 1
    problems = []
    if state in OPEN_STATES and entry.segmented_at_s is not None:
        problems.append(f"it did not end: {state}, {status['stage']}, {status['progress']} %")
    if state == "canceled" and not entry.cancel:
        problems.append("it is canceled, and nobody asked for that")
    if entry.cancel == "done" and state != "canceled":
        problems.append(f"it was canceled and is {state}")
    if state == "error":
        if not error:
            problems.append("it ended in error without a reason")
        elif error != wanted.error:
            proof.errors.append(f"{entry.plan.name}: {error}")
    outcome = await outcome_of(caller, entry.job_id, status)
    return problems + await asyncio.to_thread(_judge_files, outcome, wanted, proof)


def _judge_files(found: Outcome, wanted: Outcome, proof: Proof) -> list[str]:
    problems = []
    if found.state == "ready" and found.files.keys() != wanted.files.keys():
        problems.append(f"its files are {sorted(found.files)} instead of {sorted(wanted.files)}")
    if found.state in ("uploaded", "canceled") and list(found.files) != [ORIGINAL]:
        problems.append(f"it is {found.state} and lists {sorted(found.files)}")
    if ORIGINAL not in found.files:
        problems.append("its original.png is not listed")
    for name, data in found.files.items():
        proof.files += 1
        if name in wanted.files:
            proof.same_bytes += data == wanted.files[name]
            problems += differences(name, data, wanted.files[name])
        elif decode(data) is None:
            problems.append(f"{name} is torn")
    return problems


def leftovers(work_dir: Path, ledger: Ledger) -> list[str]:
    """What lies in the service's folder and should not: files half written, folders of no job anyone knows."""
    notes = []
    folders = {path.name for path in (work_dir / "jobs").iterdir()} if (work_dir / "jobs").is_dir() else set()
    known = {job_id for entry in ledger.entries for job_id in entry.job_ids}
    if unknown := folders - known:
        notes.append(f"{len(unknown)} job folders belong to no job that was answered for")
    deleted = {entry.job_id for entry in ledger.accepted() if entry.cleanup == "done"}
    if deleted & folders:
        notes.append(f"{len(deleted & folders)} deleted jobs still have their folders")
    if halves := [path for path in work_dir.rglob("*") if path.name.endswith(".part")]:
        notes.append(f"{len(halves)} files were left half written")
    return notes
