"""Measures a running service: a table of stages (p50, p95, p99) and images per second.

    .venv/bin/python scripts/benchmark.py --concurrency 1,2,4 --requests 100 --json after.json
    .venv/bin/python scripts/benchmark.py --job --requests 20
    .venv/bin/python scripts/benchmark.py --overload --seconds 60 --factor 10

Stages inside the service come from its ``Server-Timing`` header; ``client`` is what the caller waited. With ``--job`` a
request is a whole job: upload, segment, wait for it, download every file. With ``--overload`` more removals are sent
than the service can take (``overload.py``); exit code 1 if it does not bend as it should.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import json
import os
import platform
import sys
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

import httpx
from tqdm import tqdm

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # works from any folder

from scripts import overload, overload_report
from scripts.benchmark_stats import as_json, parse_server_timing, stage_stats, table

POLL_S = 0.05
TIMEOUT_S = 120.0
PACKAGES = ("ray", "torch", "opencv-contrib-python-headless")


@dataclass(frozen=True)
class Photo:
    name: str
    data: bytes
    size_hw: tuple[int, int]


@dataclass
class Run:
    """What one concurrency gave."""

    samples: list[dict[str, float]] = field(default_factory=list)
    errors: Counter[str] = field(default_factory=Counter)
    model: str = "not told"
    seconds: float = 0.0

    @property
    def images_per_s(self) -> float:
        return len(self.samples) / self.seconds if self.seconds else 0.0


class RequestFailed(Exception):
    """The service answered with an error; the message is its code."""


Work = Callable[[httpx.AsyncClient, Photo, Run], Awaitable[dict[str, float]]]


def read_photo(path: Path | None) -> Photo:
    """The photo to send: that file, or a made-up 1080p one with shapes on a noisy gradient."""
    import cv2
    import numpy as np

    if path is not None:
        data = path.read_bytes()
        image = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
        if image is None:
            raise SystemExit(f"benchmark: {path} is no image OpenCV can read")
        return Photo(path.name, data, (image.shape[0], image.shape[1]))
    height, width = 1080, 1920
    image = np.random.default_rng(7).integers(0, 24, (height, width, 3), np.uint8)
    image += np.linspace(90, 190, width, dtype=np.uint8)[None, :, None]
    cv2.circle(image, (width // 2, height // 2), height // 4, (40, 70, 220), -1, cv2.LINE_AA)
    cv2.ellipse(
        image, (width // 2, height * 3 // 4), (height // 5, height // 3), 20, 0, 360, (60, 160, 30), -1, cv2.LINE_AA
    )
    return Photo(
        "made-up.jpg", cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, 90])[1].tobytes(), (height, width)
    )


async def answer_of(request: Awaitable[httpx.Response]) -> httpx.Response:
    """The response, or ``RequestFailed`` with its error code."""
    response = await request
    if response.is_error:
        try:
            code = str(response.json()["error_code"])
        except (ValueError, KeyError, TypeError):
            code = "no error code"
        raise RequestFailed(f"{response.status_code} {code}")
    return response


async def remove_background(client: httpx.AsyncClient, photo: Photo, run: Run) -> dict[str, float]:
    """One background removal; milliseconds by stage."""
    started = time.perf_counter()
    files = {"image": (photo.name, photo.data, content_type(photo))}
    response = await answer_of(client.post("/api/background-removal/remove", files=files))
    run.model = response.headers.get("X-Model-Version", run.model)
    stages = parse_server_timing(response.headers.get("Server-Timing", ""))
    return {**stages, "client": (time.perf_counter() - started) * 1000}


async def run_job(client: httpx.AsyncClient, photo: Photo, run: Run) -> dict[str, float]:
    """One job with a tap on the middle; milliseconds by step, and by stage where the status tells."""
    marks = [time.perf_counter()]
    files = {"file": (photo.name, photo.data, content_type(photo))}
    job = (await answer_of(client.post("/upload", files=files))).json()
    job_id = job["job_id"]
    marks.append(time.perf_counter())
    middle = [job["width"] // 2, job["height"] // 2]
    await answer_of(client.post("/segment", json={"job_id": job_id, "coordinates_list": [middle]}))
    while True:
        status = (await answer_of(client.get(f"/status/{job_id}"))).json()
        if status["status"] != "processing":
            break
        await asyncio.sleep(POLL_S)
    if status["status"] != "ready":
        raise RequestFailed(f"job {status['status']}: {status.get('error')}")
    marks.append(time.perf_counter())
    for name in status["files"]:
        await answer_of(client.get(f"/download/{job_id}/{name}"))
    marks.append(time.perf_counter())
    await answer_of(client.delete(f"/cleanup/{job_id}"))
    told = {stage: float(ms) for stage, ms in (status.get("stage_times_ms") or {}).items()}
    steps = zip(("upload", "segment", "download"), itertools.pairwise(marks), strict=True)
    return {**told, **{step: (b - a) * 1000 for step, (a, b) in steps}, "client": (marks[-1] - marks[0]) * 1000}


def content_type(photo: Photo) -> str:
    suffix = Path(photo.name).suffix.lower().lstrip(".")
    return f"image/{ {'jpg': 'jpeg'}.get(suffix, suffix or 'jpeg') }"


async def measure(
    work: Work, photo: Photo, *, url: str, concurrency: int, requests: int, seconds: float, title: str
) -> Run:
    """Sends ``photo`` again and again from ``concurrency`` callers until ``requests`` are answered or time is up."""
    run = Run()
    started = time.perf_counter()
    left = iter(range(requests))
    limits = httpx.Limits(max_connections=concurrency, max_keepalive_connections=concurrency)
    async with httpx.AsyncClient(base_url=url, timeout=TIMEOUT_S, limits=limits) as client:
        with tqdm(total=requests, desc=title, unit="image", file=sys.stderr) as bar:

            async def caller() -> None:
                for _ in left:
                    if time.perf_counter() - started > seconds:
                        return
                    try:
                        run.samples.append(await work(client, photo, run))
                    except (RequestFailed, httpx.HTTPError) as error:
                        run.errors[str(error) if isinstance(error, RequestFailed) else type(error).__name__] += 1
                    bar.update()

            await asyncio.gather(*(caller() for _ in range(concurrency)))
    run.seconds = time.perf_counter() - started
    return run


def machine() -> dict[str, Any]:
    """What the numbers were measured on (the client's machine: run it beside the service)."""
    cpu = platform.processor() or platform.machine()
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            cpu = line.partition(":")[2].strip()
            break
    return {
        "cpu": cpu,
        "cores": len(os.sched_getaffinity(0)),
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1),
        "python": platform.python_version(),
        **{name: version(name) for name in PACKAGES},
    }


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--url", default="http://127.0.0.1:8000")
    parser.add_argument("--photo", type=Path, help="photo to send; a made-up 1920x1080 one if absent")
    parser.add_argument("--job", action="store_true", help="whole jobs instead of background removals")
    parser.add_argument(
        "--concurrency", default="1", help="callers at once; several values, such as 1,2,4, run in turn"
    )
    parser.add_argument("--requests", type=int, default=50, help="images per concurrency")
    parser.add_argument(
        "--seconds",
        type=float,
        help="no new image after this time, per concurrency (120); with --overload, how long that lasts (60)",
    )
    parser.add_argument("--warmup", type=int, default=3, help="images sent first and not counted")
    parser.add_argument("--overload", action="store_true", help="more removals than the service can take")
    parser.add_argument("--factor", type=float, default=10, help="with --overload: times the sustainable rate")
    parser.add_argument("--pid", type=int, help="with --overload: of serve.sh, where more than one service runs")
    parser.add_argument("--json", type=Path, help="write everything to this file as well")
    return parser.parse_args()


