"""Sends many requests to a service on this machine, and tells what memory each replica holds before and after.

    .venv/bin/python scripts/memory_soak.py --url http://127.0.0.1:8000 --requests 200

Every second request is a background removal, the others are jobs with one tap; photos of three sizes take turns.
Processes grow for a while, until allocators and caches have what they need; a leak goes on. So the second half of the
requests decides: exit code 1 if a replica grew by more than ``--allow-mb`` in it, or a request failed.

``resident`` is the process's memory with everything it shares (libraries, Ray's object store), ``own`` what is only its
own: a leak shows there.
"""

from __future__ import annotations

import argparse
import re
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import httpx
import numpy as np
from tqdm import tqdm

ROOT = Path(__file__).resolve().parent.parent
SIDES_PX = (512, 1024, 1600)
POLL_S = 0.05
TIMEOUT_S = 300.0
SETTLE_S = 1.0  # for what a request leaves to be freed a moment later
_REPLICA = re.compile(r"ray::ServeReplica:[^:]*:(\w+)")  # the title Ray gives a replica's process


@dataclass(frozen=True)
class Held:
    """Memory of one process, in MiB."""

    resident_mb: float
    own_mb: float


def main(arguments: Sequence[str] | None = None) -> int:
    assert __doc__
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--url", default="http://127.0.0.1:8000", help="of a service that runs on this machine")
    parser.add_argument("--pid", type=int, help="of its serve.sh, where more than one service runs")
    parser.add_argument("--requests", type=int, default=200)
    parser.add_argument("--warm-up", type=int, default=20, metavar="N", help="requests before the first look")
    parser.add_argument("--image", type=Path, default=ROOT / "tests" / "data" / "astronaut.jpg")
    parser.add_argument("--allow-mb", type=float, default=50, help="growth in the second half that is no leak")
    options = parser.parse_args(arguments)
    photos = read_photos(options.image)
    replicas = find_replicas(options.pid)
    if not replicas:
        return fail("no replica of a Serve application runs on this machine")
    looks: list[dict[int, Held | None]] = []
    halves = (options.warm_up, options.requests // 2, options.requests - options.requests // 2)
    with httpx.Client(base_url=options.url, timeout=TIMEOUT_S) as client:
        try:
            for what, count in zip(("warm-up", "first half", "second half"), halves, strict=True):
                send(client, photos, count, what)
                looks.append({pid: look(pid) for pid in replicas})
        except (httpx.HTTPError, RequestFailed) as error:
            return fail(f"a request failed: {error}")
    rows = {f"{name} ({pid})": [held[pid] for held in looks] for pid, name in replicas.items()}
    print(table(rows, options.requests))
    grown = [name for name, row in rows.items() if (growth_mb(row[1:]) or 0) > options.allow_mb]
    if gone := [name for name, row in rows.items() if growth_mb(row) is None]:
        return fail(f"ended meanwhile: {', '.join(gone)}")
    return fail(f"grew by more than {options.allow_mb:g} MiB: {', '.join(grown)}") if grown else 0


class RequestFailed(Exception):
    """The service did not do what it was asked."""


def read_photos(path: Path) -> list[bytes]:
    """The photo as JPEG with each of ``SIDES_PX`` as its longest side."""
    image = cv2.imread(str(path))
    if image is None:
        raise SystemExit(f"memory_soak.py: {path} is no image OpenCV can read")
    photos = []
    for side_px in SIDES_PX:
        scale = side_px / max(image.shape[:2])
        resized = cv2.resize(image, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
        photos.append(np.asarray(cv2.imencode(".jpg", resized)[1]).tobytes())
    return photos


def find_replicas(root_pid: int | None, proc: Path = Path("/proc")) -> dict[int, str]:
    """Deployment by process id, sorted by name; only processes below ``root_pid`` if one is given."""
    names: dict[int, str] = {}
    parents: dict[int, int] = {}
    for entry in proc.iterdir():
        if not entry.name.isdigit():
            continue
        try:
            title = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
            stat = (entry / "stat").read_text(errors="replace")
        except OSError:  # gone meanwhile
            continue
        parents[int(entry.name)] = int(stat.rpartition(")")[2].split()[1])
        if found := _REPLICA.match(title):
            names[int(entry.name)] = found[1]

    def is_below(pid: int) -> bool:
        while pid and pid != root_pid:
            pid = parents.get(pid, 0)
        return pid == root_pid

    own = (pid for pid in names if root_pid is None or is_below(pid))
    return {pid: names[pid] for pid in sorted(own, key=lambda pid: (names[pid], pid))}


def look(pid: int, proc: Path = Path("/proc")) -> Held | None:
    """What the process holds now; None if it is gone."""
    try:
        text = (proc / str(pid) / "status").read_text(errors="replace")
    except OSError:
        return None
    kib = {name: int(value) for name, value in re.findall(r"^(\w+):\s+(\d+) kB$", text, re.MULTILINE)}
    if "VmRSS" not in kib:  # a process that has ended and waits for its parent
        return None
    return Held(kib["VmRSS"] / 1024, kib.get("RssAnon", kib["VmRSS"]) / 1024)


def send(client: httpx.Client, photos: Sequence[bytes], count: int, what: str) -> None:
    """Requests one after the other, removals and jobs in turn."""
    for number in tqdm(range(count), desc=what, unit="request", disable=None):
        photo = photos[number // 2 % len(photos)]
        if number % 2 == 0:
            checked(client.post("/api/background-removal/remove", files={"image": photo}))
        else:
            run_job(client, photo)
    time.sleep(SETTLE_S)


def run_job(client: httpx.Client, photo: bytes) -> None:
    """One tap on the middle, from the upload to the deletion of the job."""
    job = checked(client.post("/upload", files={"file": photo})).json()
    tap = [job["width"] // 2, job["height"] // 2]
    checked(client.post("/segment", json={"job_id": job["job_id"], "coordinates_list": [tap]}))
    deadline = time.monotonic() + TIMEOUT_S
    while (status := checked(client.get(f"/status/{job['job_id']}")).json())["status"] == "processing":
        if time.monotonic() > deadline:
            raise RequestFailed(f"job {job['job_id']} does not end")
        time.sleep(POLL_S)
    if status["status"] != "ready":
        raise RequestFailed(f"job {job['job_id']}: {status['error']}")
    checked(client.delete(f"/cleanup/{job['job_id']}"))


def checked(answer: httpx.Response) -> httpx.Response:
    if answer.is_error:
        raise RequestFailed(f"{answer.request.url.path} answers {answer.status_code}: {answer.text[:200]}")
    return answer


def growth_mb(row: Sequence[Held | None]) -> float | None:
    """How much more of its own a process holds at the last look than at the first; None if it ended meanwhile."""
    first, last = row[0], row[-1]
    return None if first is None or last is None else last.own_mb - first.own_mb


def table(rows: dict[str, list[Held | None]], requests: int) -> str:
    """A line per replica, in MiB: at the start, at half time and at the end."""
    lines = [
        f"MiB after the warm-up, half and all of {requests} requests; growth of its own in the second half",
        f"{'replica':<20}{'resident':>24}{'own':>24}{'growth':>9}{'per request':>16}",
    ]
    for name, row in rows.items():
        grown = growth_mb(row[1:])
        if grown is None:
            lines.append(f"{name:<20}ended")
            continue
        resident, own = (
            " → ".join(f"{value:.0f}" for value in values)
            for values in zip(*((held.resident_mb, held.own_mb) for held in row if held), strict=True)
        )
        per_request_kib = grown * 1024 / max(requests - requests // 2, 1)
        lines.append(f"{name:<20}{resident:>24}{own:>24}{grown:>+9.1f}{per_request_kib:>+12.1f} KiB")
    return "\n".join(lines)


def fail(text: str) -> int:
    print(f"memory_soak.py: {text}", file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main())
