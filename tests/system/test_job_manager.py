"""JobManager is killed, twice, while jobs wait and run: nobody loses a job, and callers only wait."""

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
    env = {**os.environ, "PYTHONPATH": str(ROOT), "WORK_DIR": folder, "WORK_DIR_MIN_FREE_GB": "0"}
    for name in ("RAY_ADDRESS", "DATABASE_URL"):
        env.pop(name, None)
    script = str(ROOT / "tests" / "system" / "job_manager_dies.py")
    done = subprocess.run([sys.executable, script], env=env, cwd=ROOT, capture_output=True, text=True, timeout=280)
    lines = [line for line in done.stdout.splitlines() if line.startswith("RESULT ")]
    assert lines, done.stdout[-3000:] + done.stderr[-3000:]
    return json.loads(lines[0].removeprefix("RESULT "))


def test_every_accepted_job_is_ready_with_every_file(result: dict) -> None:
    assert result["processes"] == 2
    assert result["accepted"] >= 24
    assert result["states"] == {"ready": result["accepted"]}
    assert result["files"] == [8]


def test_some_jobs_were_interrupted_and_taken_up_again(result: dict) -> None:
    assert set(result["attempts"]) > {"1"}


def test_every_job_ended_once(result: dict) -> None:
    assert result["ends"] == {"1": result["accepted"]}
    assert result["callbacks"] == [result["accepted"]] * 2


def test_no_caller_saw_an_error(result: dict) -> None:
    assert result["errors"] == []


def test_callers_waited_for_the_next_replica_no_longer_than_its_start_takes(result: dict) -> None:
    assert max(result["slowest_s"].values()) < 20
