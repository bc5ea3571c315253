"""Request and response bodies of jobs."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator

from deployments.job_prompts import MAX_OBJECTS, MAX_POINTS
from pipeline import masks
from pipeline.errors import TooManyObjects, TooManyPoints
from pipeline.jobs.records import JobRecord, JobView

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
    callback_url: str | None = Field(
        None,
        description="Where the status document is sent once the job has ended: a host the operator allows.",
        examples=["https://hooks.example.com/clearcut"],
    )

    @field_validator("coordinates_list", "labels", mode="before")
    @classmethod
    def _few(cls, entries: object) -> object:
        # Before anything is made of them: a million points would each be looked at, and each be told of if wrong.
        if isinstance(entries, list):
            if len(entries) > MAX_OBJECTS:
                raise TooManyObjects(
                    f"At most {MAX_OBJECTS} objects a job.", max_objects=MAX_OBJECTS, objects=len(entries)
                )
            for index, entry in enumerate(entries):
                if isinstance(entry, list) and len(entry) > MAX_POINTS:
                    raise TooManyPoints(f"At most {MAX_POINTS} points an object.", max_points=MAX_POINTS, object=index)
        return entries


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


JobState = Literal["uploaded", "processing", "ready", "error", "canceled"]


class JobStatus(BaseModel):
    """A job as it stands."""

    job_id: str = Field(examples=["5f2b6c0e9d1a4b7c8e3f0a1b2c3d4e5f"])
    status: JobState
    stage: str = Field(examples=["inpainting"])
    progress: int = Field(ge=0, le=100)
    num_objects: int
    objects: list[ObjectFound] = Field(description="Empty until the objects were found.")
    files: list[str] = Field(description="What can be downloaded now.", examples=[["original.png", "mask_0.png"]])
    width: int
    height: int
    refine_radius_px: int = Field(description="Nothing farther than this from a mask changes in inpainted files.")
    queue_position: int | None = Field(None, ge=1, description="Of a waiting job: 1 is next.")
    estimated_wait_s: float | None = Field(None, ge=0, description="Of a waiting job: seconds until its turn.")
    created_at: datetime
    updated_at: datetime
    expires_at: datetime
    error: str | None = Field(None, description="Why the job ended in error.")
    job_dir: str

    @classmethod
    def of(cls, record: JobRecord) -> JobStatus:
        """The record in the words of the API."""
        return cls(**_told(record))

    @classmethod
    def of_view(cls, view: JobView) -> JobStatus:
        """Likewise, with the place of a waiting job."""
        waiting = {"queue_position": view.queue_position, "estimated_wait_s": view.estimated_wait_s}
        return cls(**_told(view.record), **waiting)


class ArtifactEvent(JobStatus):
    """A job when one of its files became ready."""

    file: str = Field(examples=["mask_0.png"])
    url: str = Field(description="Where to fetch it, relative to this service.")

    @classmethod
    def of_file(cls, record: JobRecord, file: str, url: str) -> ArtifactEvent:
        """The record, and the file that it lists last."""
        return cls(**_told(record), file=file, url=url)


def _told(record: JobRecord) -> dict[str, Any]:
    return {
        "job_id": record.job_id,
        "status": record.state,
        "stage": record.stage,
        "progress": record.progress,
        "num_objects": len(record.objects),
        "objects": [ObjectFound(coverage=q.coverage, confidence=q.confidence) for q in record.qualities],
        "files": list(record.files),
        "width": record.width,
        "height": record.height,
        "refine_radius_px": masks.refine_radius_px((record.height, record.width)),
        "created_at": _utc(record.created_at),
        "updated_at": _utc(record.updated_at),
        "expires_at": _utc(record.expires_at),
        "error": record.error,
        "job_dir": f"jobs/{record.job_id}",
    }


def _utc(seconds: float) -> datetime:
    return datetime.fromtimestamp(seconds, UTC)
