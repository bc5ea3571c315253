from __future__ import annotations

import math

import numpy as np
import pytest

from scripts.network_benchmarks.candidates import BASELINE, Candidate
from scripts.network_benchmarks.cases import (
    CASES,
    EncodeCase,
    Figure,
    InpaintingCase,
    MattingCase,
    iou,
    psnr,
    read_photo,
)
from scripts.network_benchmarks.ratios import speedup
from scripts.network_benchmarks.starts import Start
from scripts.network_benchmarks.verdicts import Result, Target, judge

FAST = speedup([8.0, 9.0], [2.0, 3.0])  # 3.5 times
SLOW = speedup([8.0, 9.0], [4.0, 4.5])  # 2 times
TARGETS = {"lite": Target(3, resident_mib=2560), "lama": Target(2.2, float32_only=False)}


def test_alphas_differ_by_the_mean_over_the_pixels() -> None:
    expected = np.zeros((4, 5), np.float32)
    found = expected.copy()
    found[0, 0] = 1
    (figure,) = MattingCase("lite", 1, 1).figures(expected, found, is_float32=True)
    assert figure.value == pytest.approx(1 / 20)
    assert not figure.is_met


def test_only_the_hole_counts_for_inpainting() -> None:
    case = InpaintingCase(side_px=64)
    expected = read_photo((64, 64))
    outside, inside = expected.copy(), expected.copy()
    outside[~case.hole()] ^= 255
    inside[case.hole()] ^= 2
    assert case.figures(expected, outside, is_float32=True)[0].value == 99
    decibel = case.figures(expected, inside, is_float32=True)[0]
    assert decibel.value == pytest.approx(20 * math.log10(255 / 2))
    assert not decibel.is_met


def test_the_hole_is_neither_empty_nor_everything() -> None:
    assert 0.1 < InpaintingCase().hole().mean() < 0.3


def test_an_embedding_counts_with_its_largest_error_and_a_mask_with_the_worst() -> None:
    full, half = np.ones((2, 2), bool), np.array([[True, True], [False, False]])
    error, overlap = EncodeCase().figures(
        (np.zeros(3, np.float32), [full, full]),
        (np.array([0, -0.5, 0.1], np.float32), [full, half]),
        is_float32=True,
    )
    assert (error.value, error.is_met) == (0.5, False)
    assert overlap.value == 0.5
    assert EncodeCase().figures((np.zeros(1), [full]), (np.ones(1), [full]), is_float32=False)[0].is_met


def test_empty_masks_agree() -> None:
    assert iou(np.zeros((2, 3), bool), np.zeros((2, 3), bool)) == 1


def test_a_picture_like_itself_has_no_noise() -> None:
    picture = read_photo((5, 7))
    assert psnr(picture, picture, np.ones((5, 7), bool)) == 99


def test_the_photo_is_rgb_at_the_size_asked_for() -> None:
    photo = read_photo((6, 9))
    assert photo.shape == (6, 9, 3)
    assert photo.dtype == np.uint8
    assert photo[..., 0].mean() > photo[..., 2].mean()  # an orange suit and a flag's red, no blue face


def test_the_fastest_engine_that_keeps_the_limits_is_judged() -> None:
    wrong = Result(Candidate("openvino"), speedup=FAST, figures=[Figure("alpha MAE", 0.5, 0.002)])
    right = Result(Candidate("torch"), speedup=SLOW, figures=[Figure("alpha MAE", 0.001, 0.002)])
    speed, memory = judge("lite", [wrong, right], TARGETS)
    assert speed.is_met is False
    assert "by torch" in speed.text
    assert memory.is_met is None


def test_the_straightforward_network_is_no_answer_to_itself() -> None:
    itself = Result(BASELINE, speedup=speedup([1.0], [1.0]))
    slower = Result(Candidate("torch"), speedup=speedup([1.0], [2.0]))
    assert "0.50x (0.50 to 0.50) by torch" in judge("lama", [itself, slower], TARGETS)[0].text


def test_half_precision_counts_only_where_it_may() -> None:
    half = [Result(Candidate("openvino", "bfloat16"), speedup=FAST)]
    assert judge("lite", half, TARGETS)[0].is_met is False
    assert judge("lama", half, TARGETS)[0].is_met is True


@pytest.mark.parametrize(("resident_mib", "is_met"), [(2000, True), (2600, False)])
def test_memory_is_that_of_the_last_start(resident_mib: float, is_met: bool) -> None:
    starts = [Start(60, 4000, 5000, 0), Start(3, resident_mib, 5000, 0)]
    speed, memory = judge("lite", [Result(Candidate("openvino"), speedup=FAST, starts=starts)], TARGETS)
    assert speed.is_met
    assert memory.is_met is is_met


def test_a_case_without_a_target_is_not_judged() -> None:
    assert judge("mobile-sam-decode", [Result(Candidate("torch"), speedup=SLOW)]) == []


def test_every_target_belongs_to_a_case() -> None:
    from scripts.network_benchmarks.verdicts import TARGETS as every

    assert set(every) < set(CASES)
