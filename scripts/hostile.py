"""Sends every file of a folder to a service on this machine, then damaged ones, and tells how it took them.

    .venv/bin/python scripts/hostile_corpus.py /tmp/corpus
    RATE_LIMIT_PER_MINUTE=0 ./scripts/serve.sh                              # in another terminal
    .venv/bin/python scripts/hostile.py /tmp/corpus --url http://127.0.0.1:8000

Any folder will do; all files below it are sent, whatever they are, to the background removal and to the upload of jobs
(which are deleted at once). Damage (cuts, changed bytes) is drawn from ``--seed``. Exit code 1 if an answer was 5xx or
had no error code, a request took longer than ``--deadline``, a file of our own corpus met another fate than
``outcomes.json`` says, or a replica grew by more than ``--allow-mb`` in the second half. What was sent then lies in
``--failures``; send that folder again to see whether it is mended.
"""

from __future__ import annotations

import argparse
import json
import sys
import threading
import time
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path

import httpx
from tqdm import tqdm

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from scripts.hostile_corpus import OUTCOMES
from scripts.hostile_files.attempts import ROUTES, Attempt, plan
from scripts.memory_soak import Held, find_replicas, growth_mb, look, table

FIELDS = dict(zip(ROUTES, ("image", "file"), strict=True))
SETTLE_S = 2.0


def main(arguments: Sequence[str] | None = None) -> int:
    options = parse(arguments)
    paths = sorted(path for path in options.folder.rglob("*") if path.is_file() and path.name != OUTCOMES)
    if not paths:
        return fail(f"there is no file in {options.folder}")
    replicas = {} if options.no_memory else find_replicas(options.pid)
    if not replicas and not options.no_memory:
        return fail("no replica of a Serve application runs on this machine; --no-memory goes without")
    attempts = list(plan(paths, options.requests, options.seed))
    tally = Tally(read_outcomes(options.folder), options.failures, options.deadline)
    # A tenth warms up; the second half of the rest decides.
    edges = [0, len(attempts) // 10, len(attempts) * 55 // 100, len(attempts)]
    looks: list[dict[int, Held | None]] = []
    headers = {"X-API-Key": options.key} if options.key else {}
    with (
        httpx.Client(base_url=options.url, timeout=options.deadline, headers=headers) as client,
        ThreadPoolExecutor(options.at_once) as executor,
        tqdm(total=len(attempts), unit="request", disable=None) as bar,
    ):
        for start, end in pairwise(edges):
            for _ in executor.map(lambda attempt: send(client, attempt, tally), attempts[start:end]):
                bar.update()
            time.sleep(SETTLE_S)  # for what a request leaves to be freed a moment later
            looks.append({pid: look(pid) for pid in replicas})
    print(tally.report())
    rows = {f"{name} ({pid})": [held[pid] for held in looks] for pid, name in replicas.items()}
    if rows:
        print(table(rows, len(attempts)))
    problems = tally.problems + memory_problems(rows, options.allow_mb)
    for problem in problems:
        print(f"hostile.py: {problem}", file=sys.stderr)
    return 1 if problems else 0


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    assert __doc__
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--url", default="http://127.0.0.1:8000")
    parser.add_argument("--pid", type=int, help="of its serve.sh, where more than one service runs")
    parser.add_argument("--key", help="API key to send")
    parser.add_argument(
        "--requests", type=int, default=2000, help="in all; at least every file once to both routes (default 2000)"
    )
    parser.add_argument("--at-once", type=int, default=4, help="requests under way at a time (default 4)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--deadline", type=float, default=60, help="seconds an answer may take (default 60)")
    parser.add_argument("--allow-mb", type=float, default=50, help="growth in the second half that is no leak")
    parser.add_argument("--no-memory", action="store_true", help="do not look at the replicas' memory")
    parser.add_argument("--failures", type=Path, default=Path("hostile-failures"), help="folder for what failed")
    return parser.parse_args(arguments)


def read_outcomes(folder: Path) -> dict[str, list[str]]:
    """What must become of the files of our own corpus; nothing for any other folder."""
    path = folder / OUTCOMES
    outcomes: dict[str, list[str]] = json.loads(path.read_text()) if path.is_file() else {}
    return outcomes


@dataclass
class Tally:
    """What has been answered so far. Threads share it."""

    outcomes: dict[str, list[str]]
    failures: Path
    deadline_s: float
    counts: Counter[tuple[str, int, str]] = field(default_factory=Counter)
    slowest: tuple[float, str] = (0.0, "")
    problems: list[str] = field(default_factory=list)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def add(self, attempt: Attempt, body: bytes, status: int, code: str, seconds: float) -> None:
        problem = self._judge(attempt, status, code, seconds)
        with self._lock:
            self.counts[attempt.route, status, code] += 1
            self.slowest = max(self.slowest, (seconds, f"{attempt.what} to {attempt.route}"))
            if problem:
                self.failures.mkdir(parents=True, exist_ok=True)
                kept = self.failures / f"{attempt.number:06d}-{attempt.path.name}"
                kept.write_bytes(body)
                self.problems.append(f"{attempt.what} to {attempt.route}: {problem}; kept as {kept}")

    def _judge(self, attempt: Attempt, status: int, code: str, seconds: float) -> str | None:
        if status == 0:
            return f"no answer: {code}"
        if status >= 500 or not code:
            return f"answered {status} {code or 'without an error code'}"
        if seconds > self.deadline_s:
            return f"took {seconds:.1f} s"
        expected = self.outcomes.get(attempt.path.name)
        if expected and attempt.route == ROUTES[0] and attempt.damage_seed is None and code not in expected:
            return f"answered {code} instead of {' or '.join(expected)}"
        return None

    def report(self) -> str:
        lines = [f"{'route':<34}{'status':>7}  {'code':<24}{'answers':>8}"]
        for (route, status, code), count in sorted(self.counts.items()):
            lines.append(f"{route:<34}{status:>7}  {code:<24}{count:>8}")
        seconds, what = self.slowest
        lines.append(f"slowest answer: {seconds:.2f} s, {what}")
        return "\n".join(lines)


def send(client: httpx.Client, attempt: Attempt, tally: Tally) -> None:
    body = attempt.body()
    start = time.monotonic()
    try:
        answer = client.post(attempt.route, files={FIELDS[attempt.route]: (attempt.path.name, body)})
    except httpx.HTTPError as error:
        tally.add(attempt, body, 0, type(error).__name__, time.monotonic() - start)
        return
    tally.add(attempt, body, answer.status_code, code_of(answer), time.monotonic() - start)
    if attempt.route == "/upload" and answer.is_success:
        client.delete(f"/cleanup/{answer.json()['job_id']}")


def code_of(answer: httpx.Response) -> str:
    """``ok``, the error's code, or nothing where an error does not carry one."""
    if answer.is_success:
        return "ok"
    try:
        document = answer.json()
    except ValueError:
        return ""
    return str(document.get("error_code", "")) if isinstance(document, dict) else ""


def memory_problems(rows: dict[str, list[Held | None]], allow_mb: float) -> list[str]:
    problems = []
    for name, row in rows.items():
        grown = growth_mb(row[1:])
        if grown is None:
            problems.append(f"{name} ended meanwhile")
        elif grown > allow_mb:
            problems.append(f"{name} grew by {grown:.0f} MiB in the second half")
    return problems


def fail(text: str) -> int:
    print(f"hostile.py: {text}", file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main())
