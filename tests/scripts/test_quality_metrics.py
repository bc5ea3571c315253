from __future__ import annotations

import numpy as np
import pytest

from scripts.quality_metrics import alpha_scores, contact_sheet, detail_ratio, iou, mean_scores, psnr_inside, table

HALF = np.zeros((6, 8), np.bool_)
HALF[:, :4] = True


def test_iou_is_the_share_of_the_union() -> None:
    quarter = np.zeros((6, 8), np.bool_)
    quarter[:, :2] = True
    assert iou(quarter, HALF) == pytest.approx(0.5)
    assert iou(~HALF, HALF) == 0.0
    assert iou(HALF & ~HALF, HALF & ~HALF) == 1.0


def test_alpha_is_cut_at_one_half_for_iou_and_compared_whole_for_mae() -> None:
    scores = alpha_scores(np.where(HALF, 0.75, 0.25).astype(np.float32), HALF.astype(np.float32))
    assert scores == {"IoU": 1.0, "MAE": pytest.approx(0.25)}


def test_psnr_looks_only_inside() -> None:
    truth = np.full((6, 8, 3), 100, np.uint8)
    found = np.where(HALF[..., None], 110, 0).astype(np.uint8)
    assert psnr_inside(found, truth, HALF) == pytest.approx(20 * np.log10(25.5))
    assert psnr_inside(truth, truth, HALF) == 99.0


def test_a_flat_fill_has_no_detail() -> None:
    truth = np.random.default_rng(0).integers(0, 256, (20, 30, 3), np.uint8)
    inside = np.ones((20, 30), np.bool_)
    assert detail_ratio(truth, truth, inside) == pytest.approx(1.0)
    assert detail_ratio(np.full_like(truth, 90), truth, inside) == 0.0


def test_the_table_ends_with_the_mean() -> None:
    rows = {"cat": {"IoU": 0.5, "s": 1.0}, "dog": {"IoU": 1.0, "s": 3.0}}
    assert mean_scores(rows) == {"IoU": 0.75, "s": 2.0}
    assert table("removal", rows).splitlines()[-1].split() == ["mean", "0.750", "2.000"]


def test_the_sheet_has_a_cell_for_every_picture() -> None:
    gray, colour = np.full((10, 20), 200, np.uint8), np.full((30, 10, 3), 250, np.uint8)
    sheet = contact_sheet([[gray, colour], [gray]], cell_wh=(40, 30))
    assert sheet.shape == (60, 80, 3)
    assert (sheet[5, 5] == 200).all()
    assert (sheet[5, 45] == 250).all()
    assert (sheet[45, 60] == 32).all()
