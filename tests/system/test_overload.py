"""Ten times more removals than the service can take, for seconds; ``benchmark.py --overload`` does it for longer."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.system.conftest import ROOT, RunningService

pytestmark = [pytest.mark.system, pytest.mark.slow, pytest.mark.timeout(300)]

NOISE = 5.0
"""Times the idle latency, where the promise is 3: other work on the machine must not fail a test."""


@pytest.fixture(scope="module")
def told(service: RunningService, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    path: Path = tmp_path_factory.mktemp("overload") / "overload.json"
    benchmark = [sys.executable, str(ROOT / "scripts" / "benchmark.py"), "--overload", "--url", service.url]
    options = ["--pid", str(service.process.pid), "--seconds", "8", "--json", str(path)]
    done = subprocess.run([*benchmark, *options], capture_output=True, text=True, timeout=280)
    assert path.exists(), done.stdout + done.stderr
    figures: dict[str, Any] = json.loads(path.read_text())
    return figures


def test_most_are_refused_by_us_and_no_one_gets_another_error(told: dict[str, Any]) -> None:
    assert told["refused"] > told["accepted"] > 0
    assert told["other_outcomes"] == {}


def test_refusals_are_decided_at_once_and_say_when_to_come_again(told: dict[str, Any]) -> None:
    assert told["refused_decided_by_timing"] == told["refused"]
    assert told["refused_decided_ms"]["p95"] < 100
    assert told["refused_without_retry_after"] == 0


def test_accepted_work_keeps_its_latency(told: dict[str, Any]) -> None:
    assert told["accepted_p95_times_idle_p95"] < NOISE


def test_the_service_is_idle_again_at_once(told: dict[str, Any]) -> None:
    assert told["after_p50_times_idle_p50"] < NOISE / 2


def test_memory_returns_to_its_level(told: dict[str, Any]) -> None:
    ingress = next(row for name, row in told["memory_mb"].items() if name.startswith("Ingress"))
    assert ingress["after"] < ingress["before"] + 100
