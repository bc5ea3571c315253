"""Nested regions of a picture: superpixels merged two by two, the most alike first, until one is left."""

from __future__ import annotations

import heapq
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from pipeline.types import Image, Mask


@dataclass(frozen=True)
class RegionTree:
    """A binary tree over superpixels.

    Attributes:
        labels: intp, (H, W), the superpixel of each pixel.
        parents: intp, (2N - 1,), each region's parent; the first N are the superpixels; the root's parent is itself.
    """

    labels: NDArray[np.intp]
    parents: NDArray[np.intp]

    def regions_around(self, x: int, y: int) -> list[Mask]:
        """Every region that holds the pixel, smallest first."""
        leaves = int(self.labels.max()) + 1
        region = int(self.labels[y, x])
        members = np.arange(leaves)
        masks = []
        climbed = members.copy()  # the highest ancestor of each superpixel that is no younger than `region`
        while True:
            while True:
                next_up = self.parents[climbed]
                moves = (next_up <= region) & (next_up != climbed)
                if not moves.any():
                    break
                climbed = np.where(moves, next_up, climbed)
            masks.append((climbed == region)[self.labels])
            parent = int(self.parents[region])
            if parent == region:
                return masks
            region = parent


def build_region_tree(lab: Image, gradient: NDArray[np.float32], *, superpixel_px: int) -> RegionTree:
    """The tree of ``lab``; regions merge early if small, alike in colour, and without an edge between them.

    Args:
        lab: Lab, uint8, (H, W, 3).
        gradient: float32, (H, W), length of the colour gradient.
        superpixel_px: Side of a superpixel.
    """
    labels = _superpixels(lab, superpixel_px)
    count = int(labels.max()) + 1
    areas = np.bincount(labels.ravel(), minlength=count).astype(np.float64).tolist()
    colours = [
        np.bincount(labels.ravel(), weights=lab[..., c].ravel().astype(np.float64), minlength=count) / areas
        for c in range(3)
    ]
    means = np.stack(colours, axis=1).tolist()
    borders = _borders(labels, gradient)
    parents = list(range(count))
    alive = set(range(count))

    def cost(a: int, b: int) -> float:
        length, edge = borders[a][b]
        apart = sum((p - q) ** 2 for p, q in zip(means[a], means[b], strict=True)) ** 0.5
        size = areas[a] * areas[b] / (areas[a] + areas[b])
        return float((apart + 3.0 * edge / length) * size**0.35 / (length / min(areas[a], areas[b]) ** 0.5) ** 0.25)

    queue = [(cost(a, b), a, b) for a in range(count) for b in borders[a] if a < b]
    heapq.heapify(queue)
    while queue:
        _, a, b = heapq.heappop(queue)
        if a not in alive or b not in alive:
            continue
        merged = len(parents)
        parents[a] = parents[b] = merged
        parents.append(merged)
        alive -= {a, b}
        alive.add(merged)
        area = areas[a] + areas[b]
        means.append([(p * areas[a] + q * areas[b]) / area for p, q in zip(means[a], means[b], strict=True)])
        areas.append(area)
        neighbours: dict[int, tuple[float, float]] = {}
        for old in (a, b):
            for other, (length, edge) in borders[old].items():
                if other in alive:
                    had = neighbours.get(other, (0.0, 0.0))
                    neighbours[other] = (had[0] + length, had[1] + edge)
                    borders[other].pop(old, None)
        borders.append(neighbours)
        for other, shared in neighbours.items():
            borders[other][merged] = shared
            heapq.heappush(queue, (cost(other, merged), other, merged))
    return RegionTree(labels, np.array(parents, np.intp))


def _superpixels(lab: Image, side_px: int) -> NDArray[np.intp]:
    if min(lab.shape[:2]) < 3 * side_px:  # SLIC needs room; squares do for a strip
        y, x = np.indices(lab.shape[:2]) // side_px
        labels = np.asarray(y * (x.max() + 1) + x, np.intp)
    else:
        slic = cv2.ximgproc.createSuperpixelSLIC(lab, cv2.ximgproc.SLICO, side_px)
        slic.iterate(6)
        slic.enforceLabelConnectivity(20)
        labels = np.asarray(slic.getLabels(), np.intp)
    return np.unique(labels, return_inverse=True)[1].reshape(lab.shape[:2])


def _borders(labels: NDArray[np.intp], gradient: NDArray[np.float32]) -> list[dict[int, tuple[float, float]]]:
    """For each region its neighbours, with the shared border's length and the gradient summed along it."""
    pairs, edges = [], []
    for first, second in ((np.s_[:, :-1], np.s_[:, 1:]), (np.s_[:-1, :], np.s_[1:, :])):
        differs = labels[first] != labels[second]
        pairs.append(np.stack([labels[first][differs], labels[second][differs]], axis=1))
        edges.append(np.maximum(gradient[first], gradient[second])[differs])
    sides = np.sort(np.concatenate(pairs), axis=1)
    count = int(labels.max()) + 1
    keys, index, lengths = np.unique(sides[:, 0] * count + sides[:, 1], return_inverse=True, return_counts=True)
    sums = np.bincount(index, weights=np.concatenate(edges), minlength=len(keys))
    borders: list[dict[int, tuple[float, float]]] = [{} for _ in range(count)]
    for key, length, edge in zip(keys.tolist(), lengths.tolist(), sums.tolist(), strict=True):
        a, b = divmod(key, count)
        borders[a][b] = borders[b][a] = (float(length), float(edge))
    return borders
