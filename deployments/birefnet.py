"""The BiRefNet deployment: alpha for whole images, in batches."""

from __future__ import annotations

from typing import Any

from ray import serve

from deployments.batching import BATCH_WAIT_S, MAX_BATCH_SIZE, BatchOptions, Inferred, set_batching, unwrap
from deployments.model_replica import ModelReplica
from deployments.model_status import ModelStatus
from pipeline.errors import ClearcutError
from pipeline.models.ladder import EngineOptions, load_matting
from pipeline.types import Alpha8, Image, MattingResult


@serve.deployment(
    max_ongoing_requests=64,
    max_queued_requests=64,  # of each caller
    health_check_period_s=1,  # a dead replica is noticed, and replaced, at the next check
    graceful_shutdown_timeout_s=60,
    max_surge_percent=100,
)
class BiRefNet:
    """The matting engine on one device."""

    def __init__(self, options: EngineOptions) -> None:
        self._replica = ModelReplica("BiRefNet", lambda: load_matting(options))

    def reconfigure(self, user_config: dict[str, Any]) -> None:
        options = BatchOptions.model_validate(user_config)
        set_batching(self._alpha_batch, options)
        self._replica.configure(options)

    async def status(self) -> ModelStatus:
        return self._replica.status()

    async def alpha(self, image: Image, alone: bool = False) -> MattingResult:
        """Alpha of one image of the engine's input size; ``alone`` keeps it out of other images' batches."""
        engine, gate = self._replica.engine, self._replica.gate
        info = engine.info
        if alone:
            result = unwrap(await gate.infer_alone(engine.estimate_alpha, image))
        else:
            await gate.wait()
            result = unwrap(await self._alpha_batch(image))
        return MattingResult(result.value, info.model_version, result.infer_s, info.tensorrt)

    @serve.batch(max_batch_size=MAX_BATCH_SIZE, batch_wait_timeout_s=BATCH_WAIT_S)
    async def _alpha_batch(self, images: list[Image]) -> list[Inferred[Alpha8] | ClearcutError]:
        return await self._replica.gate.infer(self._replica.engine.estimate_alpha, images)

    async def check_health(self) -> None:
        self._replica.gate.check()
