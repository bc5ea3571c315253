"""Both APIs against a real `serve run`: the graph, the proxy, the models and the disk together."""

from __future__ import annotations

import io
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import cv2
import httpx
import numpy as np
import pytest
from PIL import Image

from tests.system.conftest import ROOT, RunningService

pytestmark = [pytest.mark.system, pytest.mark.timeout(300)]
REMOVE = "/api/background-removal/remove"


def decoded(data: bytes) -> np.ndarray:
    return np.asarray(cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED))


def test_a_photo_comes_back_cut_out(client: httpx.Client, photo: Path) -> None:
    answer = client.post(REMOVE, files={"image": (photo.name, photo.read_bytes(), "image/jpeg")})
    assert answer.status_code == 200, answer.text
    picture = Image.open(io.BytesIO(answer.content))
    assert (picture.format, picture.mode, picture.size) == ("PNG", "RGBA", (512, 512))
    alpha = np.asarray(picture)[..., 3]
    assert alpha[300, 200] > 200, "the astronaut's suit is kept"
    assert alpha[20, 20] < 50, "the corner is removed"
    assert answer.headers["X-Original-Size"] == "512x512"
    health = client.get("/api/background-removal/health").json()
    assert answer.headers["X-Model-Version"] == health["model"]
    assert {"decode", "wait", "infer", "refine", "compose", "encode", "total"} <= {
        entry.split(";")[0].strip() for entry in answer.headers["Server-Timing"].split(",")
    }


def test_health_counts_real_requests(client: httpx.Client, photo: Path) -> None:
    before = client.get("/api/background-removal/health").json()["performance_metrics"]["requests_last_hour"]
    assert client.post(REMOVE, files={"image": photo.read_bytes()}).status_code == 200
    after = client.get("/api/background-removal/health").json()
    assert after["performance_metrics"]["requests_last_hour"] == before + 1
    assert after["performance_metrics"]["p95_latency_ms"] > 0
    assert after["status"] == "degraded"
    assert after["detail"]


def test_the_whole_workflow_of_jobs_works(service: RunningService) -> None:
    walk = subprocess.run(
        [sys.executable, str(ROOT / "tests" / "integration_test.py"), "--url", service.url],
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert walk.returncode == 0, walk.stdout + walk.stderr


def test_a_job_of_ten_objects_leaves_32_files_and_the_rest_of_the_photo_alone(
    client: httpx.Client, photo: Path
) -> None:
    upright = cv2.resize(np.asarray(cv2.imread(str(photo))), (1024, 1024), interpolation=cv2.INTER_CUBIC)
    jpeg = cv2.imencode(".jpg", upright)[1].tobytes()
    job_id = client.post("/upload", files={"file": ("large.jpg", jpeg, "image/jpeg")}).json()["job_id"]
    taps = [
        [380, 700],
        [786, 854],
        [440, 200],
        [840, 300],
        [200, 900],
        [640, 640],
        [100, 300],
        [560, 420],
        [900, 560],
        [320, 480],
    ]
    started = client.post("/segment", params={"job_id": job_id}, json={"coordinates_list": taps})
    assert started.status_code == 200, started.text
    status = wait_until_done(client, job_id)
    assert status["status"] == "ready", status
    assert len(status["files"]) == 32
    files = {name: client.get(f"/download/{job_id}/{name}") for name in status["files"]}
    assert {answer.status_code for answer in files.values()} == {200}
    original = decoded(files["original.png"].content)
    union = np.zeros(original.shape[:2], np.uint8)
    for index in range(10):
        mask = decoded(files[f"mask_{index}.png"].content)
        union |= mask
        assert_same_outside(
            original, decoded(files[f"inpainted_{index}.png"].content), mask, status["refine_radius_px"]
        )
    assert_same_outside(original, decoded(files["full_inpainted.png"].content), union, status["refine_radius_px"])
    assert client.delete(f"/cleanup/{job_id}").status_code == 200


def assert_same_outside(original: np.ndarray, changed: np.ndarray, mask: np.ndarray, radius_px: int) -> None:
    distance = cv2.distanceTransform((mask == 0).astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
    outside = distance > radius_px
    assert np.array_equal(original[outside], changed[outside])
    assert (original[mask > 0] != changed[mask > 0]).any(), "something was filled"


def wait_until_done(client: httpx.Client, job_id: str, timeout_s: float = 240) -> dict:
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        status = client.get(f"/status/{job_id}").json()
        if status["status"] not in ("uploaded", "processing"):
            return status
        time.sleep(0.2)
    raise AssertionError(f"The job is not done after {timeout_s} s: {status}")


def test_two_clients_at_once_get_their_own_photos(service: RunningService) -> None:
    names = ["astronaut.jpg", "coffee.jpg", "rocket.jpg"] * 2

    def remove(name: str) -> tuple[str, str]:
        data = (ROOT / "tests" / "data" / name).read_bytes()
        answer = httpx.post(service.url + REMOVE, files={"image": (name, data, "image/jpeg")}, timeout=60)
        assert answer.status_code == 200, answer.text
        return answer.headers["X-Original-Size"], answer.headers["Content-Disposition"]

    sizes = {"astronaut.jpg": "512x512", "coffee.jpg": "600x400", "rocket.jpg": "640x427"}
    with ThreadPoolExecutor(len(names)) as pool:
        for name, (size, disposition) in zip(names, pool.map(remove, names), strict=True):
            assert size == sizes[name]
            assert disposition.startswith(f'attachment; filename="{name.removesuffix(".jpg")}_nobg_')


@pytest.mark.parametrize(
    ("data", "declared", "status", "code"),
    [
        (b"%PDF-1.4\n%...", "application/pdf", 400, "INVALID_FORMAT"),
        (b"", "image/jpeg", 400, "INVALID_IMAGE"),
        (b"\xff\xd8\xff" + b"\x00" * 1000, "image/jpeg", 400, "INVALID_IMAGE"),
        (b"\xff\xd8\xff" + b"\x00" * (11 * 1024 * 1024), "image/jpeg", 413, "FILE_TOO_LARGE"),
    ],
    ids=["pdf", "empty", "broken", "11 MB"],
)
def test_bad_uploads_get_a_clear_error(
    client: httpx.Client, data: bytes, declared: str, status: int, code: str
) -> None:
    answer = client.post(REMOVE, files={"image": ("photo.jpg", data, declared)})
    assert (answer.status_code, answer.json()["error_code"]) == (status, code)
    assert answer.json()["request_id"] == answer.headers["X-Request-ID"]


def test_an_unknown_route_and_a_wrong_method_have_the_same_error_body(client: httpx.Client) -> None:
    for answer, status, code in (
        (client.get("/nowhere"), 404, "NOT_FOUND"),
        (client.get(REMOVE), 405, "METHOD_NOT_ALLOWED"),
    ):
        assert (answer.status_code, answer.json()["error_code"]) == (status, code)
        assert answer.json()["request_id"]


def test_an_unknown_job_is_not_found(client: httpx.Client) -> None:
    answer = client.get("/status/00000000000000000000000000000000")
    assert answer.status_code == 404
    assert answer.json()["detail"] == "Job not found"
