"""The workflow of tap-to-remove, walked through against a running service.

    python tests/integration_test.py [--url http://127.0.0.1:8000] [--image photo.jpg] [--points 190,350 400,420]

Health, upload, segment, polling, every download, cleanup: each step is checked and printed; the first that fails
ends the walk with exit code 1.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

import cv2
import httpx
import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

HERE = Path(__file__).resolve().parent
DONE = {"ready", "error", "canceled"}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--url", default="http://127.0.0.1:8000")
    parser.add_argument("--image", type=Path, default=HERE / "data" / "astronaut.jpg")
    parser.add_argument("--points", nargs="+", default=["190,350", "400,430"], help="x,y of one tap per object")
    parser.add_argument("--timeout", type=float, default=120, help="seconds until the job must be done")
    arguments = parser.parse_args()
    points = [[float(number) for number in point.split(",")] for point in arguments.points]
    with httpx.Client(base_url=arguments.url, timeout=60) as client:
        try:
            walk(client, arguments.image, points, arguments.timeout)
        except (AssertionError, httpx.HTTPError) as error:
            print(f"FAILED: {error}", file=sys.stderr)
            return 1
    print("The whole workflow works.")
    return 0


def walk(client: httpx.Client, image: Path, points: list[list[float]], timeout_s: float) -> None:
    """Every step of the workflow, in the order a user takes them."""
    health = client.get("/health")
    check(health.status_code == 200, f"health answers 200, not {health.status_code}: {health.text}")
    step("health", f"{health.json()['status']}, models {health.json()['models']}")

    with image.open("rb") as file:
        uploaded = client.post("/upload", files={"file": (image.name, file, "image/jpeg")})
    check(uploaded.status_code == 200, f"upload answers 200: {uploaded.text}")
    job_id = uploaded.json()["job_id"]
    check(uploaded.json()["status"] == "uploaded", "the job is uploaded")
    step("upload", f"job {job_id}, {uploaded.json()['width']}x{uploaded.json()['height']}")

    started = client.post("/segment", params={"job_id": job_id}, json={"coordinates_list": points})
    check(started.status_code == 200, f"segment answers 200: {started.text}")
    check(started.json()["status"] == "processing", "the job is processing")
    step("segment", started.json()["message"])

    status = wait_until_done(client, job_id, timeout_s)
    check(status["status"] == "ready", f"the job gets ready: {status}")

    files = {name: download(client, job_id, name) for name in expected_files(len(points))}
    original = files["original.png"]
    radius = status["refine_radius_px"]
    everywhere = np.zeros(original.shape[:2], np.uint8)
    for index in range(len(points)):
        mask = files[f"mask_{index}.png"]
        check(set(np.unique(mask)) <= {0, 255} and mask.any(), f"mask_{index} is binary and not empty")
        check(files[f"cropped_{index}.png"].shape[2] == 4, f"cropped_{index} has transparency")
        check_unchanged(original, files[f"inpainted_{index}.png"], mask, radius)
        everywhere |= mask
    check_unchanged(original, files["full_inpainted.png"], everywhere, radius)
    step("download", f"{len(files)} files; pixels outside the masks are unchanged")

    deleted = client.delete(f"/cleanup/{job_id}")
    check(deleted.json() == {"status": "deleted", "job_id": job_id}, f"cleanup deletes: {deleted.text}")
    gone = client.get(f"/status/{job_id}")
    check(gone.status_code == 404 and gone.json()["detail"] == "Job not found", "the job is gone")
    step("cleanup", "the job is gone")


def wait_until_done(client: httpx.Client, job_id: str, timeout_s: float) -> dict:  # type: ignore[type-arg]
    """Polls as a client would; progress must not fall."""
    deadline = time.monotonic() + timeout_s
    with tqdm(total=100, desc="processing", unit="%", leave=False) as bar:
        while True:
            status = client.get(f"/status/{job_id}").json()
            check(status["progress"] >= bar.n, "progress never falls")
            bar.update(status["progress"] - bar.n)
            bar.set_postfix_str(status["stage"])
            if status["status"] in DONE:
                return status
            check(time.monotonic() < deadline, f"the job is done within {timeout_s} s")
            time.sleep(0.2)


def download(client: httpx.Client, job_id: str, name: str) -> NDArray[np.uint8]:
    """One file, decoded."""
    answer = client.get(f"/download/{job_id}/{name}")
    check(answer.status_code == 200, f"{name} can be downloaded: {answer.text if answer.status_code != 200 else ''}")
    pixels = cv2.imdecode(np.frombuffer(answer.content, np.uint8), cv2.IMREAD_UNCHANGED)
    check(pixels is not None, f"{name} is a picture")
    return np.asarray(pixels, np.uint8)


def expected_files(objects: int) -> list[str]:
    """The names a finished job offers."""
    each = [f"{kind}_{index}.png" for index in range(objects) for kind in ("mask", "cropped", "inpainted")]
    return ["original.png", *each, "full_inpainted.png"]


def check_unchanged(
    original: NDArray[np.uint8], changed: NDArray[np.uint8], mask: NDArray[np.uint8], radius_px: int
) -> None:
    """Pixels farther from the mask than the refinement reaches are the same bytes."""
    distance = cv2.distanceTransform((mask == 0).astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
    far = distance > radius_px
    check(bool((original[far] == changed[far]).all()), "pixels outside the refined mask are unchanged")


def check(holds: bool, what: str) -> None:
    if not holds:
        raise AssertionError(what)


def step(name: str, what: str) -> None:
    print(f"{name:>9}  {what}")


if __name__ == "__main__":
    sys.exit(main())
