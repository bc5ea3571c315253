"""Tapped samples shown again with the tap that a user would add."""

from __future__ import annotations

import numpy as np
from torch import Tensor

from pipeline.models.embedded.taps import draw_taps
from scripts.training_embedded.samples import Batch
from scripts.training_embedded.tap_points import correction

CORRECTIONS = 3
"""Correcting taps that a sample gets at most."""


def corrected(batch: Batch, probability: Tensor, count: int) -> Batch | None:
    """Up to ``count`` of the batch's tapped samples, each with one more tap where its answer is most wrong.

    Samples on their way through `CORRECTIONS` rounds go first; then others take their places.
    """
    size = batch.masks.shape[-1]
    rows: list[int] = []
    pixels = []
    for row in np.argsort(-batch.corrections, kind="stable"):
        if not 0 <= batch.corrections[row] < CORRECTIONS or len(rows) == count:
            continue
        found = correction((probability[row] > 0.5).numpy(), batch.masks[row] > 127)
        if found is None:
            continue
        point, positive = found
        corrected = batch.pixels[row].copy()
        plane = corrected[3 if positive else 4]
        np.maximum(plane, draw_taps([point], (size, size)), out=plane)
        rows.append(int(row))
        pixels.append(corrected)
    return Batch(np.stack(pixels), batch.masks[rows], batch.corrections[rows] + 1) if rows else None


def join(first: Batch, second: Batch) -> Batch:
    """Both batches as one; ``first`` alone where the size has grown in between."""
    if first.masks.shape[-1] != second.masks.shape[-1]:
        return first
    return Batch(
        np.concatenate([first.pixels, second.pixels]),
        np.concatenate([first.masks, second.masks]),
        np.concatenate([first.corrections, second.corrections]),
    )
