"""Jobs: upload a photo, tap objects, fetch their masks, cut-outs and the photo without them."""

from __future__ import annotations

import asyncio
import json
import secrets
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Query, Request
from fastapi.exceptions import RequestValidationError
from pydantic import ValidationError
from starlette.responses import Response

from deployments.downloads import artifact_response
from deployments.schemas import JobAccepted, JobDeleted, JobStatus, SegmentRequest, UploadAnswer
from deployments.services import ServicesDep
from deployments.uploads import read_upload, upload_schema
from pipeline import codecs, resize
from pipeline.codecs import OWN_FILES, ImageLimits
from pipeline.errors import FileTooLarge, ImageRejected, InvalidInput
from pipeline.jobs.store import JobObject
from pipeline.operations.extract_and_remove import ORIGINAL

MIB = 1024 * 1024

router = APIRouter(tags=["jobs"])


@router.post("/upload", response_model=UploadAnswer, openapi_extra=upload_schema("file", {}))
async def upload(request: Request, services: ServicesDep) -> UploadAnswer:
    """Registers a photo; the job it opens waits for points."""
    sent = await read_upload(request, "file")
    settings = services.settings
    limits = ImageLimits(
        max_bytes=int(settings.upload_max_size_mb * MIB), max_megapixels=settings.birefnet_max_megapixels
    )
    try:
        png, width, height = await asyncio.to_thread(
            _prepare, sent.data, limits, sent.declared_type, settings.max_image_size
        )
    except FileTooLarge:
        raise
    except ImageRejected as error:
        raise type(error)(f"Upload failed: {error.detail}", **error.fields) from None
    job_id = secrets.token_hex(16)
    try:
        await asyncio.to_thread(services.artifacts.write, job_id, ORIGINAL, png)
        await services.jobs.create(job_id, width=width, height=height)
    except BaseException:
        await asyncio.to_thread(services.artifacts.delete_job, job_id)
        raise
    return UploadAnswer(
        job_id=job_id,
        status="uploaded",
        message="Image uploaded. Send coordinates to segment.",
        width=width,
        height=height,
    )


@router.post("/segment", response_model=JobAccepted)
async def segment(
    services: ServicesDep,
    body: SegmentRequest | None = None,
    job_id: Annotated[str | None, Query(description="The job; may stand in the body instead.")] = None,
    coordinates_list: Annotated[str | None, Query(description="JSON, as in the body.")] = None,
    labels: Annotated[str | None, Query(description="JSON, as in the body.")] = None,
) -> JobAccepted:
    """Starts work on the objects under the points."""
    wanted = _merge(body, job_id, coordinates_list, labels)
    if wanted.job_id is None:
        raise _invalid("job_id", "Field required, in the query or in the body.")
    objects = _objects(wanted)
    await services.jobs.segment(wanted.job_id, objects)
    plural = "object" if len(objects) == 1 else "objects"
    return JobAccepted(job_id=wanted.job_id, status="processing", message=f"Segmenting {len(objects)} {plural}...")


@router.get("/status/{job_id}", response_model=JobStatus, response_model_exclude_none=True)
async def status(job_id: str, services: ServicesDep) -> JobStatus:
    """How far the job is, and what can be downloaded."""
    return JobStatus.of(await services.jobs.get(job_id))


@router.head("/download/{job_id}/{filename}", include_in_schema=False)
@router.get("/download/{job_id}/{filename}", response_class=Response)
async def download(
    job_id: str,
    filename: str,
    request: Request,
    services: ServicesDep,
    format: Annotated[
        Literal["png", "jpeg"], Query(description="jpeg re-encodes a file without transparency.")
    ] = "png",
) -> Response:
    """One of the job's files."""
    await services.jobs.require_file(job_id, filename)
    if format == "jpeg":
        data = await asyncio.to_thread(services.artifacts.read, job_id, filename)
        jpeg = await asyncio.to_thread(_to_jpeg, data, filename)
        name = filename.rsplit(".", 1)[0] + ".jpg"
        headers = {"Content-Disposition": f'attachment; filename="{name}"', "Cache-Control": "no-store"}
        return Response(jpeg, media_type="image/jpeg", headers=headers)
    return await artifact_response(request, services.artifacts, job_id, filename, filename)


@router.delete("/cleanup/{job_id}", response_model=JobDeleted)
async def cleanup(job_id: str, services: ServicesDep) -> JobDeleted:
    """Ends the job and deletes everything it has."""
    await services.jobs.delete(job_id)
    return JobDeleted(job_id=job_id)


def _prepare(data: bytes, limits: ImageLimits, declared_type: str | None, max_side_px: int) -> tuple[bytes, int, int]:
    """``original.png`` of an upload, with its width and height."""
    photo = codecs.decode_image(data, limits=limits, declared_type=declared_type)
    pixels = resize.fit_within(photo.pixels, max_side_px) if max_side_px else photo.pixels
    height, width = pixels.shape[:2]
    return codecs.encode_png(pixels, icc_profile=photo.icc_profile), width, height


def _to_jpeg(png: bytes, filename: str) -> bytes:
    photo = codecs.decode_image(png, OWN_FILES)
    if photo.alpha is not None or filename.startswith("cropped_"):
        raise InvalidInput("JPEG has no transparency. Fetch this file as PNG.", filename=filename)
    return codecs.encode_jpeg(photo.pixels)


def _merge(
    body: SegmentRequest | None, job_id: str | None, coordinates_list: str | None, labels: str | None
) -> SegmentRequest:
    """The request with what the query says filled in where the body is silent."""
    values: dict[str, Any] = {"job_id": job_id}
    for name, text in (("coordinates_list", coordinates_list), ("labels", labels)):
        if text is not None:
            try:
                values[name] = json.loads(text)
            except (ValueError, RecursionError):
                raise _invalid(name, "Not valid JSON.") from None
    if body is not None:
        values |= body.model_dump(exclude_none=True)
    try:
        return SegmentRequest.model_validate(values)
    except ValidationError as error:
        problems = [{**problem, "loc": ("query", *problem["loc"])} for problem in error.errors(include_url=False)]
        raise RequestValidationError(problems) from None


def _objects(wanted: SegmentRequest) -> tuple[JobObject, ...]:
    if wanted.coordinates_list is None:
        raise _invalid("coordinates_list", "Field required, in the body or in the query.")
    entries = wanted.coordinates_list
    labels: list[Any] = list(wanted.labels) if wanted.labels is not None else [None] * len(entries)
    if len(labels) != len(entries):
        raise _invalid("labels", "labels must nest exactly like coordinates_list.")
    objects = []
    for entry, entry_labels in zip(entries, labels, strict=True):
        points = entry if isinstance(entry, list) else [entry]
        if entry_labels is None:
            entry_labels = [1] * len(points)
        elif isinstance(entry, list) != isinstance(entry_labels, list):
            raise _invalid("labels", "labels must nest exactly like coordinates_list.")
        elif not isinstance(entry_labels, list):
            entry_labels = [entry_labels]
        if len(entry_labels) != len(points):
            raise _invalid("labels", "labels must nest exactly like coordinates_list.")
        objects.append(JobObject(tuple(points), tuple(entry_labels)))
    return tuple(objects)


def _invalid(field: str, message: str) -> RequestValidationError:
    return RequestValidationError([{"type": "value_error", "loc": ("body", field), "msg": message, "input": None}])
