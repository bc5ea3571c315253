"""How long an engine takes to its first answer and how much memory it then holds, each time in a process of its own.

Run as a program, it is that process: it takes a ``StartRequest`` as JSON and prints a ``Start`` as JSON.
"""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Final

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # as a program

from pipeline.errors import ModelNotLoaded
from pipeline.models.ladder import EngineOptions
from scripts.network_benchmarks.candidates import Candidate, load
from scripts.network_benchmarks.cases import CASES
from scripts.network_benchmarks.quick import add_tiny_birefnet, quick_case

TIMEOUT_S: Final = 1800


@dataclass(frozen=True)
class StartRequest:
    """What a process shall start.

    Attributes:
        case: Name of the case.
        engine: The candidate's engine.
        precision: The candidate's precision.
        models_dir: Folder with the weights, and with what was compiled from them.
        threads: CPU threads.
        more: Answers after the first one.
        quick: Whether it is the case's small form.
    """

    case: str
    engine: str
    precision: str
    models_dir: str
    threads: int
    more: int = 2
    quick: bool = False


@dataclass(frozen=True)
class Start:
    """One start, in a fresh process.

    Attributes:
        ready_s: From the process's beginning to its first answer, imports and the weights' checking included.
        resident_mib: Memory held after the first answer.
        peak_mib: The most that was held up to then.
        grown_mib: How much more is held after ``more`` further answers.
    """

    ready_s: float
    resident_mib: float
    peak_mib: float
    grown_mib: float


def measure_start(request: StartRequest, *, timeout_s: float = TIMEOUT_S) -> Start:
    """Starts the engine in a process of its own.

    Raises:
        ModelNotLoaded: It did not start, or not in time.
    """
    # A model compiled for another purpose must not be found: caches are looked for beside the weights only.
    environment = {**os.environ, "XDG_CACHE_HOME": request.models_dir}
    command = [sys.executable, __file__, json.dumps(dataclasses.asdict(request)), str(time.monotonic())]
    try:
        process = subprocess.run(command, capture_output=True, text=True, timeout=timeout_s, env=environment)
    except subprocess.TimeoutExpired:
        raise ModelNotLoaded(f"There was no answer within {timeout_s:g} s.") from None
    if process.returncode:
        last = process.stderr.strip().splitlines()[-1:] or [f"exit status {process.returncode}"]
        raise ModelNotLoaded(last[0])
    return Start(**json.loads(process.stdout.splitlines()[-1]))


def memory_mib(field: str) -> float:
    """Of this process: ``VmRSS`` is what it holds now, ``VmHWM`` the most it ever held."""
    for line in Path("/proc/self/status").read_text().splitlines():
        name, _, value = line.partition(":")
        if name == field:
            return int(value.split()[0]) / 1024
    raise ValueError(f"/proc/self/status has no {field}")


def start(request: StartRequest, began: float) -> Start:
    """Starts the engine in this process, which began at ``began`` (``time.monotonic()``)."""
    if request.quick:
        add_tiny_birefnet()
    case = quick_case(request.case) if request.quick else CASES[request.case]
    options = EngineOptions(threads=request.threads, models_dir=Path(request.models_dir), allow_unpinned=True)
    candidate = Candidate(request.engine, request.precision)  # type: ignore[arg-type]
    call = case.call(load(case.variant, candidate, options))
    call()
    ready_s = time.monotonic() - began
    resident_mib, peak_mib = memory_mib("VmRSS"), memory_mib("VmHWM")
    for _ in range(request.more):
        call()
    return Start(ready_s, resident_mib, peak_mib, memory_mib("VmRSS") - resident_mib)


def main() -> int:
    try:
        print(json.dumps(dataclasses.asdict(start(StartRequest(**json.loads(sys.argv[1])), float(sys.argv[2])))))
    except ModelNotLoaded as refusal:
        print(refusal.detail, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
