"""What the three model deployments share: an engine or the reason why there is none, and the gate in front of it."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Generic, Protocol, TypeVar

from deployments.batching import BatchGate, BatchOptions
from deployments.model_status import ModelStatus
from pipeline.errors import ModelNotLoaded
from pipeline.types import EngineInfo

logger = logging.getLogger("ray.serve")


class _Engine(Protocol):
    @property
    def info(self) -> EngineInfo: ...


Engine = TypeVar("Engine", bound=_Engine)


class ModelReplica(Generic[Engine]):
    """Loads an engine and warms it up; a wanted engine that cannot run leaves the replica up, and unhealthy.

    The batched methods stay with the deployments themselves: ``@serve.batch`` keeps its queue on the function it
    decorates, so two deployments in one process would share that of a common base.
    """

    def __init__(self, name: str, load: Callable[[], Engine], warm_up: Callable[[Engine], object]) -> None:
        self.gate = BatchGate()
        self._engine: Engine | None = None
        self._error: str | None = None
        try:
            engine = load()
        except ModelNotLoaded as error:
            logger.error("%s: %s", name, error.detail)
            self._error = error.detail
            return
        warm_up(engine)
        self._engine = engine
        logger.info("%s runs %s on %s.", name, engine.info.model_version, engine.info.device)

    @property
    def engine(self) -> Engine:
        """The engine. Raises ``ModelNotLoaded`` if there is none."""
        if self._engine is None:
            raise ModelNotLoaded(self._error or "The model is not loaded.")
        return self._engine

    def status(self) -> ModelStatus:
        """What runs here."""
        info = self._engine.info if self._engine else None
        return ModelStatus(info, self._error, batch_sizes=dict(self.gate.batch_sizes))

    def configure(self, options: BatchOptions) -> None:
        """Takes over what concerns the gate."""
        self.gate.stuck_after_s = options.stuck_after_s
