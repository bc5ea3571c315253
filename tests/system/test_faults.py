"""Replicas that die and callers that give up, on a real graph: who gets an answer, and what is not worked on."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import Any

import pytest

from tests.system.conftest import ROOT, free_port

pytestmark = [pytest.mark.system, pytest.mark.slow, pytest.mark.timeout(300)]

POISON = 13


@pytest.fixture(scope="module")
def result(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("work")
    own = {"WORK_DIR": str(folder), "MODELS_DIR": str(folder), "STUB_LOG": str(folder / "batches.jsonl")}
    env = {**os.environ, **own, "PYTHONPATH": str(ROOT), "MAX_REMOVALS_IN_FLIGHT": "16", "RATE_LIMIT_PER_MINUTE": "0"}
    env.pop("RAY_ADDRESS", None)
    script = [sys.executable, "-m", "tests.system.graph_with_a_stub", str(free_port())]
    done = subprocess.run(script, env=env, cwd=ROOT, capture_output=True, text=True, timeout=240)
    lines = [line for line in done.stdout.splitlines() if line.startswith("RESULT ")]
    assert lines, done.stdout[-3000:] + done.stderr[-3000:]
    told: dict[str, Any] = json.loads(lines[0].removeprefix("RESULT "))
    return told


def test_a_poisoned_picture_costs_its_neighbours_no_answer(result: dict[str, Any]) -> None:
    answers = result["poison"]["answers"]
    assert [answers[0], *answers[2:]] == ["200 1", "200 2", "200 3"]


def test_it_met_them_in_one_batch_and_was_tried_again_alone(result: dict[str, Any]) -> None:
    poisoned = [batch for batch in result["poison"]["batches"] if POISON in batch]
    assert len(poisoned[0]) > 1
    assert poisoned[1:] == [[POISON]]


def test_the_poisoned_picture_is_told_to_try_again_once_and_then_never_runs(result: dict[str, Any]) -> None:
    poison = result["poison"]
    assert (poison["answers"][1], poison["again"]) == ("503 OVERLOADED", "400 IMAGE_QUARANTINED")
    assert (poison["deaths"], poison["deaths_after"]) == (2, 2)


def test_a_client_that_goes_away_takes_its_waiting_work_along(result: dict[str, Any]) -> None:
    gone = result["gone"]
    assert gone["gone"] == "ReadTimeout"
    assert (gone["slow"], gone["next"]) == ("200 99", "200 51")
    assert gone["ran"] == [51]


def test_a_deadline_drops_what_waits_behind_a_batch(result: dict[str, Any]) -> None:
    assert result["late"] == {"outcomes": ["late"] * 4, "ran": [70]}
