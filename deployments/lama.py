"""The LaMa deployment: fills holes, windows of equal size together."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ray import serve

from deployments.batching import BATCH_WAIT_S, MAX_BATCH_SIZE, BatchOptions, Inferred, set_batching, unwrap
from deployments.model_replica import ModelReplica
from deployments.model_status import ModelStatus
from pipeline.errors import ClearcutError
from pipeline.models.ladder import EngineOptions, load_inpainting
from pipeline.types import Image, Mask


@serve.deployment(
    max_ongoing_requests=64,
    max_queued_requests=64,  # of each caller
    health_check_period_s=1,  # a dead replica is noticed, and replaced, at the next check
    graceful_shutdown_timeout_s=60,
    max_surge_percent=100,
)
class LaMa:
    """The inpainting engine on one device."""

    def __init__(self, options: EngineOptions) -> None:
        self._replica = ModelReplica("LaMa", lambda: load_inpainting(options))

    def reconfigure(self, user_config: dict[str, Any]) -> None:
        options = BatchOptions.model_validate(user_config)
        set_batching(self._inpaint_batch, options)
        self._replica.configure(options)

    async def status(self) -> ModelStatus:
        return self._replica.status()

    async def inpaint(self, image: Image, mask: Mask, alone: bool = False) -> Image:
        """One window with its holes filled; ``alone`` keeps it out of other windows' batches."""
        _ = self._replica.engine
        if alone:
            return unwrap(await self._replica.gate.infer_alone(self._inpaint, (image, mask))).value
        await self._replica.gate.wait()
        return unwrap(await self._inpaint_batch((image, mask))).value

    @serve.batch(max_batch_size=MAX_BATCH_SIZE, batch_wait_timeout_s=BATCH_WAIT_S)
    async def _inpaint_batch(self, windows: list[tuple[Image, Mask]]) -> list[Inferred[Image] | ClearcutError]:
        return await self._replica.gate.infer(self._inpaint, windows)

    def _inpaint(self, windows: Sequence[tuple[Image, Mask]]) -> list[Image]:
        return self._replica.engine.inpaint([image for image, _ in windows], [mask for _, mask in windows])

    async def check_health(self) -> None:
        self._replica.gate.check()
