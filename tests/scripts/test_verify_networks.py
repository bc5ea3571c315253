from __future__ import annotations

import math
import sys
from pathlib import Path

import numpy as np
import pytest

from scripts import verify_networks
from scripts.verify_networks import NotThere, Result, differing_tensors, judge, largest_error, report, verify

FIRST = ("conv.weight", (4, 3, 1, 1), "float32")
SECOND = ("conv.bias", (4,), "float32")


def test_the_error_is_the_largest_difference_also_of_unsigned_and_bool_arrays() -> None:
    assert largest_error(np.array([1, 2], np.uint8), np.array([2, 2], np.uint8)) == 1
    assert largest_error(np.array([True, False]), np.array([False, False])) == 1
    assert largest_error(np.array([0.5, 2.0]), np.array([0.25, 2.0])) == 0.25


def test_shapes_that_differ_never_pass() -> None:
    error = largest_error(np.zeros((1, 3)), np.zeros((3, 1)))
    assert error == math.inf
    assert not Result("lama", "sq_output", error, 0, 1.0).passed


def test_a_number_that_is_none_never_passes() -> None:
    error = largest_error(np.array([np.nan, 0.0]), np.zeros(2))
    assert not Result("lama", "sq_output", error, 0, 1.0).passed


def test_outputs_have_their_own_tolerance_and_inner_stages_one_by_their_scale() -> None:
    golden = np.array([-50.0, 0.0])
    stages = {"sq_output": (golden, golden), "sq_model5_local_s": (golden + 4e-3, golden)}
    output, inner = judge("lama", stages, {"*_output": 2e-5, "sq_*put": 1.0})
    assert output.tolerance == 2e-5
    assert inner.tolerance == pytest.approx(5e-3)
    assert inner.passed


@pytest.mark.parametrize(
    ("ours", "differing"),
    [
        ([FIRST, SECOND], 0),
        ([SECOND, FIRST], 2),
        ([FIRST], 1),
        ([FIRST, SECOND, SECOND], 1),
        ([FIRST, ("conv.bias", (5,), "float32")], 1),
        ([FIRST, ("conv.bias", (4,), "float16")], 1),
    ],
)
def test_tensors_are_compared_place_by_place(ours: list[tuple[str, tuple[int, ...], str]], differing: int) -> None:
    assert differing_tensors(ours, [FIRST, SECOND]) == differing


def test_the_report_names_what_failed() -> None:
    table = report([Result("lama", "sq_output", 1e-6, 1, 2e-5), Result("lama", "sq_model1_s", 3.0, 1, 1e-4)])
    _, passed, failed = table.splitlines()
    assert "sq_output" in passed
    assert "FAILED" not in passed
    assert failed.endswith("FAILED")


def test_a_network_without_goldens_is_told(tmp_path: Path) -> None:
    with pytest.raises(NotThere, match="manifest"):
        verify("lama", tmp_path)


def test_a_network_that_is_not_written_yet_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(verify_networks.NETWORKS, "dream", "dream")
    with pytest.raises(NotThere, match=r"scripts\.network_checks\.dream"):
        verify("dream")


def test_nothing_verified_is_no_success(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["verify_networks.py", "--network", "lama", "--golden", str(tmp_path)])
    assert verify_networks.main() == 1
    assert "lama: not verified" in capsys.readouterr().err
