"""What the three model deployments share: an engine or the reason why there is none, and the gate in front of it."""

from __future__ import annotations

import logging
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Generic

from deployments.batching import BatchGate, BatchOptions
from deployments.model_status import ModelStatus
from pipeline.errors import ModelNotLoaded
from pipeline.models.ladder import Engine, Loaded
from pipeline.threads import step_back

logger = logging.getLogger("ray.serve")


class ModelReplica(Generic[Engine]):
    """Loads an engine, which is warm then; a wanted engine that cannot run leaves the replica up, and unhealthy.

    The batched methods stay with the deployments themselves: ``@serve.batch`` keeps its queue on the function it
    decorates, so two deployments in one process would share that of a common base.
    """

    def __init__(self, name: str, load: Callable[[], Loaded[Engine]]) -> None:
        _log_beside_serve()
        self.gate = BatchGate()
        self._loaded: Loaded[Engine] | None = None
        self._error: str | None = None
        try:
            with ThreadPoolExecutor(1, initializer=step_back) as loader:  # the engine's own threads start there
                self._loaded = loader.submit(load).result()
        except ModelNotLoaded as error:
            logger.error("%s: %s", name, error.detail)
            self._error = error.detail
            return
        info = self._loaded.info
        logger.info("%s runs %s on %s (%s).", name, info.model_version, info.device, info.runtime)

    @property
    def engine(self) -> Engine:
        """The engine. Raises ``ModelNotLoaded`` if there is none."""
        if self._loaded is None:
            raise ModelNotLoaded(self._error or "The model is not loaded.")
        return self._loaded.engine

    def status(self) -> ModelStatus:
        """What runs here."""
        batch_sizes = dict(self.gate.batch_sizes)
        if self._loaded is None:
            return ModelStatus(None, self._error, batch_sizes=batch_sizes)
        info, has_weights = self._loaded.info, self._loaded.weights is not None
        files = {"checkpoint": has_weights, "config": has_weights, "tensorrt_engine": info.tensorrt}
        free_mb = _free_gpu_memory_mb() if info.device == "cuda" else 0.0
        return ModelStatus(info, gpu_memory_free_mb=free_mb, batch_sizes=batch_sizes, files=files)

    def configure(self, options: BatchOptions) -> None:
        """Takes over what concerns the gate."""
        self.gate.stuck_after_s = options.stuck_after_s


def _free_gpu_memory_mb() -> float:
    import torch  # loaded already where an engine runs on a GPU

    return round(torch.cuda.mem_get_info()[0] / 2**20, 1)


def _log_beside_serve() -> None:
    """In a replica only Serve's logger has somewhere to write; without this, what the library logs would be lost."""
    library = logging.getLogger("pipeline")
    library.handlers = logger.handlers  # the same list: Serve may fill it anew
    library.setLevel(logger.getEffectiveLevel())
