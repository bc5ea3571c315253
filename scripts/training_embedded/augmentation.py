"""Geometry and colour: from stored pairs to varied ones, with OpenCV on uint8."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from scripts.training_embedded.pairs import Rgba

Box = tuple[float, float, float, float]
"""Left, top, right, bottom in pixels."""

MIN_MARGIN = 0.05
"""Background narrower than this share of the photo is not folded."""


def warp(pair: Rgba, box: Box, size_hw: tuple[int, int], rng: np.random.Generator) -> Rgba:
    """``box`` of ``pair`` stretched to ``size_hw``, mirrored half of the time and turned a little.

    Beyond the photo's border lies its mirror image.
    """
    height, width = size_hw
    left, top, right, bottom = box
    scale_x, scale_y = width / (right - left), height / (bottom - top)
    if rng.random() < 0.5:
        scale_x = -scale_x
    angle = np.deg2rad(rng.normal(0, 5)) if rng.random() < 0.5 else 0.0
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    linear = turn @ np.diag([scale_x, scale_y])
    centre = np.array([(left + right) / 2, (top + bottom) / 2])
    shift = np.array([width / 2, height / 2]) - linear @ centre
    # Pixel centres lie half a pixel inside.
    shift = shift + linear @ np.array([0.5, 0.5]) - 0.5
    matrix = np.column_stack([linear, shift])
    warped = cv2.warpAffine(pair, matrix, (width, height), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT_101)
    return np.asarray(warped, np.uint8)


def random_frame(mask: Rgba, rng: np.random.Generator, *, smallest: float, largest: float) -> Box:
    """A box over a photo, of varied aspect and of a side between two shares of the photo's; ``mask`` is (S, S).

    A smaller one lies inside the photo. A larger one reaches beyond those of its borders that show background, so that
    `reframe` can go on with background there.
    """
    side = mask.shape[0]
    scale = np.exp(rng.uniform(np.log(smallest), np.log(largest)))
    aspect = np.exp(rng.normal(0, 0.1))
    left, top, width, height = cv2.boundingRect((mask > 12).astype(np.uint8))
    left_px, right_px = _span(side * scale * aspect, (left, side - left - width), side, rng)
    top_px, bottom_px = _span(side * scale / aspect, (top, side - top - height), side, rng)
    return left_px, top_px, right_px, bottom_px


def reframe(pair: Rgba, box: Box, size_hw: tuple[int, int], rng: np.random.Generator) -> Rgba:
    """``box`` of ``pair`` stretched to ``size_hw``, mirrored half of the time.

    Beyond a border the strip of background between it and the subject is folded back and forth: the subject gets
    smaller and moves off the middle, and shows once.
    """
    height, width = size_hw
    left, top, right, bottom = box
    if left >= 0 and top >= 0 and right <= pair.shape[1] and bottom <= pair.shape[0]:
        return warp(pair, box, size_hw, rng)
    x, y, subject_width, subject_height = cv2.boundingRect((pair[..., 3] > 12).astype(np.uint8))
    columns = left + (np.arange(width) + 0.5) * (right - left) / width - 0.5
    rows = top + (np.arange(height) + 0.5) * (bottom - top) / height - 0.5
    from_x = _folded(columns, pair.shape[1], (x, pair.shape[1] - x - subject_width))
    from_y = _folded(rows, pair.shape[0], (y, pair.shape[0] - y - subject_height))
    if rng.random() < 0.5:
        from_x = from_x[::-1]
    map_x = np.repeat(from_x[None, :], height, axis=0)
    map_y = np.repeat(from_y[:, None], width, axis=1)
    return np.asarray(cv2.remap(pair, map_x, map_y, cv2.INTER_LINEAR), np.uint8)


def crop_around(mask: Rgba, rng: np.random.Generator) -> Box:
    """A box around what ``mask`` (H, W) marks, with 1.1 to 2.5 times its side, off centre."""
    left, top, width, height = cv2.boundingRect((mask > 127).astype(np.uint8))
    side = max(width, height, 24) * np.exp(rng.uniform(np.log(1.1), np.log(2.5)))
    aspect = np.exp(rng.normal(0, 0.1))
    box_width, box_height = (min(length, mask.shape[0]) for length in (side * aspect, side / aspect))
    x = left + width / 2 + rng.uniform(-0.5, 0.5) * max(0.0, box_width - width) - box_width / 2
    y = top + height / 2 + rng.uniform(-0.5, 0.5) * max(0.0, box_height - height) - box_height / 2
    # Kept inside the photo: a mirrored border shows the thing twice.
    x, y = np.clip(x, 0, mask.shape[1] - box_width), np.clip(y, 0, mask.shape[0] - box_height)
    return float(x), float(y), float(x + box_width), float(y + box_height)


def crop_inside(mask: Rgba, rng: np.random.Generator) -> Box:
    """A box with a third to two thirds of the photo's side around a point of what ``mask`` (S, S) marks."""
    side = mask.shape[0]
    rows, columns = np.nonzero(mask > 127)
    length = side * rng.uniform(0.3, 0.65)
    index = int(rng.integers(len(rows))) if len(rows) else None
    y, x = (rows[index], columns[index]) if index is not None else (side / 2, side / 2)
    left, top = np.clip([x - length / 2, y - length / 2], 0, side - length)
    return float(left), float(top), float(left + length), float(top + length)


