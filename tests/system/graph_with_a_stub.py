"""Runs the application with a stub in BiRefNet's place: slow, and killed by one colour. Prints what became of requests.

Run by test_faults.py in a process of its own, since a cluster started in pytest's would outlive its tests. Each picture
has one colour, whose red value is its number; the stub writes the numbers of every batch to a file.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from unittest import mock

import cv2
import httpx
import numpy as np
import ray
from ray import serve

from deployments import app, birefnet
from deployments.handles import RemoteMatting
from deployments.model_replica import ModelReplica
from pipeline.models.ladder import EngineOptions, Loaded
from pipeline.types import Alpha8, EngineInfo, Image

REMOVE = "/api/background-removal/remove"
POISON = 13
SLOW = 99
"""Its batch takes ``SLOW_S``: what comes meanwhile waits at the gate."""

SLOW_S = 1.5
PATIENCE_S = 60.0


class Engine:
    """Opaque masks, as bright as the picture's number."""

    info = EngineInfo("stub", "cpu", (64, 64))

    def estimate_alpha(self, images: Sequence[Image]) -> list[Alpha8]:
        numbers = [int(image[0, 0, 0]) for image in images]
        with Path(os.environ["STUB_LOG"]).open("a") as log:
            log.write(json.dumps(numbers) + "\n")
        if POISON in numbers:
            os._exit(1)
        time.sleep(SLOW_S if SLOW in numbers else 0.05)
        return [np.full(image.shape[:2], 255, np.uint8) for image in images]


@serve.deployment(max_ongoing_requests=64, health_check_period_s=1, graceful_shutdown_timeout_s=5)
class StubBiRefNet(birefnet.BiRefNet.func_or_class):
    """The real deployment around the stub."""

    def __init__(self, options: EngineOptions) -> None:
        self._replica = ModelReplica("BiRefNet", lambda: Loaded(Engine()))


def batches() -> list[list[int]]:
    path = Path(os.environ["STUB_LOG"])
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


async def has_begun(number: int) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not any(number in batch for batch in batches()):
        assert time.monotonic() < deadline
        await asyncio.sleep(0.02)


def picture(number: int) -> bytes:
    rgb = np.full((64, 64, 3), (number, 90, 40), np.uint8)
    return bytes(cv2.imencode(".png", rgb[:, :, ::-1])[1])


async def remove(client: httpx.AsyncClient, number: int) -> str:
    """Status, and the code of an error or the red of the cut-out."""
    answer = await client.post(REMOVE, files={"image": ("p.png", picture(number), "image/png")})
    if answer.status_code != 200:
        return f"{answer.status_code} {answer.json()['error_code']}"
    pixels = cv2.imdecode(np.frombuffer(answer.content, np.uint8), cv2.IMREAD_UNCHANGED)
    return f"200 {pixels[32, 32, 2]}"


async def poison_among_neighbours(client: httpx.AsyncClient) -> dict[str, object]:
    """One batch of a poisoned picture and three others, and the poisoned one again."""
    slow = asyncio.create_task(remove(client, SLOW))
    await has_begun(SLOW)
    answers = await asyncio.gather(*(remove(client, number) for number in (1, POISON, 2, 3)))
    await slow
    deaths = sum(POISON in batch for batch in batches())
    again = await remove(client, POISON)
    return {
        "answers": answers,
        "again": again,
        "deaths": deaths,
        "deaths_after": sum(POISON in batch for batch in batches()),
        "batches": batches(),
    }


async def clients_that_go_away(client: httpx.AsyncClient) -> dict[str, object]:
    """A client that gives up while its picture waits at the gate."""
    slow = asyncio.create_task(remove(client, SLOW))
    seen = len(batches())
    while len(batches()) == seen:
        await asyncio.sleep(0.02)
    gone = await asyncio.gather(
        client.post(REMOVE, files={"image": ("p.png", picture(50), "image/png")}, timeout=0.4), return_exceptions=True
    )
    return {
        "gone": type(gone[0]).__name__,
        "slow": await slow,
        "next": await remove(client, 51),
        "ran": sorted({number for batch in batches() for number in batch} & {50, 51}),
    }


async def deadlines(matting: RemoteMatting) -> dict[str, object]:
    """More calls than a batch holds; those that did not get into the first are given up."""
    before = len(batches())

    async def ask(number: int, timeout_s: float) -> str:
        try:
            async with asyncio.timeout(timeout_s):
                await matting.alpha(np.full((64, 64, 3), number, np.uint8))
        except TimeoutError:
            return "late"
        return "answered"

    first = asyncio.create_task(ask(SLOW, PATIENCE_S))
    while len(batches()) == before:
        await asyncio.sleep(0.02)
    # These pass the gate together; the batch of the first four takes SLOW_S, and the others are parked behind it.
    waiting = [asyncio.create_task(ask(SLOW, PATIENCE_S)) for _ in range(4)]
    await asyncio.sleep(0.2)
    parked = [asyncio.create_task(ask(60 + number, 1.5 * SLOW_S)) for number in range(4)]
    outcomes = await asyncio.gather(*parked)
    await asyncio.gather(first, *waiting)
    await ask(70, PATIENCE_S)
    ran = {number for batch in batches()[before:] for number in batch}
    return {"outcomes": outcomes, "ran": sorted(ran & set(range(60, 71)))}


async def main(port: int) -> dict[str, object]:
    async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", timeout=PATIENCE_S) as client:
        return {
            "gone": await clients_that_go_away(client),
            "late": await deadlines(RemoteMatting(serve.get_deployment_handle("BiRefNet", "clearcut"))),
            "poison": await poison_among_neighbours(client),
        }


if __name__ == "__main__":
    ray.init(num_cpus=4, include_dashboard=False)
    serve.start(http_options={"host": "127.0.0.1", "port": int(sys.argv[1])})
    with mock.patch.object(app, "BiRefNet", StubBiRefNet.options(name="BiRefNet")):
        serve.run(app.build(app.AppArgs()), name="clearcut")
    print("RESULT " + json.dumps(asyncio.run(main(int(sys.argv[1])))))
    serve.shutdown()
    ray.shutdown()
    sys.exit(0)
