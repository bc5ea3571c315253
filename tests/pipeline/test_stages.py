"""Seconds by stage: added up, in order, whatever happens inside."""

from __future__ import annotations

import pytest

from pipeline.stages import StageClock


def test_stages_keep_the_order_of_their_first_run() -> None:
    clock = StageClock()
    for name, seconds in (("infer", 0.1), ("decode", 0.2), ("infer", 0.3)):
        clock.add(name, seconds)
    assert clock.stages_ms == {"infer": 400.0, "decode": 200.0}
    assert list(clock.stages_ms) == ["infer", "decode"]


def test_a_stage_counts_even_if_it_fails() -> None:
    clock = StageClock()
    with pytest.raises(ValueError, match="broken"), clock.stage("decode"):
        raise ValueError("broken")
    assert "decode" in clock.stages_ms


def test_time_passes() -> None:
    clock = StageClock()
    with clock.stage("decode"):
        pass
    assert clock.elapsed_s * 1000 >= clock.stages_ms["decode"] - 0.01
