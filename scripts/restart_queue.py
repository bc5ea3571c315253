"""Queues many jobs, kills the whole service in the middle, starts it again, and proves that each was done once.

    .venv/bin/python scripts/restart_queue.py --jobs 200

The jobs are small photos with one tap. When all were accepted, ``kill -9`` ends every process of the service; it is
started again on the same folder, and every request is sent once more with its Idempotency-Key, as by clients that lost
their answers. Then all jobs must end ``ready``, with the files of an undisturbed run; and a receiver on loopback must
hear of each job's end, by one delivery id (a delivery may come again under the same id). Exit code 1 if not.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import sys
import time
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # works from any folder

from tqdm import tqdm

from scripts.chaos_parts.caller import Caller
from scripts.chaos_parts.job_client import JobClient
from scripts.chaos_parts.ledger import OPEN_STATES, Entry, Ledger
from scripts.chaos_parts.plans import TAP_SETS, Plan, read_photos, shrunk
from scripts.chaos_parts.program import Say, run_on_own_service
from scripts.chaos_parts.proof import prove, wait_for_endings
from scripts.chaos_parts.receiver import Receiver, receiving
from scripts.chaos_parts.reference import run_job
from scripts.chaos_parts.service import ROOT, OwnService, offers, wait_until_ready

SIDES_PX = (64, 96, 128)
AT_ONCE = 8
CALLBACKS_S = 60.0
LINGER_S = 3.0
"""For a callback too many, that would come a moment after the last one."""


def main(arguments: Sequence[str] | None = None) -> int:
    assert __doc__
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--jobs", type=int, default=200)
    parser.add_argument("--deadline", type=float, default=600, metavar="S", help="seconds after which all ends")
    parser.add_argument("--keep", action="store_true", help="keep the folder with the log and the jobs")
    options = parser.parse_args(arguments)
    with receiving() as receiver:

        async def work(service: OwnService, say: Say) -> list[str]:
            return await run(service, say, receiver, options.jobs)

        problems = run_on_own_service(
            work, environment=receiver.environment(), deadline_s=options.deadline, keep=options.keep
        )
    if problems is None:
        return 1
    for problem in problems:
        print(f"PROBLEM: {problem}")
    print(f"{len(problems)} problems." if problems else "Every job was done, and none was heard of twice.")
    return 1 if problems else 0


async def run(service: OwnService, say: Say, receiver: Receiver, count: int) -> list[str]:
    """What went wrong, from the first upload to the last callback."""
    dice = random.Random(count)
    service.start()
    say(f"the service is ready after {await wait_until_ready(service):.1f} s")
    photo = read_photos(ROOT / "tests" / "data", limit=1)[0]
    plans = [Plan(shrunk(photo, side_px), "one", TAP_SETS["one"]) for side_px in SIDES_PX]
    async with Caller(service.url, dice) as caller:
        known = await offers(caller.client)
        owner = JobClient(caller, known, dice, callback_url=receiver.url if "callbacks" in known else None)
        undisturbed = JobClient(caller, known, dice)
        outcomes = {plan.name: await run_job(caller, undisturbed, plan) for plan in plans}
        ledger = Ledger([Entry(f"{dice.getrandbits(64):016x}", plans[number % len(plans)]) for number in range(count)])
        await each("upload", ledger.entries, owner.upload)
        await each("segment", ledger.entries, owner.segment)
        await each("status", ledger.entries, owner.status)
        done = sum(entry.state not in OPEN_STATES for entry in ledger.entries)
        service.kill()
        say(f"all {count} jobs were accepted, {done} had ended, and everything was killed")
        if done == count:
            return ["the queue was empty before the service was killed: nothing is proved; send more --jobs"]
        service.start()
        say(f"ready again after {await wait_until_ready(service):.1f} s")
        if "keys" in known:
            await each("upload again", ledger.entries, owner.upload)
            await each("segment again", ledger.entries, owner.segment)
        began_s = time.monotonic()
        await wait_for_endings(caller, ledger)
        say(f"the last job ended {time.monotonic() - began_s:.0f} s after that")
        proof = await prove(caller, ledger, outcomes)
    ended = ", ".join(f"{number} {state}" for state, number in sorted(proof.ended.items()))
    say(f"{ended}; {proof.files} files compared, {proof.same_bytes} the same byte for byte")
    proof.problems += [f"ended in error: {reason}" for reason in proof.errors]
    if "callbacks" not in known:
        say("this service sends no callbacks: whether a job was done twice is not known")
        return proof.problems
    return proof.problems + await check_callbacks(receiver, ledger, say)


async def each(what: str, entries: Sequence[Entry], send: Callable[[Entry], Awaitable[object]]) -> None:
    """Sends something for every job, several at once. Raises ``GaveUp``."""
    turns = asyncio.Semaphore(AT_ONCE)
    with tqdm(total=len(entries), desc=what, disable=None) as bar:

        async def one(entry: Entry) -> None:
            async with turns:
                await send(entry)
            bar.update()

        await asyncio.gather(*(one(entry) for entry in entries))


async def check_callbacks(receiver: Receiver, ledger: Ledger, say: Say) -> list[str]:
    """What is wrong with the callbacks, once all have come or a minute is over."""
    wanted = {entry.job_id for entry in ledger.entries}
    await asyncio.to_thread(receiver.wait_for, wanted, CALLBACKS_S)
    await asyncio.sleep(LINGER_S)
    told = [job_id for job_id in wanted if job_id in receiver.deliveries]
    ids = sum(len(receiver.deliveries[job_id]) for job_id in told)
    say(f"callbacks told of {len(told)} jobs, by {ids} delivery ids; {receiver.repeats} came again under their id")
    problems = list(receiver.problems)
    problems += [f"job {job_id}: no callback came" for job_id in sorted(wanted - receiver.deliveries.keys())]
    problems += [
        f"a callback came for job {job_id}, which nobody sent" for job_id in receiver.deliveries.keys() - wanted
    ]
    for job_id in told:
        if len(receiver.deliveries[job_id]) > 1:
            problems.append(f"job {job_id} ended {len(receiver.deliveries[job_id])} times")
        if receiver.states[job_id] != "ready":
            problems.append(f"job {job_id}: its callback says {receiver.states[job_id]}")
    return problems


if __name__ == "__main__":
    sys.exit(main())
