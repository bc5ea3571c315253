"""The arithmetic of ``evaluate.py``: how near masks, alphas and fills are to the truth, and the tables for it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import cv2
import numpy as np
from numpy.typing import NDArray

from pipeline.types import Alpha, Image, Mask

Scores = dict[str, float]


def iou(found: Mask, truth: Mask) -> float:
    """Share of the union that both mark; 1 if neither marks anything."""
    union = int((found | truth).sum())
    return int((found & truth).sum()) / union if union else 1.0


def alpha_scores(found: Alpha, truth: Alpha) -> Scores:
    """IoU of both cut at one half, and the mean absolute error."""
    return {"IoU": iou(found > 0.5, truth > 0.5), "MAE": float(np.abs(found - truth).mean())}


def psnr_inside(found: Image, truth: Image, inside: Mask) -> float:
    """PSNR over the True pixels of ``inside``, in dB; at most 99."""
    error = float(((found.astype(np.float64) - truth)[inside] ** 2).mean()) if inside.any() else 0.0
    return float(min(99.0, 10 * np.log10(255**2 / max(error, 1e-9))))


def detail_ratio(found: Image, truth: Image, inside: Mask) -> float:
    """Fine detail of ``found`` as a share of that of ``truth``: 1 is as much, smears are near 0.

    Detail is the mean absolute Laplacian of luminance, two pixels and more from the border of ``inside``.
    """
    core = cv2.erode(inside.astype(np.uint8), np.ones((5, 5), np.uint8)) > 0
    if not core.any():
        return 1.0
    amounts = []
    for image in (found, truth):
        luminance = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
        amounts.append(float(np.abs(cv2.Laplacian(luminance, cv2.CV_32F))[core].mean()))
    return amounts[0] / max(amounts[1], 1e-6)


def telea(image: Image, hole: Mask) -> Image:
    """The hole filled by OpenCV's Telea, the yardstick for every fill."""
    return np.asarray(cv2.inpaint(image, hole.astype(np.uint8), 3, cv2.INPAINT_TELEA), np.uint8)


def mean_scores(rows: Mapping[str, Scores]) -> Scores:
    """The mean of each figure."""
    names = list(next(iter(rows.values()), {}))
    return {name: float(np.mean([scores[name] for scores in rows.values()])) for name in names}


def table(title: str, rows: Mapping[str, Scores]) -> str:
    """One line per photo and one for the mean."""
    everything = {**rows, "mean": mean_scores(rows)}
    names = list(everything["mean"])
    width = max(len(label) for label in [title, *everything])
    widths = [max(7, len(name)) for name in names]
    lines = ["  ".join([title.ljust(width), *(name.rjust(w) for name, w in zip(names, widths, strict=True))])]
    for label, scores in everything.items():
        cells = (f"{scores[name]:.3f}".rjust(w) for name, w in zip(names, widths, strict=True))
        lines.append("  ".join([label.ljust(width), *cells]))
    return "\n".join(lines)


def contact_sheet(rows: Sequence[Sequence[NDArray[np.uint8]]], *, cell_wh: tuple[int, int] = (320, 240)) -> Image:
    """Pictures in a grid, each fitted into its cell; gray ones become RGB, short rows end dark."""
    columns = max(len(row) for row in rows)
    sheet = np.full((len(rows) * cell_wh[1], columns * cell_wh[0], 3), 32, np.uint8)
    for top, row in enumerate(rows):
        for left, picture in enumerate(row):
            scale = min(cell_wh[0] / picture.shape[1], cell_wh[1] / picture.shape[0])
            size = max(1, int(picture.shape[1] * scale)), max(1, int(picture.shape[0] * scale))
            small = cv2.resize(picture, size, interpolation=cv2.INTER_AREA)
            y, x = top * cell_wh[1], left * cell_wh[0]
            sheet[y : y + size[1], x : x + size[0]] = small if small.ndim == 3 else small[..., None]
    return sheet
