from __future__ import annotations

import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from pipeline.models.export.modules import example_inputs, graph_module, output_names
from pipeline.models.export.onnx_file import export_onnx
from pipeline.models.export.onnx_runner import OnnxRunner
from pipeline.models.lama.network import LamaGenerator
from pipeline.models.tensorrt.cache import EngineKey, EngineRecord, Latency
from pipeline.models.tensorrt.platform import Platform
from scripts import verify_onnx, warmup_tensorrt
from scripts.warmup_tensorrt import error_table, latency_table, measure, verify, with_photo
from tests.pipeline.models.export import small

ROOT = Path(__file__).resolve().parents[2]
PLATFORM = Platform("NVIDIA H200", "9.0", "11.4.0.106")


def record(error: float) -> EngineRecord:
    key = EngineKey("LaMa", "0" * 64, "inpainting-512", "fp16-fft32", (1, 2), PLATFORM)
    latencies = [Latency(1, 4.0, 5.0, 250.0, 300.0), Latency(2, 6.0, 7.0, 333.3, 300.0)]
    return EngineRecord(key, "0" * 64, error <= 0.0056, {"error": error}, {"error": 0.0056}, latencies)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
@pytest.mark.parametrize("arguments", [[], ["lama", "--check"]])
def test_without_a_gpu_one_line_says_so_and_what_to_do(arguments: list[str]) -> None:
    command = [sys.executable, ROOT / "scripts" / "warmup_tensorrt.py", *arguments]
    ran = subprocess.run(command, capture_output=True, text=True, check=False)
    assert ran.returncode == 2
    assert ran.stdout == ""
    (line,) = ran.stderr.splitlines()
    assert "NVIDIA GPU" in line
    assert "scripts/setup_env.sh --gpu" in line
    assert "--dry-run" in line


def test_an_unknown_name_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        warmup_tensorrt.main(["dream"])
    assert "there is no dream" in capsys.readouterr().err


def test_a_dry_run_looks_through_the_engines_graphs(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    asked: list[list[str]] = []
    monkeypatch.setattr(verify_onnx, "main", lambda arguments: asked.append(arguments) or 1)
    assert warmup_tensorrt.main(["lama", "--dry-run", "--models-dir", str(tmp_path)]) == 1
    assert asked == [["lama", "--models-dir", str(tmp_path), "--engine-precision"]]


def test_the_tables_have_a_line_for_each_batch_and_each_check() -> None:
    _, one, two = latency_table([record(0.001)]).splitlines()
    assert one.split() == ["LaMa", "inpainting-512", "1", "4.00", "5.00", "250.0", "300"]
    assert two.split()[2] == "2"
    _, passed, failed = error_table([record(0.001), record(float("nan"))]).splitlines()
    assert not passed.endswith("FAILED")
    assert failed.endswith("FAILED")


def test_a_latency_is_that_of_whole_runs() -> None:
    class Counting:
        runs = 0

        def run(self, inputs: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
            assert inputs["images"].shape[0] == 4
            self.runs += 1
            return {}

    runner = Counting()
    found = measure(runner, small.MATTING, 4, 7, lambda: 12.5)
    assert runner.runs == 7 + 5
    assert found.p95_ms >= found.p50_ms > 0
    assert found.images_per_s == pytest.approx(4000 / found.p50_ms)
    assert found.memory_mib == 12.5


def test_a_graph_is_verified_against_pytorch_over_all_its_batches() -> None:
    """On ONNX Runtime and a CPU; an engine on a GPU is verified by the same function."""
    spec = small.INPAINTING
    model = export_onnx(
        graph_module(spec, small.lama(), precision=spec.precision), example_inputs(spec, 2), output_names(spec)
    )
    runner = OnnxRunner(model, threads=1)
    verdict = verify(runner, spec, small.lama, device="cpu")
    assert verdict.passed, verdict
    assert verdict.errors["picture's error"] > 0  # half precision against float32

    other = LamaGenerator(width=4, blocks=2).eval().requires_grad_(False)
    assert not verify(runner, spec, lambda: other, device="cpu").passed


def test_the_first_picture_is_a_photo_and_the_others_stay() -> None:
    images = np.zeros((2, 64, 96, 3), np.uint8)
    found = with_photo({"images": images})["images"]
    assert found[0].std() > 30
    assert not found[1].any()
    assert not images.any()
    assert with_photo({"features": images}) == {"features": images}
