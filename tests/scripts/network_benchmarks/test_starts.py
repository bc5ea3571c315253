from __future__ import annotations

import os
from pathlib import Path

import pytest

from pipeline.errors import ModelNotLoaded
from scripts.network_benchmarks.starts import StartRequest, measure_start, memory_mib


def request(models_dir: Path, engine: str = "torch") -> StartRequest:
    return StartRequest("lite", engine, "auto", str(models_dir), threads=1, quick=True)


def test_why_an_engine_did_not_start_is_told_without_a_traceback(tmp_path: Path) -> None:
    with pytest.raises(ModelNotLoaded, match=r"^BiRefNet-tiny has no weights: .*\.$"):
        measure_start(request(tmp_path))


def test_a_start_that_takes_too_long_is_given_up(tmp_path: Path) -> None:
    with pytest.raises(ModelNotLoaded, match=r"within 0\.05 s"):
        measure_start(request(tmp_path), timeout_s=0.05)


def test_memory_is_that_of_this_process() -> None:
    before = memory_mib("VmRSS")
    held = bytearray(os.urandom(1)) * (64 * 2**20)
    assert memory_mib("VmRSS") - before > 50
    assert memory_mib("VmHWM") >= memory_mib("VmRSS") - 1
    assert len(held) == 64 * 2**20


def test_an_unknown_field_is_an_error() -> None:
    with pytest.raises(ValueError, match="VmNone"):
        memory_mib("VmNone")
