"""Kills the parts of a service under load, one after another, and proves that nothing it accepted was lost.

    .venv/bin/python scripts/chaos.py                                   # starts a service of its own; 5 to 8 minutes
    .venv/bin/python scripts/chaos.py --faults birefnet,proxy --json FILE
    .venv/bin/python scripts/chaos.py --url http://127.0.0.1:8000 --pid PID      # one that runs; PID is its serve.sh

First every kind of job runs undisturbed, as the reference. Then come removals, status calls and jobs (uploaded with
Idempotency-Keys, segmented, downloaded in pieces, canceled, deleted, segmented again) at ``--load`` of what the machine
carries, from clients that send again what broke; meanwhile ``kill -9`` hits a BiRefNet, MobileSAM and LaMa replica,
JobManager, an ingress replica, the proxy, the controller, and at last the whole service, which is started again on the
same folder. Each fault waits for jobs in flight, and until the service is back to normal from the last one.

In the end every job that was accepted must have ended as its owner asked, or in error with a reason; every artifact
must be whole and like the undisturbed one (same size, masks with an IoU of at least 0.99, at most 1 grey level of mean
difference); progress must never have fallen; and only a dead ingress, proxy or service may have broken connections.
Prints a table of outages. Exit code 1 if anything was lost, torn, wrong, or answered as it must not be.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # works from any folder

from scripts.chaos_parts import table
from scripts.chaos_parts.answers import Journal
from scripts.chaos_parts.caller import Caller
from scripts.chaos_parts.campaign import Campaign, Outage
from scripts.chaos_parts.faults import FAULTS, Fault
from scripts.chaos_parts.job_client import JobClient
from scripts.chaos_parts.ledger import Ledger
from scripts.chaos_parts.load import Load, Pace
from scripts.chaos_parts.plans import make_plans, read_photos
from scripts.chaos_parts.program import Say, run_on_own_service, run_until
from scripts.chaos_parts.proof import Proof, leftovers, prove
from scripts.chaos_parts.reference import Reference, measure
from scripts.chaos_parts.service import (
    ROOT,
    ForeignService,
    OwnService,
    Service,
    ServiceDown,
    offers,
    wait_until_ready,
)
from scripts.chaos_parts.verdict import forbidden

PHOTOS = ROOT / "tests" / "data"


def main(arguments: Sequence[str] | None = None) -> int:
    options = parse(arguments)
    faults = [FAULTS[name] for name in options.faults]
    if options.url:
        foreign = ForeignService(options.url, options.pid)
        report = run_until(options.deadline, lambda say: run(foreign, faults, options, say))
    else:
        report = run_on_own_service(
            lambda service, say: run(service, faults, options, say), deadline_s=options.deadline, keep=options.keep
        )
    if report is None:
        return 1
    print_report(report)
    if options.json:
        options.json.write_text(json.dumps(report, indent=2))
    return 1 if report["problems"] else 0


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    assert __doc__
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--url", help="of a service that runs on this machine, instead of one of our own")
    parser.add_argument("--pid", type=int, help="of its serve.sh")
    parser.add_argument("--faults", type=names, default=list(FAULTS), help=f"some of {','.join(FAULTS)}")
    parser.add_argument("--photos", type=Path, default=PHOTOS, metavar="DIR", help="photos to send")
    parser.add_argument("--load", type=float, default=0.65, help="share of the machine's work that is asked of it")
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--deadline", type=float, default=900, metavar="S", help="seconds after which all ends")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write everything measured there")
    parser.add_argument("--keep", action="store_true", help="keep the folder with the log and the jobs")
    options = parser.parse_args(arguments)
    if (options.url is None) != (options.pid is None):
        parser.error("--url and --pid belong together")
    if options.url:
        options.faults = [name for name in options.faults if not FAULTS[name].is_everything]
    return options


def names(text: str) -> list[str]:
    """The faults of ``--faults`` in the order in which they strike."""
    wanted = set(text.split(","))
    if unknown := wanted - FAULTS.keys():
        raise argparse.ArgumentTypeError(f"unknown: {', '.join(sorted(unknown))}")
    return [name for name in FAULTS if name in wanted]


async def run(service: Service, faults: Sequence[Fault], options: argparse.Namespace, say: Say) -> dict[str, Any]:
    """Everything, from the start of the service to the report."""
    dice = random.Random(options.seed)
    if isinstance(service, OwnService):
        service.start()
    say(f"the service is ready after {await wait_until_ready(service):.1f} s: {service.url}")
    async with Caller(service.url, dice) as calm:
        known = await offers(calm.client)
        missing = {"cancel", "events", "keys"} - known
        say("it offers " + ", ".join(sorted(known)) + (f"; not tried: {', '.join(sorted(missing))}" if missing else ""))
        plans = make_plans(read_photos(options.photos))
        reference = await measure(calm, JobClient(calm, known, dice), plans)
    pace = Pace.of(removal_s=reference.removal_s, job_s=reference.job_s, load=options.load)
    say(
        f"undisturbed: {reference.removal_s:.2f} s a removal, {reference.job_s:.2f} s a job of {len(plans)} kinds; "
        f"now a removal every {pace.removal_every_s:.2f} s, a job every {pace.job_every_s:.2f} s"
    )
    ledger = Ledger()
    async with Caller(service.url, dice) as caller:
        load = Load(caller, ledger, plans, pace, known, dice)
        campaign = Campaign(service, caller, ledger, load, say)
        downfall = await under_load(load, campaign, faults)
        say(f"the load has ended; {len(ledger.accepted())} jobs were accepted")
        proof = Proof(problems=[downfall]) if downfall else await prove(caller, ledger, reference.outcomes)
        if isinstance(service, OwnService):
            proof.notes += leftovers(service.work_dir, ledger)
        proof.problems += load.torn_removals
    say("done")
    return report_of(caller.journal, campaign.outages, ledger, proof, reference)


async def under_load(load: Load, campaign: Campaign, faults: Sequence[Fault]) -> str:
    """The campaign while the load runs; then the owners of the last jobs finish. Why the service is down, if it is."""
    running = asyncio.create_task(load.run())
    try:
        await campaign.run(faults)
    except ServiceDown as error:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
        return str(error)
    except BaseException:
        running.cancel()
        raise
    load.end()
    await running
    return ""


def report_of(
    journal: Journal, outages: Sequence[Outage], ledger: Ledger, proof: Proof, reference: Reference
) -> dict[str, Any]:
    """What was measured, as JSON has it."""
    answers: dict[str, dict[str, int]] = {}
    for answer in journal.answers:
        kind = answers.setdefault(answer.kind, {})
        kind[answer.label] = kind.get(answer.label, 0) + 1
    return {
        "removal_s": round(reference.removal_s, 3),
        "job_s": round(reference.job_s, 3),
        "outages": table.rows(journal, outages),
        "answers": answers,
        "jobs_accepted": proof.accepted,
        "jobs_ended": dict(proof.ended),
        "jobs_in_error": proof.errors,
        "files_compared": proof.files,
        "files_of_the_same_bytes": proof.same_bytes,
        "downloads_in_pieces": sum(entry.downloads for entry in ledger.entries),
        "notes": proof.notes,
        "problems": proof.problems + [f"not allowed: {line}" for line in forbidden(journal, outages)],
    }


def print_report(report: dict[str, Any]) -> None:
    print(f"\n{table.text(report['outages'])}\n")
    for kind, counts in report["answers"].items():
        print(f"{kind}: " + ", ".join(f"{count}× {label}" for label, count in sorted(counts.items())))
    ended = ", ".join(f"{count} {state}" for state, count in sorted(report["jobs_ended"].items()))
    print(f"\n{report['jobs_accepted']} jobs accepted: {ended}")
    print(f"{report['files_compared']} files compared, {report['files_of_the_same_bytes']} the same byte for byte")
    for title, lines in (("in error", report["jobs_in_error"]), ("note", report["notes"])):
        for line in lines:
            print(f"{title}: {line}")
    for line in report["problems"]:
        print(f"PROBLEM: {line}")
    print("Nothing was lost, torn or wrong." if not report["problems"] else f"{len(report['problems'])} problems.")


if __name__ == "__main__":
    sys.exit(main())