def jitter_colour(pair: Rgba, rng: np.random.Generator) -> Rgba:
    """``pair`` with other light, contrast, tint and saturation; sometimes grey, blurred or noisy."""
    rgb, mask = pair[..., :3], pair[..., 3:]
    if rng.random() < 0.85:
        saturation = 0.0 if rng.random() < 0.08 else rng.uniform(0.5, 1.5)
        mix = saturation * np.eye(3) + (1 - saturation) * np.array([[0.299, 0.587, 0.114]] * 3)
        gains = rng.uniform(0.65, 1.35) * rng.uniform(0.88, 1.12, size=3)
        offset = rng.uniform(-30, 30) + 128 * (1 - gains.mean()) * rng.random()
        matrix = np.column_stack([gains[:, None] * mix, np.full(3, offset)])
        rgb = np.asarray(cv2.transform(np.ascontiguousarray(rgb), matrix), np.uint8)
    chance = rng.random()
    if chance < 0.06:
        rgb = np.asarray(cv2.GaussianBlur(rgb, (0, 0), rng.uniform(0.5, 1.5)), np.uint8)
    elif chance < 0.12:
        noise = rng.normal(0, rng.uniform(3, 12), size=rgb.shape)
        rgb = np.clip(rgb + noise, 0, 255).astype(np.uint8)
    return np.concatenate([rgb, mask], axis=2)


def cut_out(pair: Rgba, rng: np.random.Generator, size: int) -> Rgba | None:
    """The object of ``pair`` cut to its box, at a random size below ``size``; None if too small to use."""
    left, top, width, height = cv2.boundingRect((pair[..., 3] > 127).astype(np.uint8))
    if min(width, height) < 16:
        return None
    scale = size * rng.uniform(0.2, 0.7) / max(width, height)
    scale = min(scale, 1.3)
    target = max(6, round(width * scale)), max(6, round(height * scale))
    piece = np.ascontiguousarray(pair[top : top + height, left : left + width])
    resized = np.asarray(cv2.resize(piece, target, interpolation=cv2.INTER_AREA), np.uint8)
    return resized[:, ::-1] if rng.random() < 0.5 else resized


