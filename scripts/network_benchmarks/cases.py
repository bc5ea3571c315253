"""What is measured: four tasks, what each is fed, and how far two engines' answers are apart.

Importing this leaves torch out, as ``candidates.py`` does.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Protocol, cast

import cv2
import numpy as np
from numpy.typing import NDArray

from pipeline.models.zoo import VARIANTS
from pipeline.protocols import InpaintingEngine, MattingEngine, SegmentationEngine
from pipeline.types import Image, Mask, Prompt

PHOTO: Final = Path(__file__).resolve().parents[2] / "tests" / "data" / "astronaut.jpg"


@dataclass(frozen=True)
class Figure:
    """How far an engine's answer is from the straightforward float32 one.

    Attributes:
        name: What was measured.
        value: The figure.
        limit: What is allowed; None if nothing is asked.
        at_least: Whether more is better.
    """

    name: str
    value: float
    limit: float | None = None
    at_least: bool = False

    @property
    def is_met(self) -> bool:
        if self.limit is None:
            return True
        return self.value >= self.limit if self.at_least else self.value <= self.limit

    def __str__(self) -> str:
        return f"{self.name} {self.value:.2g}{'' if self.is_met else ' MISSED'}"


class Case(Protocol):
    """One task of one network.

    Attributes:
        variant: Row of the zoo.
        rounds: How often every engine runs if nothing else is asked for.
        baseline_s: Roughly what the straightforward network takes on two cores, for estimates.
    """

    @property
    def variant(self) -> str: ...
    @property
    def rounds(self) -> int: ...
    @property
    def baseline_s(self) -> float: ...

    def call(self, engine: Any) -> Callable[[], object]:
        """What is timed."""
        ...

    def answer(self, engine: Any) -> Any:
        """What ``figures`` compares."""
        ...

    def figures(self, expected: Any, found: Any, *, is_float32: bool) -> list[Figure]:
        """How far ``found`` is from ``expected``."""
        ...


@dataclass(frozen=True)
class MattingCase:
    """The alpha of one photo; its error is the mean over the pixels, of alphas in steps of 1/255."""

    variant: str
    rounds: int
    baseline_s: float

    def photo(self) -> Image:
        size_hw = VARIANTS[self.variant].input_size_hw
        assert size_hw is not None
        return read_photo(size_hw)

    def call(self, engine: MattingEngine) -> Callable[[], object]:
        photo = self.photo()
        return lambda: engine.estimate_alpha([photo])

    def answer(self, engine: MattingEngine) -> NDArray[np.float32]:
        return engine.estimate_alpha([self.photo()])[0].astype(np.float32) / np.float32(255)

    def figures(self, expected: NDArray[np.float32], found: NDArray[np.float32], *, is_float32: bool) -> list[Figure]:
        return [Figure("alpha MAE", float(np.abs(expected - found).mean()), limit=0.002)]


@dataclass(frozen=True)
class EncodeCase:
    """The embedding of one photo; compared with it are masks decoded from it."""

    variant: str = "mobile-sam"
    rounds: int = 9
    baseline_s: float = 1.2

    def call(self, engine: SegmentationEngine) -> Callable[[], object]:
        photo = read_photo(engine.info.input_size_hw)
        return lambda: engine.embed([photo])

    def answer(self, engine: SegmentationEngine) -> tuple[NDArray[np.float32], list[Mask]]:
        embedding = engine.embed([read_photo(engine.info.input_size_hw)])[0]
        features = np.asarray(cast(Any, embedding).features, np.float32)
        return features, _masks(engine, embedding)

    def figures(
        self,
        expected: tuple[NDArray[np.float32], list[Mask]],
        found: tuple[NDArray[np.float32], list[Mask]],
        *,
        is_float32: bool,
    ) -> list[Figure]:
        error = float(np.abs(expected[0] - found[0]).max())
        limit = 1e-3 if is_float32 else None
        return [Figure("embedding error", error, limit), Figure("mask IoU", _lowest_iou(expected[1], found[1]))]


@dataclass(frozen=True)
class DecodeCase:
    """One prompt's mask on an embedding that is there, at the photo's size."""

    variant: str = "mobile-sam"
    rounds: int = 25
    baseline_s: float = 0.06

    def call(self, engine: SegmentationEngine) -> Callable[[], object]:
        photo = read_photo(engine.info.input_size_hw)
        embeddings = engine.embed([photo])
        prompt = _prompts(photo.shape[:2])[:1]
        return lambda: engine.decode(embeddings, prompt)

    def answer(self, engine: SegmentationEngine) -> list[Mask]:
        return _masks(engine, engine.embed([read_photo(engine.info.input_size_hw)])[0])

    def figures(self, expected: list[Mask], found: list[Mask], *, is_float32: bool) -> list[Figure]:
        return [Figure("mask IoU", _lowest_iou(expected, found))]


@dataclass(frozen=True)
class InpaintingCase:
    """A window with a hole, filled; compared inside the hole."""

    side_px: int = 512
    variant: str = "lama"
    rounds: int = 7
    baseline_s: float = 1.6

    def hole(self) -> Mask:
        """An ellipse and a bar: a fifth of the window."""
        side = self.side_px
        drawn = np.zeros((side, side), np.uint8)
        cv2.ellipse(drawn, (side // 2, side // 3), (side // 4, side // 6), 20, 0, 360, 1, -1)
        drawn[side * 3 // 4 : side * 13 // 16, side // 8 : side * 7 // 8] = 1
        return drawn.astype(bool)

    def call(self, engine: InpaintingEngine) -> Callable[[], object]:
        photo, hole = read_photo((self.side_px, self.side_px)), self.hole()
        return lambda: engine.inpaint([photo], [hole])

    def answer(self, engine: InpaintingEngine) -> Image:
        return engine.inpaint([read_photo((self.side_px, self.side_px))], [self.hole()])[0]

    def figures(self, expected: Image, found: Image, *, is_float32: bool) -> list[Figure]:
        return [Figure("dB in the hole", psnr(expected, found, self.hole()), limit=45, at_least=True)]


CASES: Final[dict[str, Case]] = {
    "lite": MattingCase("lite", rounds=5, baseline_s=8),
    "general": MattingCase("general", rounds=3, baseline_s=20),
    "mobile-sam-encode": EncodeCase(),
    "mobile-sam-decode": DecodeCase(),
    "lama": InpaintingCase(),
}


def read_photo(size_hw: tuple[int, int]) -> Image:
    """The photo that everything is measured on, at this size."""
    bgr = cv2.imread(str(PHOTO), cv2.IMREAD_COLOR)
    if bgr is None:
        raise FileNotFoundError(PHOTO)
    resized = cv2.resize(bgr, (size_hw[1], size_hw[0]), interpolation=cv2.INTER_AREA)
    return np.ascontiguousarray(cv2.cvtColor(resized, cv2.COLOR_BGR2RGB), np.uint8)


def psnr(expected: Image, found: Image, where: Mask) -> float:
    """Peak signal-to-noise ratio inside ``where``, in dB; 99 if nothing differs (JSON has no infinity)."""
    error = float(np.square(expected[where].astype(np.float64) - found[where]).mean())
    return 99.0 if error == 0 else 10 * math.log10(255**2 / error)


def iou(one: Mask, other: Mask) -> float:
    """Intersection over union; 1 if both are empty."""
    union = np.count_nonzero(one | other)
    return np.count_nonzero(one & other) / union if union else 1.0


def _lowest_iou(expected: Sequence[Mask], found: Sequence[Mask]) -> float:
    return min(iou(one, other) for one, other in zip(expected, found, strict=True))


def _prompts(size_hw: tuple[int, ...]) -> list[Prompt]:
    """Prompts that leave no doubt, so that there is one mask for each: two pairs of points and two boxes."""
    height, width = size_hw[:2]
    pairs = [((0.5, 0.3), (0.45, 0.6)), ((0.8, 0.2), (0.75, 0.3))]
    boxes = [(0.3, 0.1, 0.7, 0.9), (0.6, 0.5, 0.95, 0.95)]
    side = np.array([width, height], np.float32)
    on_it = np.ones(2, np.uint8)
    return [Prompt(np.array(pair, np.float32) * side, on_it) for pair in pairs] + [
        Prompt(
            np.zeros((0, 2), np.float32),
            np.zeros(0, np.uint8),
            (left * width, top * height, right * width, bottom * height),
        )
        for left, top, right, bottom in boxes
    ]


def _masks(engine: SegmentationEngine, embedding: Any) -> list[Mask]:
    prompts = _prompts(embedding.size_hw)
    candidates = engine.decode([embedding] * len(prompts), prompts)
    return [one.probabilities[0] >= 128 for one in candidates]