def run_report(run: Run, concurrency: int) -> dict[str, Any]:
    """``run`` as it stands in the JSON file."""
    return {
        "concurrency": concurrency,
        "model": run.model,
        "images": len(run.samples),
        "seconds": round(run.seconds, 3),
        "images_per_s": round(run.images_per_s, 3),
        "stages": as_json(stage_stats(run.samples)),
        "errors": dict(run.errors),
    }


def print_facts(photo: Photo) -> dict[str, Any]:
    """Tells the machine and the photo; the machine's facts."""
    facts = machine()
    size = f"{photo.size_hw[1]}x{photo.size_hw[0]}"
    print(f"{facts['cpu']}, {facts['cores']} cores, {facts['memory_gib']} GiB")
    print(", ".join(f"{name} {facts[name]}" for name in ("python", *PACKAGES)))
    print(f"photo {photo.name}, {size}, {len(photo.data) / 1000:.0f} kB")
    return facts


async def overload_service(options: argparse.Namespace, photo: Photo) -> int:
    """``--overload``: 1 if the service broke a promise."""
    facts = print_facts(photo)
    form = overload.Form.of(photo.name, photo.data, content_type(photo))
    seconds = options.seconds or 60
    measured = await overload.measure(options.url, form, seconds=seconds, factor=options.factor, pid=options.pid)
    told = overload_report.figures(measured)
    print(overload_report.report(told))
    broken = overload_report.broken_promises(told)
    for promise in broken:
        print(f"FAILED {promise}")
    if options.json:
        sent = {"name": photo.name, "bytes": len(photo.data), "size_hw": photo.size_hw}
        report = {"machine": facts, "photo": sent, "factor": options.factor, **told}
        options.json.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    return int(bool(broken))


async def main() -> int:
    options = parse_arguments()
    photo = read_photo(options.photo)
    if options.overload:
        return await overload_service(options, photo)
    work = run_job if options.job else remove_background
    shared = {"url": options.url, "seconds": options.seconds or 120}
    if options.warmup:
        warm = await measure(work, photo, concurrency=1, requests=options.warmup, title="warm-up", **shared)
        if not warm.samples:
            print(f"benchmark: no answer to be measured from {options.url}: {dict(warm.errors)}", file=sys.stderr)
            return 1
    facts = print_facts(photo)

    runs = []
    for concurrency in map(int, options.concurrency.split(",")):
        title = f"{concurrency} at once"
        run = await measure(work, photo, concurrency=concurrency, requests=options.requests, title=title, **shared)
        runs.append(run_report(run, concurrency))
        print(f"\n{work.__name__}, model {run.model}, {title}: ", end="")
        print(f"{len(run.samples)} images in {run.seconds:.1f} s, {run.images_per_s:.2f} images/s")
        print(table(stage_stats(run.samples)))
        for code, count in run.errors.most_common():
            print(f"FAILED {count} x {code}")
    if options.json:
        sent = {"name": photo.name, "bytes": len(photo.data), "size_hw": photo.size_hw}
        report = {"work": work.__name__, "machine": facts, "photo": sent, "runs": runs}
        options.json.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    return int(any(run["errors"] or not run["images"] for run in runs))


if __name__ == "__main__":
    sys.exit(asyncio.run(main()))
