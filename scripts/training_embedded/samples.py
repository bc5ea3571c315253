"""Training samples: a photo, its taps or none, and the mask that answers them."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from pipeline.models.embedded.taps import draw_taps
from scripts.training_embedded import augmentation, tap_points
from scripts.training_embedded.pairs import Rgba

TAP_SHARE = 0.5
"""Samples with taps; the others ask for the subject."""
EMPTY_SHARE = 0.06
"""Samples of background, half of them with an object laid over it."""
BACKGROUND_TRIES = 6
"""Photos looked at for a large enough part without their subject."""
COLLAGE_SHARE = 0.2
"""Of the samples with a subject or taps: four photos in one."""
CLOSE_SHARE = 0.2
"""Of the samples with taps: cropped around the subject, as the predictor does to see small things."""
WORN_SHARE = 0.5
"""Of the samples with taps on one photo: something smaller lies wholly on the subject, as a badge does on a jacket."""
INSIDE_SHARE = 0.3
"""Of those: cropped within the subject, as the predictor does to see what it wears."""
MIN_AREA = 0.004
"""Things smaller than this share of the picture are not tapped."""

Mask = NDArray[np.uint8]


@dataclass(frozen=True, slots=True)
class Batch:
    """Samples at one size S.

    Attributes:
        pixels: uint8, (B, 5, S, S), as the network takes them.
        masks: uint8, (B, S, S), what it should answer, 0..255.
        corrections: int64, (B,), how many correcting taps a sample got since it was made; -1 where it has no taps.
    """

    pixels: NDArray[np.uint8]
    masks: NDArray[np.uint8]
    corrections: NDArray[np.int64]


def make_batch(pairs: Rgba, *, step: int, batch_size: int, size: int, seed: int) -> Batch:
    """The batch of ``step``: a function of its arguments alone, so that training resumes where it stopped.

    Photos come in a new order each epoch, none twice.
    """
    rng = np.random.default_rng([seed, step])
    pixels = np.zeros((batch_size, 5, size, size), np.uint8)
    masks = np.zeros((batch_size, size, size), np.uint8)
    corrections = np.full(batch_size, -1)
    for row, index in enumerate(_photos_of(step, batch_size, len(pairs), seed)):
        chance = rng.random()
        if chance < EMPTY_SHARE:
            sample = _background_sample(pairs, index, size, rng)
        elif chance < EMPTY_SHARE + TAP_SHARE:
            sample = _tap_sample(pairs, index, size, rng)
        else:
            sample = None
        rgb, mask, positive, negative = sample or _subject_sample(pairs, index, size, rng)
        pixels[row, :3] = rgb.transpose(2, 0, 1)
        pixels[row, 3] = draw_taps(positive, (size, size))
        pixels[row, 4] = draw_taps(negative, (size, size))
        masks[row] = mask
        corrections[row] = 0 if positive else -1
    return Batch(pixels, masks, corrections)


def _photos_of(step: int, batch_size: int, count: int, seed: int) -> list[int]:
    """Indices of one step's photos in the shuffled order of its epoch or epochs."""
    positions = range(step * batch_size, (step + 1) * batch_size)
    orders = {
        epoch: np.random.default_rng([seed, 1, epoch]).permutation(count) for epoch in {p // count for p in positions}
    }
    return [int(orders[p // count][p % count]) for p in positions]


_Sample = tuple[Rgba, Mask, list[tap_points.Point], list[tap_points.Point]]


def _subject_sample(pairs: Rgba, index: int, size: int, rng: np.random.Generator) -> _Sample:
    """The photo with most of its subject, or a collage with the subjects of several, and no tap."""
    if rng.random() < COLLAGE_SHARE:
        rgb, masks = _collage(pairs, index, size, rng)
        return rgb, np.maximum.reduce(masks), [], []
    pair = pairs[index]
    box = augmentation.random_frame(pair[..., 3], rng, smallest=0.7, largest=2.2)
    view = augmentation.reframe(pair, box, (size, size), rng)
    area_before = pair[..., 3].mean(dtype=np.float64) * pair.shape[0] ** 2
    area_after = view[..., 3].mean(dtype=np.float64) * (box[2] - box[0]) * (box[3] - box[1])
    if area_after < 0.6 * area_before:
        view = augmentation.warp(pair, (0, 0, pair.shape[1], pair.shape[0]), (size, size), rng)
    view = augmentation.jitter_colour(view, rng)
    return view[..., :3], view[..., 3], [], []


def _collage(pairs: Rgba, index: int, size: int, rng: np.random.Generator) -> tuple[Rgba, list[Mask]]:
    """Four photos in the corners of one, some without their subject: small things, off the middle, amid others.

    Returns:
        RGB (S, S, 3), and each corner's mask on an empty (S, S).
    """
    column, row = (round(size * rng.uniform(0.3, 0.7)) for _ in range(2))
    rgb = np.empty((size, size, 3), np.uint8)
    masks: list[Mask] = []
    for rows in (slice(0, row), slice(row, size)):
        for columns in (slice(0, column), slice(column, size)):
            pair = pairs[int(rng.integers(len(pairs))) if masks else index]
            empty = augmentation.empty_box(pair[..., 3], rng) if masks and rng.random() < 0.5 else None
            box = empty or augmentation.random_frame(pair[..., 3], rng, smallest=0.8, largest=1.4)
            cell_hw = rows.stop - rows.start, columns.stop - columns.start
            view = augmentation.jitter_colour(augmentation.reframe(pair, box, cell_hw, rng), rng)
            rgb[rows, columns] = view[..., :3]
            masks.append(np.zeros((size, size), np.uint8))
            if empty is None:
                masks[-1][rows, columns] = view[..., 3]
    return rgb, masks


def _background_sample(pairs: Rgba, index: int, size: int, rng: np.random.Generator) -> _Sample | None:
    """A part of the photo without its subject; half of the time with another photo's object laid over it."""
    for _ in range(BACKGROUND_TRIES):
        pair = pairs[index]
        box = augmentation.empty_box(pair[..., 3], rng)
        if box is not None:
            break
        index = int(rng.integers(len(pairs)))
    else:
        return None
    view = augmentation.jitter_colour(augmentation.warp(pair, box, (size, size), rng), rng)
    rgb, mask = view[..., :3], np.zeros((size, size), np.uint8)
    if rng.random() < 0.5:
        piece = augmentation.cut_out(pairs[int(rng.integers(len(pairs)))], rng, size)
        if piece is not None:
            rgb, mask = augmentation.paste(rgb, augmentation.jitter_colour(piece, rng), rng)
    return rgb, mask, [], []


def _tap_sample(pairs: Rgba, index: int, size: int, rng: np.random.Generator) -> _Sample | None:
    """A photo, often with further objects laid over it, and taps on one or two of the things in it."""
    if rng.random() < COLLAGE_SHARE:
        rgb, masks = _collage(pairs, index, size, rng)
        things = [_Thing(thing, thing > 127) for mask in masks for thing in _things(mask)]
    elif rng.random() < WORN_SHARE:
        rgb, things = _worn(pairs, index, size, rng)
    else:
        rgb, things = _photo(pairs, index, size, rng)
    for _ in range(int(rng.choice(4, p=(0.45, 0.25, 0.2, 0.1)))):
        source = index if rng.random() < 0.15 else int(rng.integers(len(pairs)))  # now and then its own twin
        piece = augmentation.cut_out(pairs[source], rng, size)
        if piece is None:
            continue
        rgb, shown = augmentation.paste(rgb, augmentation.jitter_colour(piece, rng), rng)
        things = [thing.without(shown) for thing in things] + [_Thing(shown, shown > 127)]
    things = [
        thing
        for thing in things
        if np.count_nonzero(thing.mask > 127) > MIN_AREA * size**2 and np.count_nonzero(thing.own) > 8
    ]
    if not things:
        return None
    order = rng.permutation(len(things))
    wanted = [things[k] for k in order[: 2 if len(things) > 1 and rng.random() < 0.12 else 1]]
    others = [things[k].mask for k in order[len(wanted) :]]
    mask = np.maximum.reduce([thing.mask for thing in wanted])
    positive = [tap_points.point_inside(thing.own, rng) for thing in wanted]
    if rng.random() < 0.25:
        own = np.logical_or.reduce([thing.own for thing in wanted])
        positive += [tap_points.point_inside(own, rng) for _ in range(int(rng.integers(1, 3)))]
    return rgb, mask, positive, _negative_taps(mask, others, rng)


@dataclass(frozen=True)
class _Thing:
    """What a tap may mean.

    Attributes:
        mask: uint8, (S, S); all of it, with what it wears.
        own: bool, (S, S); where a tap means it, and not something that lies on it.
    """

    mask: Mask
    own: tap_points.Region

    def without(self, shown: Mask) -> _Thing:
        """What ``shown`` leaves of it."""
        return _Thing(np.minimum(self.mask, 255 - shown), self.own & (shown < 128))


def _photo(pairs: Rgba, index: int, size: int, rng: np.random.Generator) -> tuple[Rgba, list[_Thing]]:
    """One photo, as it is or closer, RGB (S, S, 3), and its things."""
    pair = pairs[index]
    if rng.random() < CLOSE_SHARE:
        box = augmentation.crop_around(pair[..., 3], rng)
    else:
        box = augmentation.random_frame(pair[..., 3], rng, smallest=0.7, largest=2)
    view = augmentation.jitter_colour(augmentation.reframe(pair, box, (size, size), rng), rng)
    return view[..., :3], [_Thing(thing, thing > 127) for thing in _things(view[..., 3])]


def _worn(pairs: Rgba, index: int, size: int, rng: np.random.Generator) -> tuple[Rgba, list[_Thing]]:
    """One photo whose subject wears one or two smaller things.

    A tap on one of them means it, a tap beside them all of the subject.
    """
    pair = pairs[index]
    if rng.random() < INSIDE_SHARE:
        box = augmentation.crop_inside(pair[..., 3], rng)
    elif rng.random() < 0.5:
        box = augmentation.crop_around(pair[..., 3], rng)
    else:
        box = augmentation.random_frame(pair[..., 3], rng, smallest=0.7, largest=1.3)
    view = augmentation.jitter_colour(augmentation.reframe(pair, box, (size, size), rng), rng)
    rgb, things = view[..., :3], [_Thing(thing, thing > 127) for thing in _things(view[..., 3])]
    host = max(things, key=lambda thing: np.count_nonzero(thing.own))
    for _ in range(1 if rng.random() < 0.6 else 2):
        source = pairs[int(rng.integers(len(pairs)))]
        piece = augmentation.badge(source, rng) if rng.random() < 0.5 else augmentation.cut_out(source, rng, size)
        laid = piece is not None and augmentation.lay_on(rgb, host.own, augmentation.jitter_colour(piece, rng), rng)
        if laid:
            rgb, shown = laid
            host = _Thing(host.mask, host.own & (shown < 128))
            things = [thing for thing in things if np.any(thing.own & host.own)]
            things = [host if np.any(thing.own & host.own) else thing for thing in things]
            things.append(_Thing(shown, shown > 127))
    return rgb, things


def _things(mask: Mask) -> list[Mask]:
    """What one tap means in a photo: each part that is large beside the largest; where there is one, all of it."""
    count, labels, stats, _ = cv2.connectedComponentsWithStats((mask > 127).astype(np.uint8))
    areas = stats[1:count, cv2.CC_STAT_AREA]
    large = [k + 1 for k in range(count - 1) if areas[k] > 0.25 * areas.max()]
    if len(large) < 2:
        return [mask]
    return [np.where(labels == k, mask, 0).astype(np.uint8) for k in large]


def _negative_taps(mask: Mask, others: list[Mask], rng: np.random.Generator) -> list[tap_points.Point]:
    if rng.random() < 0.6:
        return []
    points: list[tap_points.Point | None] = []
    for _ in range(1 if rng.random() < 0.7 else 2):
        free = [region for other in others if (region := (other > 127) & (mask < 12)).any()]
        if free and rng.random() < 0.7:
            points.append(tap_points.point_inside(free[int(rng.integers(len(free)))], rng))
        else:
            points.append(tap_points.point_beside(mask > 12, rng))
    return [point for point in points if point is not None]
