"""Request and response bodies of the HTTP API."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from pipeline import masks
from pipeline.jobs.store import JobRecord


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


PointXY = tuple[float, float]
Label = Literal[0, 1]


class SegmentRequest(BaseModel):
    """Points on the objects of a job, in pixels of ``original.png``."""

    model_config = ConfigDict(extra="forbid")

    job_id: str | None = Field(None, description="May stand in the query instead.")
    coordinates_list: list[PointXY | list[PointXY]] | None = Field(
        None,
        description="One entry per object: a point [x, y], or a list of points [[x, y], ...].",
        examples=[[[250, 300], [400, 150]]],
    )
    labels: list[Label | list[Label]] | None = Field(
        None, description="Nested like coordinates_list: 1 on the object (the default), 0 not on it."
    )


class JobAccepted(BaseModel):
    job_id: str
    status: Literal["uploaded", "processing"]
    message: str


class UploadAnswer(JobAccepted):
    width: int = Field(description="Pixels of original.png.")
    height: int = Field(description="Pixels of original.png.")


class JobDeleted(BaseModel):
    status: Literal["deleted"] = "deleted"
    job_id: str


class ObjectFound(BaseModel):
    """One object of a job, in the order of coordinates_list."""

    coverage: float = Field(description="Share of the picture that its mask covers.")
    confidence: float = Field(description="Mean certainty inside the mask, 0 to 1; tap again where it is low.")


class JobStatus(BaseModel):
    """A job as it stands."""

    job_id: str
    status: Literal["uploaded", "processing", "ready", "error", "canceled"]
    stage: str
    progress: int = Field(ge=0, le=100)
    num_objects: int
    objects: list[ObjectFound] = Field(description="Empty until the objects were found.")
    files: list[str] = Field(description="What can be downloaded now.")
    width: int
    height: int
    refine_radius_px: int = Field(description="Nothing farther than this from a mask changes in inpainted files.")
    created_at: datetime
    updated_at: datetime
    expires_at: datetime
    error: str | None = None
    job_dir: str

    @classmethod
    def of(cls, record: JobRecord) -> JobStatus:
        """The record in the words of the API."""
        return cls(
            job_id=record.job_id,
            status=record.state,
            stage=record.stage,
            progress=record.progress,
            num_objects=len(record.objects),
            objects=[ObjectFound(coverage=q.coverage, confidence=q.confidence) for q in record.qualities],
            files=list(record.files),
            width=record.width,
            height=record.height,
            refine_radius_px=masks.refine_radius_px((record.height, record.width)),
            created_at=_utc(record.created_at),
            updated_at=_utc(record.updated_at),
            expires_at=_utc(record.expires_at),
            error=record.error,
            job_dir=f"jobs/{record.job_id}",
        )


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


def _utc(seconds: float) -> datetime:
    return datetime.fromtimestamp(seconds, UTC)
