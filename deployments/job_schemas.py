"""Request and response bodies of jobs."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator

from deployments.job_prompts import MAX_OBJECTS, MAX_POINTS
from deployments.parameters import EXAMPLE_JOB_ID, JOB_ID_PATTERN
from pipeline import masks
from pipeline.errors import TooManyObjects, TooManyPoints
from pipeline.jobs.records import JobRecord, JobView

PointXY = tuple[float, float]
Label = Literal[0, 1]

_POINT: dict[str, Any] = {
    "type": "array",
    "prefixItems": [{"type": "number", "minimum": 0}, {"type": "number", "minimum": 0}],
    "minItems": 2,
    "maxItems": 2,
}
_LABEL = {"type": "integer", "enum": [0, 1]}


def _one_or_more_per_object(item: dict[str, Any]) -> dict[str, Any]:
    several = {"type": "array", "items": item, "minItems": 1, "maxItems": MAX_POINTS}
    return {"type": "array", "items": {"anyOf": [item, several]}, "minItems": 1, "maxItems": MAX_OBJECTS}


# The limits are told here and checked by _few and in job_prompts.py, which answer with codes of their own.
_ONE_OR_MORE_POINTS = _one_or_more_per_object(_POINT)
_ONE_OR_MORE_LABELS = _one_or_more_per_object(_LABEL)
_POINTS_TOLD = "One entry per object: a point [x, y], or a list of points [[x, y], ...]."
_LABELS_TOLD = "Nested like coordinates_list: 1 on the object (the default), 0 not on it."
_EXAMPLE_REQUEST: dict[str, Any] = {
    "job_id": EXAMPLE_JOB_ID,
    "coordinates_list": [[250, 300], [[400, 150], [420, 150]]],
}

IN_QUERY: list[dict[str, Any]] = [
    {
        "name": name,
        "in": "query",
        "description": f"As in the body, as JSON. {told}",
        "content": {"application/json": {"schema": schema, "example": example}},
    }
    for name, told, schema, example in (
        ("coordinates_list", _POINTS_TOLD, _ONE_OR_MORE_POINTS, [[250, 300]]),
        ("labels", _LABELS_TOLD, _ONE_OR_MORE_LABELS, [1]),
    )
]
"""OpenAPI parameters: the part of a request that is JSON in the query too."""


class SegmentRequest(BaseModel):
    """Points on the objects of a job, in pixels of ``original.png``."""

    model_config = ConfigDict(extra="forbid", json_schema_extra={"examples": [_EXAMPLE_REQUEST]})

    job_id: str | None = Field(
        None,
        description="May stand in the query instead.",
        examples=[EXAMPLE_JOB_ID],
        json_schema_extra={"anyOf": [{"type": "string", "pattern": JOB_ID_PATTERN}, {"type": "null"}]},
    )
    coordinates_list: list[PointXY | list[PointXY]] | None = Field(
        None,
        description=_POINTS_TOLD,
        examples=[[[250, 300], [400, 150]]],
        json_schema_extra={"anyOf": [_ONE_OR_MORE_POINTS, {"type": "null"}]},
    )
    labels: list[Label | list[Label]] | None = Field(
        None,
        description=_LABELS_TOLD,
        examples=[[1, 1]],
        json_schema_extra={"anyOf": [_ONE_OR_MORE_LABELS, {"type": "null"}]},
    )
    callback_url: str | None = Field(
        None,
        description="Where the status document is sent once the job has ended: a host the operator allows.",
        examples=["https://hooks.example.com/clearcut"],
        json_schema_extra={"anyOf": [{"type": "string", "format": "uri"}, {"type": "null"}]},
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
    """A job that took what it was sent."""

    job_id: str = Field(examples=[EXAMPLE_JOB_ID])
    status: Literal["uploaded", "processing"]
    message: str = Field(examples=["Segmenting 2 objects..."])


class UploadAnswer(JobAccepted):
    """A job with its photo, as it will be worked on."""

    width: int = Field(description="Pixels of original.png.", examples=[1024])
    height: int = Field(description="Pixels of original.png.", examples=[683])


class JobDeleted(BaseModel):
    """A job that is no more."""

    status: Literal["deleted"] = "deleted"
    job_id: str = Field(examples=[EXAMPLE_JOB_ID])


_EXAMPLE_STATUS: dict[str, Any] = {
    "job_id": EXAMPLE_JOB_ID,
    "status": "processing",
    "stage": "inpainting",
    "progress": 60,
    "num_objects": 1,
    "objects": [{"coverage": 0.12, "confidence": 0.97}],
    "files": ["original.png", "mask_0.png", "cropped_0.png"],
    "width": 1024,
    "height": 683,
    "refine_radius_px": 8,
    "created_at": "2026-01-31T12:00:00Z",
    "updated_at": "2026-01-31T12:00:07Z",
    "expires_at": "2026-02-01T12:00:07Z",
    "job_dir": f"jobs/{EXAMPLE_JOB_ID}",
}


class ObjectFound(BaseModel):
    """One object of a job, in the order of coordinates_list."""

    coverage: float = Field(description="Share of the picture that its mask covers.")
    confidence: float = Field(description="Mean certainty inside the mask, 0 to 1; tap again where it is low.")


JobState = Literal["uploaded", "processing", "ready", "error", "canceled"]


class JobStatus(BaseModel):
    """A job as it stands."""

    model_config = ConfigDict(json_schema_extra={"examples": [_EXAMPLE_STATUS]})

    job_id: str = Field(examples=[EXAMPLE_JOB_ID])
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
