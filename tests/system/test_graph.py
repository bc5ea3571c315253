"""The graph on a cluster with a GPU (a claimed one: Ray only keeps the books)."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

from tests.system.conftest import ROOT

pytestmark = [pytest.mark.system, pytest.mark.slow, pytest.mark.timeout(300)]


@pytest.fixture(scope="module")
def result(tmp_path_factory: pytest.TempPathFactory) -> dict:
    folder = str(tmp_path_factory.mktemp("work"))
    env = {
        **os.environ,
        "PYTHONPATH": str(ROOT),
        "WORK_DIR": folder,
        "MODELS_DIR": folder,
        "RATE_LIMIT_PER_MINUTE": "0",
    }
    env.pop("RAY_ADDRESS", None)
    script = str(ROOT / "tests" / "system" / "graph_on_a_gpu.py")
    done = subprocess.run([sys.executable, script], env=env, cwd=ROOT, capture_output=True, text=True, timeout=240)
    lines = [line for line in done.stdout.splitlines() if line.startswith("RESULT ")]
    assert lines, done.stdout[-3000:] + done.stderr[-3000:]
    return json.loads(lines[0].removeprefix("RESULT "))


def test_the_application_has_its_five_deployments(result: dict) -> None:
    assert result["deployments"] == ["BiRefNet", "Ingress", "JobManager", "LaMa", "MobileSAM"]


def test_each_model_holds_its_fraction_of_the_gpu(result: dict) -> None:
    assert result["gpu_left"] == pytest.approx(1 - 0.4 - 0.2 - 0.3)


def test_a_gpu_that_torch_does_not_see_leaves_the_work_on_the_cpu(result: dict) -> None:
    assert result["device"] == "cpu"


def test_batches_fill_while_the_model_is_busy(result: dict) -> None:
    sizes = {int(size): count for size, count in result["batch_sizes"].items()}
    assert max(sizes) == 4
    assert sum(sizes.values()) <= 12, f"24 calls should need few batches: {sizes}"
