"""Schemathesis against a running service, in a process of its own: what it called, and what it found."""

from __future__ import annotations

import json
import subprocess
import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


@dataclass(frozen=True)
class Findings:
    """What a run told.

    Attributes:
        ok: Whether every check held.
        answers: How often each operation answered with each status.
        text: All it printed.
    """

    ok: bool
    answers: Counter[tuple[str, int]]
    text: str

    def statuses(self, operation: str) -> set[int]:
        """Every status that ``METHOD /path`` answered with."""
        return {status for name, status in self.answers if name == operation}


def call_everything(
    url: str, folder: Path, *, phases: str, max_examples: int, spend_s: int | None = None, only: Sequence[str] = ()
) -> Findings:
    """Calls every operation of the service's description, as ``schemathesis.toml`` says.

    Args:
        folder: Where the report of the calls goes.
        phases: Which of examples, coverage, fuzzing, stateful; with commas.
        max_examples: Calls of each operation, in fuzzing and stateful each.
        spend_s: How long fuzzing and stateful go on, with new examples; once through without it.
        only: Ids of the operations to call; all if none is named.
    """
    report = folder / "calls.ndjson"
    command = [sys.executable, "-m", "schemathesis.cli", "--config-file", "tests/openapi/schemathesis.toml", "run"]
    command += ["--phases", phases, "--max-examples", str(max_examples)]
    command += ["--max-time", str(spend_s)] if spend_s else []
    for operation_id in only:
        command += ["--include-operation-id", operation_id]
    command += ["--report", "ndjson", "--report-ndjson-path", str(report), f"{url}/openapi.json"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=(spend_s or 0) + 180, check=False)
    text = done.stdout + done.stderr
    assert report.exists(), text
    return Findings(done.returncode == 0, _answers(report), text)


def _answers(report: Path) -> Counter[tuple[str, int]]:
    found: Counter[tuple[str, int]] = Counter()
    for line in report.read_text(encoding="utf-8").splitlines():
        scenario = json.loads(line).get("ScenarioFinished")
        if scenario is None:
            continue
        recorder = scenario["recorder"]
        for case_id, call in recorder.get("interactions", {}).items():
            case = recorder["cases"][case_id]["value"]
            if call.get("response"):
                found[f"{case['method']} {case['path']}", call["response"]["status_code"]] += 1
    return found
