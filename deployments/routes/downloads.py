"""The files of jobs. Only names from the job's own list lead to a stored file."""

from __future__ import annotations

import asyncio
from typing import Annotated, Literal

from fastapi import APIRouter, Query, Request
from starlette.responses import Response

from deployments.downloads import artifact_response
from deployments.error_docs import refusals
from deployments.parameters import JPEG_SCHEMA, PNG_SCHEMA, FileName, JobId, told
from deployments.services import ServicesDep
from pipeline import codecs
from pipeline.codecs import OWN_FILES
from pipeline.errors import FileNotFound, InvalidInput, JobNotFound, JobNotReady, StorageUnavailable
from pipeline.jobs.artifacts import ArtifactStore

router = APIRouter(tags=["jobs"])

_HEADERS = [
    {"name": name, "in": "header", "description": text, "schema": {"type": "string"}}
    for name, text in {
        "Range": "One part of a PNG: `bytes=0-1023`. Anything else means all of it.",
        "If-Range": "With Range: the tag of the file whose part is wanted.",
        "If-None-Match": "Tags of what the client has already.",
    }.items()
]


@router.head("/download/{job_id}/{filename}", include_in_schema=False)
@router.get(
    "/download/{job_id}/{filename}",
    operation_id="download",
    summary="original, mask_i, cropped_i, inpainted_i, full_inpainted (.png).",
    response_class=Response,
    openapi_extra={"parameters": _HEADERS},
    responses={
        200: {
            **told("The file.", ETag="Of a PNG: the file's tag.", Content_Disposition="The name to save it under."),
            "content": {"image/png": {"schema": PNG_SCHEMA}, "image/jpeg": {"schema": JPEG_SCHEMA}},
        },
        206: {
            **told("The part that Range asked for.", ETag="The file's tag.", Content_Range="Which part, of how much."),
            "content": {"image/png": {"schema": PNG_SCHEMA}},
        },
        304: told("The client has it already: its tag stands in If-None-Match.", ETag="The file's tag."),
        **refusals(
            {
                InvalidInput: "JPEG has no transparency. Fetch this file as PNG.",
                JobNotFound: "Job not found",
                FileNotFound: "File not found",
                JobNotReady: "This file is not ready yet. It can be fetched as soon as the status lists it.",
                StorageUnavailable: "The server's storage does not answer. Try again.",
            },
            by_status={416: "The range lies outside the file."},
        ),
    },
)
async def download(
    job_id: JobId,
    filename: FileName,
    request: Request,
    services: ServicesDep,
    format: Annotated[
        Literal["png", "jpeg"], Query(description="jpeg re-encodes a file without transparency.")
    ] = "png",
) -> Response:
    """One of the job's files, in parts if need be: it knows Range, If-Range, ETag and If-None-Match."""
    stored = await services.jobs.file(job_id, filename)
    if format == "jpeg":
        jpeg = await asyncio.to_thread(_jpeg_of, services.artifacts, job_id, stored, filename)
        name = filename.rsplit(".", 1)[0] + ".jpg"
        headers = {"Content-Disposition": f'attachment; filename="{name}"', "Cache-Control": "no-store"}
        return Response(jpeg, media_type="image/jpeg", headers=headers)
    return await artifact_response(request, services.artifacts, job_id, stored, filename)


def _jpeg_of(artifacts: ArtifactStore, job_id: str, stored: str, filename: str) -> bytes:
    try:
        photo = codecs.decode_image(artifacts.read(job_id, stored), OWN_FILES)
    except FileNotFound as error:
        raise FileNotFound(error.detail, filename=filename) from None  # where it lies is nobody's concern
    if photo.alpha is not None or filename.startswith("cropped_"):
        raise InvalidInput("JPEG has no transparency. Fetch this file as PNG.", filename=filename)
    return codecs.encode_jpeg(photo.pixels)
