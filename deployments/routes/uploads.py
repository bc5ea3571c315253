"""A photo to a job: checked, brought to its working size, stored, and only then promised."""

from __future__ import annotations

import asyncio
import contextlib
import secrets
from collections.abc import Callable
from dataclasses import dataclass
from typing import ParamSpec

from fastapi import APIRouter, Request

from deployments.clients import client_of
from deployments.error_docs import IMAGE_REFUSED, WORK_REFUSED, refusals
from deployments.idempotency import KeyHeader, upload_key
from deployments.job_links import LINKS
from deployments.job_schemas import UploadAnswer
from deployments.memory_budget import UPLOAD_BYTES_PER_PIXEL, hold_pixels
from deployments.services import Services, ServicesDep
from deployments.uploads import read_upload, upload_schema
from pipeline import codecs, resize
from pipeline.codecs import ImageLimits
from pipeline.errors import (
    ClearcutError,
    FileTooLarge,
    ImageRejected,
    InvalidImage,
    JobNotFound,
    KeyReused,
    Overloaded,
    StorageFull,
    StorageUnavailable,
)
from pipeline.jobs.records import IdempotencyKey, JobRecord
from pipeline.operations.extract_and_remove import ORIGINAL

MIB = 1024 * 1024
TAKEOVERS = 3

P = ParamSpec("P")

router = APIRouter(tags=["jobs"])


@dataclass(frozen=True)
class _Original:
    """``original.png`` of a new job."""

    png: bytes
    width: int
    height: int


@router.post(
    "/upload",
    operation_id="upload",
    summary="A photo (form field file) to a job_id.",
    response_model=UploadAnswer,
    openapi_extra=upload_schema("file", {}, description="The photo."),
    responses={
        200: {"description": "The job that was opened, or the one this Idempotency-Key opened before.", "links": LINKS},
        **refusals(
            {
                **WORK_REFUSED,
                **IMAGE_REFUSED,
                InvalidImage: "Upload failed: Invalid image data: the file is not a picture.",
                FileTooLarge: "File size exceeds 50MB limit",
                KeyReused: "This Idempotency-Key was used for another request. Take a new key for a new request.",
                Overloaded: "The service is busy. Try again in a few seconds.",
                StorageUnavailable: "The server's storage does not answer. Try again.",
                StorageFull: "The server has no room for more files. Try again later.",
            }
        ),
    },
)
async def upload(request: Request, services: ServicesDep, idempotency_key: KeyHeader = None) -> UploadAnswer:
    """Registers a photo; the job it opens waits for points."""
    sent = await read_upload(request, "file")
    settings = services.settings
    limits = ImageLimits(
        max_bytes=int(settings.upload_max_size_mb * MIB), max_megapixels=settings.birefnet_max_megapixels
    )
    try:
        header = codecs.read_header(sent.data, limits, declared_type=sent.declared_type)
        hold_pixels(request, header, UPLOAD_BYTES_PER_PIXEL)
        original = await asyncio.to_thread(_prepare, sent.data, limits, sent.declared_type, settings.max_image_size)
    except FileTooLarge:
        raise
    except ImageRejected as error:
        raise type(error)(f"Upload failed: {error.detail}", **error.fields) from None
    client = client_of(request)
    key = await asyncio.to_thread(upload_key, idempotency_key, sent.data, sent.declared_type, owner=client.key_id)
    record = await _open_job(services, original, client=client.identity, key=key)
    return UploadAnswer(
        job_id=record.job_id,
        status="uploaded",
        message="Image uploaded. Send coordinates to segment.",
        width=record.width,
        height=record.height,
    )


async def _open_job(services: Services, original: _Original, *, client: str, key: IdempotencyKey | None) -> JobRecord:
    """The job of this upload: a new one, or the one its key made before."""
    size = len(original.png)
    for _ in range(TAKEOVERS):
        record = await services.jobs.reserve(secrets.token_hex(16), client=client, size=size, key=key)
        if record.state != "reserved":
            return record
        job_id = record.job_id
        try:
            await _to_the_end(services.artifacts.write, job_id, ORIGINAL, original.png)
            return await services.jobs.create(job_id, width=original.width, height=original.height, size=size)
        except JobNotFound:
            # An earlier request with this key was still writing and then failed: the job we shared went with it.
            await _discard(services, job_id)
        except BaseException:
            await _discard(services, job_id)
            raise
    raise Overloaded("This upload was tried several times at once. Try again.", retry_after=1)


async def _discard(services: Services, job_id: str) -> None:
    with contextlib.suppress(ClearcutError, TimeoutError):  # a reservation that stays is short-lived
        await services.jobs.discard(job_id)


async def _to_the_end(function: Callable[P, None], *args: P.args, **kwargs: P.kwargs) -> None:
    """Runs ``function`` in a thread. A thread cannot be stopped: when cancelled, this waits for it all the same."""
    running = asyncio.ensure_future(asyncio.to_thread(function, *args, **kwargs))
    try:
        await asyncio.shield(running)
    except asyncio.CancelledError:
        await asyncio.wait([running])
        raise


def _prepare(data: bytes, limits: ImageLimits, declared_type: str | None, max_side_px: int) -> _Original:
    photo = codecs.decode_image(data, limits=limits, declared_type=declared_type)
    pixels = resize.fit_within(photo.pixels, max_side_px) if max_side_px else photo.pixels
    height, width = pixels.shape[:2]
    return _Original(codecs.encode_png(pixels, icc_profile=photo.icc_profile), width, height)
