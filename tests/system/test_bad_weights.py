"""Weight files that must not run, in a real `serve run`: the service says what is wrong, and serves no garbage."""

from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path

import httpx
import numpy as np
import pytest
from PIL import Image
from safetensors.torch import save_file

from pipeline.models.sidecar import record
from pipeline.models.torch_engines import network_of
from pipeline.models.zoo import VARIANTS
from tests.golden.goldens import give_synthetic_weights
from tests.system.conftest import ROOT, RunningService, running_service
from tests.system.test_service import REMOVE, decoded, wait_until_done

pytestmark = [pytest.mark.system, pytest.mark.slow, pytest.mark.timeout(300)]


@pytest.fixture(scope="module")
def models_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A changed BiRefNet, a MobileSAM with a right hash and a value that is no number, half a LaMa."""
    folder = tmp_path_factory.mktemp("models")
    changed = synthetic(folder, "lite", b"weights")
    changed.write_bytes(b"WEIGHTS")
    network = network_of(VARIANTS["mobile-sam"])
    give_synthetic_weights(network)
    state = network.state_dict()
    state["mask_decoder.iou_token.weight"][0, 3] = float("nan")
    path = folder / VARIANTS["mobile-sam"].unpinned_file_name
    save_file(state, path)
    record(path, "mobile-sam", "synthetic")
    with (folder / VARIANTS["lama"].file_name).open("wb") as half:
        half.truncate(VARIANTS["lama"].weights.size_bytes // 2)
    return folder


@pytest.fixture(scope="module")
def untrusted_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A BiRefNet of the right size with other bytes, a MobileSAM made for another network, no LaMa."""
    folder = tmp_path_factory.mktemp("untrusted")
    with (folder / VARIANTS["lite"].file_name).open("wb") as other:
        other.truncate(VARIANTS["lite"].weights.size_bytes)
    record(synthetic(folder, "mobile-sam", b"weights"), "lama", "synthetic")
    return folder


def synthetic(folder: Path, name: str, content: bytes) -> Path:
    path = folder / VARIANTS[name].unpinned_file_name
    path.write_bytes(content)
    record(path, name, "synthetic")
    return path


@pytest.fixture(scope="module")
def with_auto(tmp_path_factory: pytest.TempPathFactory, models_dir: Path) -> Iterator[RunningService]:
    folder = tmp_path_factory.mktemp("auto")
    with running_service(folder, {"allow_unpinned": True, "device": "cpu"}, MODELS_DIR=str(models_dir)) as running:
        yield running


@pytest.fixture(scope="module")
def with_torch(tmp_path_factory: pytest.TempPathFactory, untrusted_dir: Path) -> Iterator[RunningService]:
    args = {"allow_unpinned": True, "device": "cpu", "engine": "torch"}
    folder = tmp_path_factory.mktemp("torch")
    with running_service(folder, args, MODELS_DIR=str(untrusted_dir)) as running:
        yield running


def assert_no_path(text: str, *folders: Path) -> None:
    for secret in (*map(str, folders), str(ROOT), "site-packages", "Traceback"):
        assert secret not in text, text


def test_the_embedded_engines_take_over_and_health_says_why(with_auto: RunningService, models_dir: Path) -> None:
    answer = httpx.get(f"{with_auto.url}/health", timeout=30)
    health = answer.json()
    assert (answer.status_code, health["status"]) == (200, "degraded")
    assert all("embedded" in model for model in health["models"].values()), health
    for reason in (
        "BiRefNet-lite.safetensors was changed or damaged",
        "MobileSAM.safetensors holds values that are not numbers (in mask_decoder.iou_token.weight)",
        "LaMa-344c77bb.safetensors is not the published file",
    ):
        assert reason in health["detail"]
    removal = httpx.get(f"{with_auto.url}/api/background-removal/health", timeout=30)
    assert (removal.status_code, removal.json()["status"]) == (200, "degraded")
    assert removal.json()["model_files_status"]["checkpoint"] is False
    assert_no_path(answer.text + removal.text, models_dir)


def test_the_embedded_engines_work_as_ever(with_auto: RunningService, photo: Path) -> None:
    with httpx.Client(base_url=with_auto.url, timeout=60) as client:
        answer = client.post(REMOVE, files={"image": photo.read_bytes()})
        assert answer.status_code == 200, answer.text
        assert answer.headers["X-Model-Version"].startswith("clearcut-embedded")
        alpha = np.asarray(Image.open(io.BytesIO(answer.content)))[..., 3]
        assert alpha[300, 200] > 200
        assert alpha[20, 20] < 50
        job_id = client.post("/upload", files={"file": photo.read_bytes()}).json()["job_id"]
        client.post("/segment", params={"job_id": job_id}, json={"coordinates_list": [[190, 350]]})
        assert wait_until_done(client, job_id)["status"] == "ready"
        mask = decoded(client.get(f"/download/{job_id}/mask_0.png").content)
        assert mask[350, 190] == 255


def test_with_one_engine_wanted_the_service_is_unhealthy_and_says_why(
    with_torch: RunningService, untrusted_dir: Path
) -> None:
    answer = httpx.get(f"{with_torch.url}/health", timeout=30)
    health = answer.json()
    assert (answer.status_code, health["status"], health["error_code"]) == (503, "unhealthy", "MODEL_NOT_LOADED")
    assert not any(health["models_loaded"].values())
    for reason in (
        "BiRefNet-lite-4417d897.safetensors is not the published file (its SHA-256 is another)",
        "MobileSAM.safetensors holds 'lama', and 'mobile-sam' was asked for",
        "LaMa-344c77bb.safetensors is missing",
    ):
        assert reason in health["detail"]
    removal = httpx.get(f"{with_torch.url}/api/background-removal/health", timeout=30)
    assert (removal.status_code, removal.json()["error_code"]) == (503, "MODEL_NOT_LOADED")
    assert removal.json()["detail"].startswith("BiRefNet-lite-4417d897.safetensors")
    assert_no_path(answer.text + removal.text, untrusted_dir)


def test_with_one_engine_wanted_nothing_is_served(with_torch: RunningService, untrusted_dir: Path, photo: Path) -> None:
    with httpx.Client(base_url=with_torch.url, timeout=60) as client:
        answer = client.post(REMOVE, files={"image": photo.read_bytes()})
        assert (answer.status_code, answer.json()["error_code"]) == (503, "MODEL_NOT_LOADED")
        assert answer.json()["detail"].startswith("BiRefNet-lite-4417d897.safetensors")
        job_id = client.post("/upload", files={"file": photo.read_bytes()}).json()["job_id"]
        client.post("/segment", params={"job_id": job_id}, json={"coordinates_list": [[190, 350]]})
        status = wait_until_done(client, job_id)
        assert (status["status"], status["files"]) == ("error", ["original.png"])
        assert status["error"].startswith("MobileSAM.safetensors holds 'lama'")
        assert_no_path(answer.text + str(status), untrusted_dir)
