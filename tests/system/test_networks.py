"""The three networks in a real `serve run`, with synthetic weights: they make noise, and all around them is real."""

from __future__ import annotations

import io
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import cv2
import httpx
import numpy as np
import pytest
from PIL import Image

from tests.system.conftest import ROOT, RunningService, running_service
from tests.system.test_service import REMOVE, assert_same_outside, decoded, wait_until_done

pytestmark = [pytest.mark.system, pytest.mark.slow, pytest.mark.timeout(600)]
VERSIONS = {"BiRefNet": "BiRefNet-lite+synthetic", "MobileSAM": "MobileSAM+synthetic", "LaMa": "LaMa+synthetic"}


@pytest.fixture(scope="module")
def models_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Synthetic weights of the default set."""
    folder = tmp_path_factory.mktemp("models")
    script = str(ROOT / "scripts" / "write_synthetic_weights.py")
    subprocess.run([sys.executable, script, "--models-dir", str(folder)], check=True, timeout=240)
    return folder


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory, models_dir: Path) -> Iterator[RunningService]:
    """A service of its own, which may load them and has all the time it needs."""
    with running_service(
        tmp_path_factory.mktemp("networks"),
        {"allow_unpinned": True, "device": "cpu"},
        MODELS_DIR=str(models_dir),
        BIREFNET_PROCESSING_TIMEOUT_SEC="200",
    ) as running:
        yield running


@pytest.fixture
def patient(service: RunningService) -> Iterator[httpx.Client]:
    """A client that waits as long as the service does."""
    with httpx.Client(base_url=service.url, timeout=250) as http:
        yield http


def test_health_is_healthy_and_names_the_networks(patient: httpx.Client) -> None:
    health = patient.get("/health").json()
    assert (health["status"], health["device"], health["models"]) == ("healthy", "cpu", VERSIONS)
    removal = patient.get("/api/background-removal/health").json()
    assert (removal["status"], removal["model"]) == ("healthy", VERSIONS["BiRefNet"])
    assert health["runtimes"] == {"BiRefNet": "openvino", "MobileSAM": "openvino", "LaMa": "torch"}
    assert removal["runtime"] == "openvino"
    assert removal["model_files_status"] == {"checkpoint": True, "config": True, "tensorrt_engine": False}


def test_a_photo_goes_through_birefnet(patient: httpx.Client, photo: Path) -> None:
    answer = patient.post(REMOVE, files={"image": (photo.name, photo.read_bytes(), "image/jpeg")})
    assert answer.status_code == 200, answer.text
    picture = Image.open(io.BytesIO(answer.content))
    assert (picture.format, picture.mode, picture.size) == ("PNG", "RGBA", (512, 512))
    assert np.asarray(picture)[..., 3].std() > 0
    assert answer.headers["X-Model-Version"] == VERSIONS["BiRefNet"]


def test_a_job_goes_through_mobile_sam_and_lama(patient: httpx.Client, photo: Path) -> None:
    job_id = patient.post("/upload", files={"file": (photo.name, photo.read_bytes(), "image/jpeg")}).json()["job_id"]
    started = patient.post("/segment", params={"job_id": job_id}, json={"coordinates_list": [[256, 256], [100, 400]]})
    assert started.status_code == 200, started.text
    status = wait_until_done(patient, job_id)
    assert status["status"] == "ready", status
    files = {name: patient.get(f"/download/{job_id}/{name}") for name in status["files"]}
    assert {answer.status_code for answer in files.values()} == {200}
    for index in range(2):
        mask, filled = (decoded(files[f"{kind}_{index}.png"].content) for kind in ("mask", "inpainted"))
        assert_same_outside(decoded(files["original.png"].content), filled, mask, status["refine_radius_px"])
    assert patient.delete(f"/cleanup/{job_id}").status_code == 200


def test_under_load_each_network_takes_several_at_once(patient: httpx.Client, photo: Path) -> None:
    data = cv2.imencode(".jpg", cv2.resize(cv2.imread(str(photo)), (192, 160)))[1].tobytes()

    def remove(_: int) -> int:
        return patient.post(REMOVE, files={"image": data}).status_code

    def run_job(_: int) -> str:
        job_id = patient.post("/upload", files={"file": data}).json()["job_id"]
        taps = {"coordinates_list": [[60, 50], [130, 110]]}
        assert patient.post("/segment", params={"job_id": job_id}, json=taps).status_code == 200
        return str(wait_until_done(patient, job_id)["status"])

    with ThreadPoolExecutor(10) as callers:
        removals, jobs = callers.map(remove, range(6)), callers.map(run_job, range(4))
        assert list(removals) == [200] * 6
        assert list(jobs) == ["ready"] * 4
    health = patient.get("/health").json()
    assert (health["status"], health["models"]) == ("healthy", VERSIONS)
    largest = {name: max(map(int, sizes)) for name, sizes in health["batch_sizes"].items()}
    assert min(largest.values()) > 1, health["batch_sizes"]
