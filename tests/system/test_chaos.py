"""Parts of a real service are killed under load, and a queue is cut in two: nothing accepted is lost."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.system.conftest import ROOT

pytestmark = [pytest.mark.system, pytest.mark.slow, pytest.mark.long, pytest.mark.timeout(600)]


def run(script: str, *options: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(ROOT / "scripts" / script), *options]
    return subprocess.run(command, capture_output=True, text=True, timeout=580)


def test_a_short_chaos_loses_nothing(tmp_path: Path) -> None:
    path = tmp_path / "chaos.json"
    options = ["--faults", "lama,jobmanager,proxy,everything", "--deadline", "480", "--json", str(path)]
    done = run("chaos.py", *options)
    assert done.returncode == 0, done.stdout + done.stderr
    report = json.loads(path.read_text())
    assert [row["fault"] for row in report["outages"]] == ["(none)", "lama", "jobmanager", "proxy", "everything"]
    assert report["jobs_ended"]["ready"] > 5
    assert report["files_compared"] > 30
    assert report["answers"]["remove"]["200"] > 20


def test_200_queued_jobs_are_all_done_after_a_restart_and_none_twice() -> None:
    done = run("restart_queue.py", "--jobs", "200", "--deadline", "480")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "callbacks told of 200 jobs, by 200 delivery ids" in done.stdout
