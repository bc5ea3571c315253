"""The MobileSAM deployment: embeds images in batches, decodes many prompts on each embedding."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ray import serve

from deployments.batching import BATCH_WAIT_S, MAX_BATCH_SIZE, BatchOptions, Inferred, set_batching, unwrap
from deployments.model_replica import ModelReplica
from deployments.model_status import ModelStatus
from pipeline.errors import ClearcutError
from pipeline.models.ladder import EngineOptions, load_segmentation
from pipeline.protocols import ImageEmbedding
from pipeline.types import Image, MaskCandidates, Prompt

_Decode = tuple[ImageEmbedding, list[Prompt], int]


@serve.deployment(
    max_ongoing_requests=64,
    max_queued_requests=64,  # of each caller
    health_check_period_s=1,  # a dead replica is noticed, and replaced, at the next check
    graceful_shutdown_timeout_s=60,
    max_surge_percent=100,
)
class MobileSAM:
    """The segmentation engine on one device."""

    def __init__(self, options: EngineOptions) -> None:
        self._replica = ModelReplica("MobileSAM", lambda: load_segmentation(options))

    def reconfigure(self, user_config: dict[str, Any]) -> None:
        options = BatchOptions.model_validate(user_config)
        for batched in (self._embed_batch, self._decode_batch):
            set_batching(batched, options)
        self._replica.configure(options)

    async def status(self) -> ModelStatus:
        return self._replica.status()

    async def embed(self, image: Image, alone: bool = False) -> ImageEmbedding:
        """The embedding of one image; ``alone`` keeps it out of other images' batches."""
        engine = self._replica.engine
        if alone:
            return unwrap(await self._replica.gate.infer_alone(engine.embed, image)).value
        await self._replica.gate.wait()
        return unwrap(await self._embed_batch(image)).value

    async def masks(
        self, embedding: ImageEmbedding, prompts: list[Prompt], candidates: int, alone: bool = False
    ) -> list[MaskCandidates]:
        """Candidates for every prompt on one embedding; ``alone`` keeps them out of other callers' batches."""
        _ = self._replica.engine
        call = (embedding, prompts, candidates)
        if alone:
            return unwrap(await self._replica.gate.infer_alone(self._decode, call)).value
        await self._replica.gate.wait()
        return unwrap(await self._decode_batch(call)).value

    @serve.batch(max_batch_size=MAX_BATCH_SIZE, batch_wait_timeout_s=BATCH_WAIT_S)
    async def _embed_batch(self, images: list[Image]) -> list[Inferred[ImageEmbedding] | ClearcutError]:
        return await self._replica.gate.infer(self._replica.engine.embed, images)

    @serve.batch(max_batch_size=MAX_BATCH_SIZE, batch_wait_timeout_s=BATCH_WAIT_S)
    async def _decode_batch(self, calls: list[_Decode]) -> list[Inferred[list[MaskCandidates]] | ClearcutError]:
        return await self._replica.gate.infer(self._decode, calls)

    def _decode(self, calls: Sequence[_Decode]) -> list[list[MaskCandidates]]:
        """All prompts of all callers in one decode."""
        embeddings = [embedding for embedding, prompts, _ in calls for _prompt in prompts]
        all_prompts = [prompt for _, prompts, _ in calls for prompt in prompts]
        most = max(candidates for _, _, candidates in calls)
        found = iter(self._replica.engine.decode(embeddings, all_prompts, candidates=most))
        return [[_best(next(found), candidates) for _prompt in prompts] for _, prompts, candidates in calls]

    async def check_health(self) -> None:
        self._replica.gate.check()


def _best(found: MaskCandidates, count: int) -> MaskCandidates:
    return MaskCandidates(found.probabilities[:count], found.scores[:count])
