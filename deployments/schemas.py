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
    edge_smoothing_applied: bool = Field(examples=[True])
    processing_time_ms: float = Field(examples=[192.4])
    model_version: str = Field(examples=["BiRefNet-lite"])
    tensorrt_enabled: bool = Field(examples=[False])
    mask_coverage: float = Field(description="Share of the picture that is foreground.", examples=[0.31])
    mask_confidence: float = Field(
        description="Mean certainty of the model inside the foreground, 0 to 1.", examples=[0.98]
    )


class RemovalAnswer(BaseModel):
    """A background removal with ``return_base64``."""

    model_config = ConfigDict(protected_namespaces=())

    success: bool = True
    processed_image: str = Field(
        description="PNG as a data URL.",
        pattern="^data:image/png;base64,",
        examples=["data:image/png;base64,iVBORw0KGgo="],
    )
    processing_info: ProcessingInfo


class ModelFiles(BaseModel):
    checkpoint: bool = Field(examples=[True])
    config: bool = Field(examples=[True])
    tensorrt_engine: bool = Field(examples=[False])


class PerformanceMetrics(BaseModel):
    """Of the last hour; latencies of successful removals, in milliseconds."""

    avg_latency_ms: float = Field(examples=[210.5])
    p50_latency_ms: float = Field(examples=[192.0])
    p95_latency_ms: float = Field(examples=[388.1])
    p99_latency_ms: float = Field(examples=[508.0])
    requests_last_hour: int = Field(examples=[120])


class RemovalHealth(BaseModel):
    model_config = ConfigDict(protected_namespaces=())

    status: Literal["healthy", "degraded", "unhealthy"]
    service: str = "BiRefNet Background Removal"
    version: str = Field(examples=["1.0.0"])
    model: str = Field(examples=["BiRefNet-lite"])
    device: Literal["cuda", "cpu"]
    runtime: str = Field(description="What runs the model: torch, openvino, tensorrt.", examples=["openvino"])
    tensorrt_enabled: bool = Field(examples=[False])
    gpu_memory_free_mb: float = Field(examples=[0.0])
    model_files_status: ModelFiles
    performance_metrics: PerformanceMetrics
    detail: str | None = Field(None, description="Why the status is not healthy, and what to do.")


class Documentation(BaseModel):
    """What this service is, and every route of it."""

    service: str = Field(examples=["Clearcut"])
    version: str = Field(examples=["1.0.0"])
    description: str = Field(examples=["Cuts people and products out of photos."])
    documentation: str = Field(description="Where a browser finds this in full.", examples=["/docs"])
    openapi: str = Field(description="And a program.", examples=["/openapi.json"])
    endpoints: dict[str, str] = Field(
        description="Each method and path, with what it does.", examples=[{"GET /healthz": "The process is up."}]
    )


class Alive(BaseModel):
    status: Literal["ok"] = "ok"


class Readiness(BaseModel):
    status: Literal["ready"] = "ready"
    deployments: dict[str, bool] = Field(examples=[{"BiRefNet": True, "LaMa": True, "Ingress": True}])


class ServiceHealth(BaseModel):
    """The whole service in one look."""

    status: Literal["healthy", "degraded", "unhealthy"]
    version: str = Field(examples=["1.0.0"])
    device: Literal["cuda", "cpu"]
    models_loaded: dict[str, bool] = Field(examples=[{"BiRefNet": True}])
    models: dict[str, str | None] = Field(
        description="What really runs behind each model's name.", examples=[{"BiRefNet": "BiRefNet-lite"}]
    )
    runtimes: dict[str, str | None] = Field(
        description="And on what: torch, openvino, tensorrt, opencv.", examples=[{"BiRefNet": "openvino"}]
    )
    batch_sizes: dict[str, dict[int, int]] = Field(
        description="How many batches of each size each model has run.", examples=[{"BiRefNet": {"1": 40, "4": 7}}]
    )
    detail: str | None = None
