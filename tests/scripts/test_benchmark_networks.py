"""The whole program, on networks small enough for a test."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from scripts import benchmark_networks
from scripts.network_benchmarks.candidates import Candidate
from scripts.network_benchmarks.cases import Figure
from scripts.network_benchmarks.cpu import CaseReport
from scripts.network_benchmarks.gpu import GpuRow, Peaks
from scripts.network_benchmarks.ratios import speedup
from scripts.network_benchmarks.reports import case_table, describe_floor, gpu_table
from scripts.network_benchmarks.starts import Start
from scripts.network_benchmarks.verdicts import Result
from scripts.network_benchmarks.work import Work

ROOT = Path(__file__).resolve().parents[2]


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(ROOT / "scripts" / "benchmark_networks.py"), "--threads", "1", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=110)


def test_a_quick_run_prints_a_table_and_writes_a_report(tmp_path: Path) -> None:
    file = tmp_path / "report.json"
    done = run("--quick", "--only", "lite", "--engines", "torch", "--starts", "1", "--json", str(file))
    assert done.returncode == 0, done.stderr
    assert "BiRefNet-tiny+synthetic, 2 rounds" in done.stdout
    assert "lite at least 3x faster, " in done.stdout
    report: dict[str, Any] = json.loads(file.read_text())
    (case,) = report["cases"]
    eager, ours = case["results"]
    assert len(eager["seconds"]) == len(ours["seconds"]) == 2
    assert ours["figures"][0]["value"] <= 0.002
    assert 50 < ours["starts"][0]["resident_mib"] <= ours["starts"][0]["peak_mib"]


def test_what_there_is_not_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    for arguments in (["--only", "lamb"], ["--engines", "openvivo"]):
        with pytest.raises(SystemExit):
            benchmark_networks.main(arguments)
    told = capsys.readouterr().err
    assert "there is no lamb" in told
    assert "'openvivo' is no engine" in told


def test_without_a_gpu_its_table_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    assert benchmark_networks.main(["--device", "cuda"]) == 1
    assert "sees no GPU" in capsys.readouterr().err


def test_the_table_tells_what_ran_how_well_and_what_did_not() -> None:
    ran = Result(Candidate("torch"), seconds=[2.0, 1.0, 4.0], speedup=speedup([4.0, 2.0, 4.0], [2.0, 1.0, 4.0]))
    ran.starts = [Start(60, 900, 950, 0), Start(3, 400, 450, 7)]
    ran.figures = [Figure("alpha MAE", 0.01, 0.002)]
    refused = Result(Candidate("openvino", "bfloat16"), refusal="This CPU has none.")
    lines = case_table(CaseReport("lite", "BiRefNet-lite", 3, [ran, refused])).splitlines()
    assert " ".join(lines[2].split()) == "torch 1.000 2.000 2.00x (1.00 to 2.00) 2.00x 60.0 3.0 400 450 7"
    assert lines[3:] == ["torch: alpha MAE 0.01 MISSED", "openvino bfloat16: not run: This CPU has none."]


def test_the_gpus_table_has_a_line_for_each_row() -> None:
    row = GpuRow("lite", "float16", "graph", 4, 2.5, 900, 0.5, 0.25, 3e-3)
    refused = GpuRow("lite", "float16", "graph", 8, refusal="out of memory")
    heading, first, second = gpu_table([row, refused]).splitlines()
    assert heading.split()[:4] == ["network", "precision", "runner", "batch"]
    assert first.split() == ["lite", "float16", "graph", "4", "2.50", "400.0", "900", "0.50", "0.25", "3.0e-03"]
    assert second.rstrip().endswith("out of memory")


def test_a_floor_names_what_it_comes_from() -> None:
    peaks = Peaks({torch.float32: 1e11}, 1e10)
    text = describe_floor(Work(2e11, 1e9), peaks)
    assert text == "floor in float32: 2.00 s by 200 GFLOP, 0.40 s by bytes"


@pytest.mark.slow
def test_every_case_runs_with_its_real_engine(tmp_path: Path) -> None:
    file = tmp_path / "report.json"
    done = run("--quick", "--engines", "torch", "--starts", "0", "--rounds", "1", "--json", str(file))
    assert done.returncode == 0, done.stderr
    cases = json.loads(file.read_text())["cases"]
    assert [case["name"] for case in cases] == ["lite", "general", "mobile-sam-encode", "mobile-sam-decode", "lama"]
    for case in cases:
        eager, ours = case["results"]
        assert len(ours["seconds"]) == len(eager["seconds"]) == 1
        for figure in ours["figures"]:
            limit = figure["limit"]
            assert limit is None or (figure["value"] >= limit if figure["at_least"] else figure["value"] <= limit)
