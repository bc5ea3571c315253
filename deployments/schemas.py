"""Request and response bodies of background removal and of the service's own pages."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field


class RemoveOptions(BaseModel):
    """Form fields of a background removal, beside the image."""

    smoothing: bool = True
    return_base64: bool = False


class ProcessingInfo(BaseModel):
    original_size: str = Field(examples=["1920x1080"])
    output_size: str = Field(examples=["1920x1080"])
    background_removed: bool = True
    edge_smoothing_applied: bool
    processing_time_ms: float
    model_version: str
    tensorrt_enabled: bool
    mask_coverage: float = Field(description="Share of the picture that is foreground.")
    mask_confidence: float = Field(description="Mean certainty of the model inside the foreground, 0 to 1.")


class RemovalAnswer(BaseModel):
    """A background removal with ``return_base64``."""

    model_config = ConfigDict(protected_namespaces=())

    success: bool = True
    processed_image: str = Field(description="PNG as a data URL.")
    processing_info: ProcessingInfo


class ModelFiles(BaseModel):
    checkpoint: bool
    config: bool
    tensorrt_engine: bool


class PerformanceMetrics(BaseModel):
    """Of the last hour; latencies of successful removals, in milliseconds."""

    avg_latency_ms: float
    p50_latency_ms: float
    p95_latency_ms: float
    p99_latency_ms: float
    requests_last_hour: int


class RemovalHealth(BaseModel):
    model_config = ConfigDict(protected_namespaces=())

    status: Literal["healthy", "degraded", "unhealthy"]
    service: str = "BiRefNet Background Removal"
    version: str
    model: str
    device: Literal["cuda", "cpu"]
    runtime: str = Field(description="What runs the model: torch, openvino, tensorrt.")
    tensorrt_enabled: bool
    gpu_memory_free_mb: float
    model_files_status: ModelFiles
    performance_metrics: PerformanceMetrics
    detail: str | None = Field(None, description="Why the status is not healthy, and what to do.")


class ServiceHealth(BaseModel):
    """The whole service in one look."""

    status: Literal["healthy", "degraded", "unhealthy"]
    version: str
    device: Literal["cuda", "cpu"]
    models_loaded: dict[str, bool]
    models: dict[str, str | None] = Field(description="What really runs behind each model's name.")
    runtimes: dict[str, str | None] = Field(description="And on what: torch, openvino, tensorrt, opencv.")
    batch_sizes: dict[str, dict[int, int]] = Field(description="How many batches of each size each model has run.")
    detail: str | None = None
