"""An engine passes only if everything was compared and all of it was near enough."""

from __future__ import annotations

import numpy as np
import pytest

from pipeline.models.tensorrt.verification import CHECKS, Verdict, judge, mean_of_bytes, relative_rms, rms_of_bytes

GRAY = np.full((1, 5, 7), 100, np.uint8)


def alphas(level: int) -> dict[str, np.ndarray]:
    return {"alphas": np.full((1, 5, 7), level, np.uint8)}


def test_bytes_are_measured_as_a_share_of_255() -> None:
    other = GRAY.copy()
    other[0, 0, 0] = 0
    assert mean_of_bytes(other, GRAY) == pytest.approx(100 / 35 / 255)
    assert rms_of_bytes(other, GRAY) == pytest.approx((100**2 / 35) ** 0.5 / 255)
    assert mean_of_bytes(np.full((1, 5, 7), 101, np.uint8), GRAY) == pytest.approx(1 / 255)


def test_floats_are_measured_against_what_was_expected() -> None:
    assert relative_rms(np.array([1.0, 2.2]), np.array([1.0, 2.0])) == pytest.approx((0.04 / 5) ** 0.5)
    assert np.isfinite(relative_rms(np.zeros(3), np.zeros(3)))


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_what_is_no_number_is_infinitely_far(value: float) -> None:
    assert relative_rms(np.array([value, 1.0]), np.ones(2)) == np.inf


def test_other_shapes_are_infinitely_far() -> None:
    assert mean_of_bytes(GRAY[:, 1:], GRAY) == np.inf


def test_the_worst_batch_counts() -> None:
    near, far = alphas(100), alphas(102)
    assert judge("matting", [near, near], [near, near]).passed
    verdict = judge("matting", [near, far], [near, near])
    assert verdict.errors["alpha's mean error"] == pytest.approx(2 / 255)
    assert not verdict.passed


def test_an_engine_in_half_precision_may_be_twice_as_far_off_as_pytorch_in_half() -> None:
    expected, ours = [alphas(100)], [alphas(103)]
    assert not judge("matting", ours, expected).passed
    assert judge("matting", ours, expected, in_half=[alphas(102)]).passed
    assert not judge("matting", ours, expected, in_half=[alphas(101)]).passed
    assert judge("matting", expected, expected, in_half=expected).tolerances["alpha's mean error"] == 0.002


def test_nothing_compared_is_nothing_verified() -> None:
    assert not Verdict({}, {}).passed
    assert not judge("matting", [], []).passed


def test_every_check_of_a_graph_is_made() -> None:
    for kind, checks in CHECKS.items():
        arrays = {check.output: np.ones((1, 2), np.float32) for check in checks}
        assert set(judge(kind, [arrays], [arrays]).errors) == {check.name for check in checks}
