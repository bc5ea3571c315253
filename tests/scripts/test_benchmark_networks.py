"""The whole program, on networks small enough for a test."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(ROOT / "scripts" / "benchmark_networks.py"), "--threads", "1", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=110)


def test_a_quick_run_prints_a_table_and_writes_a_report(tmp_path: Path) -> None:
    file = tmp_path / "report.json"
    done = run("--quick", "--only", "lite", "--engines", "torch,tensorrt", "--starts", "1", "--json", str(file))
    assert done.returncode == 0, done.stderr
    assert "BiRefNet-tiny+synthetic, 2 rounds" in done.stdout
    assert "tensorrt: not run: " in done.stdout
    assert "lite at least 3x faster, " in done.stdout
    report: dict[str, Any] = json.loads(file.read_text())
    (case,) = report["cases"]
    eager, torch, tensorrt = case["results"]
    assert len(eager["seconds"]) == len(torch["seconds"]) == 2
    assert torch["figures"][0]["value"] <= 0.002
    assert 50 < torch["starts"][0]["resident_mib"] <= torch["starts"][0]["peak_mib"]
    assert tensorrt["refusal"]


def test_what_there_is_not_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    from scripts import benchmark_networks

    for arguments in (["--only", "lamb"], ["--engines", "openvivo"]):
        with pytest.raises(SystemExit):
            benchmark_networks.main(arguments)
    told = capsys.readouterr().err
    assert "there is no lamb" in told
    assert "'openvivo' is no engine" in told


@pytest.mark.slow
def test_every_case_runs_with_its_real_engine(tmp_path: Path) -> None:
    file = tmp_path / "report.json"
    done = run("--quick", "--engines", "torch", "--starts", "0", "--rounds", "1", "--json", str(file))
    assert done.returncode == 0, done.stderr
    cases = json.loads(file.read_text())["cases"]
    assert [case["name"] for case in cases] == ["lite", "general", "mobile-sam-encode", "mobile-sam-decode", "lama"]
    for case in cases:
        eager, torch = case["results"]
        assert len(torch["seconds"]) == len(eager["seconds"]) == 1
        for figure in torch["figures"]:
            limit = figure["limit"]
            assert limit is None or (figure["value"] >= limit if figure["at_least"] else figure["value"] <= limit)
