"""What a model replica says of itself, for health and readiness."""

from __future__ import annotations

from dataclasses import dataclass, field

from pipeline.types import EngineInfo


@dataclass(frozen=True)
class ModelStatus:
    """One model's state.

    Attributes:
        info: The engine that runs, or None if none could be loaded.
        error: Why none could be loaded.
        gpu_memory_free_mb: Free memory of the replica's GPU in MiB; 0 without one.
        batch_sizes: How many batches of each size have run.
        files: What runs: a verified ``checkpoint``, its ``config`` (the zoo has one for each) and a
            ``tensorrt_engine``.
    """

    info: EngineInfo | None
    error: str | None = None
    gpu_memory_free_mb: float = 0.0
    batch_sizes: dict[int, int] = field(default_factory=dict)
    files: dict[str, bool] = field(
        default_factory=lambda: {"checkpoint": False, "config": False, "tensorrt_engine": False}
    )
