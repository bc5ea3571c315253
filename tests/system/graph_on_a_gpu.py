"""Builds the application on a cluster that claims to have a GPU, and prints what was reserved and how batches filled.

Run by test_graph.py in a process of its own, since a cluster started in pytest's would outlive its tests.
"""

from __future__ import annotations

import asyncio
import json
import sys

import numpy as np
import ray
from ray import serve

from deployments.app import AppArgs, build
from deployments.handles import RemoteMatting

CALLS = 24


async def call_steadily(matting: RemoteMatting) -> None:
    """More calls than one batch holds, a few at a time, as requests come."""
    image = np.full((*(await matting.info()).input_size_hw, 3), 90, np.uint8)
    image[100:200, 100:200] = 200
    calls = []
    for _ in range(CALLS):
        calls.append(asyncio.ensure_future(matting.alpha(image)))
        await asyncio.sleep(0.02)
    await asyncio.gather(*calls)


async def measure() -> dict[str, object]:
    matting = RemoteMatting(serve.get_deployment_handle("BiRefNet", "clearcut"))
    await call_steadily(matting)
    status = await matting.status()
    deployments = serve.status().applications["clearcut"].deployments
    return {
        "deployments": sorted(deployments),
        "gpu_left": round(ray.available_resources().get("GPU", 0.0), 3),
        "device": status.info.device if status.info else None,
        "batch_sizes": status.batch_sizes,
    }


if __name__ == "__main__":
    ray.init(num_cpus=4, num_gpus=1, include_dashboard=False)
    serve.start(proxy_location="Disabled")
    serve.run(build(AppArgs()), name="clearcut", route_prefix=None)
    print("RESULT " + json.dumps(asyncio.run(measure())))
    serve.shutdown()
    ray.shutdown()
    sys.exit(0)