def paste(canvas: Rgba, piece: Rgba, rng: np.random.Generator) -> tuple[Rgba, Rgba]:
    """RGB of ``canvas`` (S, S, 3) with ``piece`` laid over a random place, and where it shows: uint8 (S, S).

    Up to a quarter of the piece may hang over the border.
    """
    side = canvas.shape[0]
    height, width = piece.shape[:2]
    top = int(rng.integers(-(height // 4), side - height + height // 4 + 1))
    left = int(rng.integers(-(width // 4), side - width + width // 4 + 1))
    visible = piece[max(0, -top) : side - top, max(0, -left) : side - left]
    top, left = max(0, top), max(0, left)
    rows, columns = slice(top, top + visible.shape[0]), slice(left, left + visible.shape[1])
    share = visible[..., 3:].astype(np.uint16)
    covered = canvas.copy()
    blended = (visible[..., :3] * share + canvas[rows, columns] * (255 - share) + 127) // 255
    covered[rows, columns] = blended.astype(np.uint8)
    shown = np.zeros((side, side), np.uint8)
    shown[rows, columns] = visible[..., 3]
    return covered, shown


def badge(pair: Rgba, rng: np.random.Generator) -> Rgba:
    """A plain shape cut from any part of a photo: ellipse, plate, ribbon or polygon, its corners at any angle."""
    side = 128
    box_px = int(pair.shape[0] * rng.uniform(0.15, 0.6))
    top, left = (int(rng.integers(pair.shape[0] - box_px)) for _ in range(2))
    texture = np.asarray(cv2.resize(pair[top : top + box_px, left : left + box_px, :3], (side, side)), np.uint8)
    if rng.random() < 0.4:  # nearly one colour
        plain = texture.reshape(-1, 3)[int(rng.integers(side * side))]
        texture = np.asarray(cv2.addWeighted(texture, 0.25, np.full_like(texture, plain), 0.75, 0), np.uint8)
    shape = np.zeros((side, side), np.uint8)
    middle, flatness = side // 2, rng.uniform(0.25, 1)
    angle = 0.0 if rng.random() < 0.5 else rng.uniform(0, 180)
    kind = rng.random()
    if kind < 0.4:
        axes = int(0.48 * side), int(0.48 * side * flatness)
        cv2.ellipse(shape, (middle, middle), axes, angle, 0, 360, 255, -1, cv2.LINE_AA)
    else:
        if kind < 0.8:
            corners = cv2.boxPoints(((middle, middle), (0.68 * side, 0.68 * side * flatness), angle))
        else:
            turns = np.sort(rng.uniform(0, 2 * np.pi, int(rng.integers(3, 8))))
            corners = middle + 0.48 * side * rng.uniform(0.5, 1, (len(turns), 1)) * np.column_stack(
                [np.cos(turns), np.sin(turns)]
            )
        cv2.fillPoly(shape, [np.rint(corners).astype(np.int32)], 255, cv2.LINE_AA)
    x, y, width, height = cv2.boundingRect(shape)
    whole = np.dstack([texture, shape])
    return np.ascontiguousarray(whole[y : y + height, x : x + width])


def lay_on(canvas: Rgba, host: NDArray[np.bool_], piece: Rgba, rng: np.random.Generator) -> tuple[Rgba, Rgba] | None:
    """RGB of ``canvas`` (S, S, 3) with ``piece`` laid on what ``host`` (S, S) marks, and where it shows: uint8 (S, S).

    The piece is made smaller than the host, and shares some of its light. None if no place was found for it.
    """
    _, _, host_width, host_height = cv2.boundingRect(host.astype(np.uint8))
    rows, columns = np.nonzero(host)
    if len(rows) < 64:
        return None
    side = max(6.0, np.exp(rng.uniform(np.log(0.1), np.log(0.55))) * min(host_width, host_height))
    scale = side / max(piece.shape[:2])
    width, height = (max(4, round(length * scale)) for length in (piece.shape[1], piece.shape[0]))
    small = np.asarray(cv2.resize(piece, (width, height), interpolation=cv2.INTER_AREA), np.uint8)
    if min(width, height) >= canvas.shape[0]:
        return None
    for _ in range(6):
        index = int(rng.integers(len(rows)))
        top = int(np.clip(rows[index] - height // 2, 0, canvas.shape[0] - height))
        left = int(np.clip(columns[index] - width // 2, 0, canvas.shape[1] - width))
        area = np.s_[top : top + height, left : left + width]
        inside = small[..., 3] > 127
        if np.count_nonzero(inside & host[area]) > 0.9 * np.count_nonzero(inside):
            break
    else:
        return None
    share = small[..., 3:].astype(np.float32) / 255
    under = canvas[area].astype(np.float32)
    light = under.mean(axis=2, keepdims=True)
    shaded = small[..., :3] * (1 + rng.uniform(0, 0.6) * (light / max(float(light.mean()), 1.0) - 1))
    covered = canvas.copy()
    covered[area] = np.clip(under + share * (shaded - under), 0, 255).astype(np.uint8)
    shown = np.zeros(canvas.shape[:2], np.uint8)
    shown[area] = small[..., 3]
    return covered, shown


def empty_box(mask: Rgba, rng: np.random.Generator) -> Box | None:
    """A square of ``mask`` (S, S) beside all that it marks, with about a third of the side; None if there is none."""
    side = mask.shape[0]
    left, top, width, height = cv2.boundingRect((mask > 12).astype(np.uint8))
    strips: list[Box] = [
        (0, 0, left - 2, side),
        (left + width + 2, 0, side, side),
        (0, 0, side, top - 2),
        (0, top + height + 2, side, side),
    ]
    usable = [(a, b, c, d) for a, b, c, d in strips if min(c - a, d - b) >= side / 3]
    if not usable:
        return None
    a, b, c, d = usable[int(rng.integers(len(usable)))]
    square = min(c - a, d - b) * rng.uniform(0.85, 1)
    x, y = rng.uniform(a, c - square), rng.uniform(b, d - square)
    return x, y, x + square, y + square


def _span(length: float, margins: tuple[int, int], side: int, rng: np.random.Generator) -> tuple[float, float]:
    """Start and end of ``length`` along one axis; beyond the borders only where the margin is wide enough to fold."""
    extra = length - side
    if extra <= 0:
        start = rng.uniform(0, -extra)
        return start, start + length
    before, after = (margin >= MIN_MARGIN * side for margin in margins)
    share = rng.random() if before and after else float(before)
    start = -share * extra if before else 0.0
    end = side + (1 - share) * extra if after else float(side)
    return start, end


def _folded(positions: NDArray[np.float64], side: int, margins: tuple[int, int]) -> NDArray[np.float32]:
    """Positions outside 0..side folded into the margin next to their border."""
    before, after = (max(1, margin - 1) for margin in margins)
    far = side - 1
    low = np.abs((-positions + before) % (2 * before) - before)
    high = far - np.abs((positions - far + after) % (2 * after) - after)
    folded = np.where(positions < 0, low, np.where(positions > far, high, positions))
    return folded.astype(np.float32)
