"""Automatic foreground from the embedded network."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from pipeline.models.embedded.views import lift_into_image, predict, whole
from pipeline.models.embedded.weights import TrainedNetwork, load_weights
from pipeline.types import Alpha8, EngineInfo, Image

_INPUT_SIDE_PX: Final = 512


class EmbeddedMatting:
    """Automatic foreground from a small network whose weights come with the package."""

    def __init__(self, trained: TrainedNetwork | None = None) -> None:
        self._trained = trained or load_weights()

    @property
    def info(self) -> EngineInfo:
        return self._trained.engine_info(_INPUT_SIDE_PX, "removing backgrounds")

    def estimate_alpha(self, images: Sequence[Image]) -> list[Alpha8]:
        """One alpha per image, uint8, (H, W); nearly all 0 where nothing stands out."""
        views = [whole(image) for image in images]
        found = predict(self._trained, views)
        return [lift_into_image(probability, view) for probability, view in zip(found, views, strict=True)]
