"""Background removal: a photo in, its cut-out back, in one call."""

from __future__ import annotations

import asyncio
import base64
import re
import time
from datetime import UTC, datetime
from typing import cast
from urllib.parse import quote

from fastapi import APIRouter, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import ValidationError
from starlette.responses import Response

from deployments.error_docs import IMAGE_REFUSED, WORK_REFUSED, page_refusals, refusals
from deployments.errors import request_id_of
from deployments.latency import summarize
from deployments.memory_budget import REMOVAL_BYTES_PER_PIXEL, hold_pixels
from deployments.parameters import PNG_SCHEMA, told
from deployments.quarantine import Quarantine
from deployments.schemas import (
    ModelFiles,
    PerformanceMetrics,
    ProcessingInfo,
    RemovalAnswer,
    RemovalHealth,
    RemoveOptions,
)
from deployments.services import Services, ServicesDep
from deployments.uploads import Upload, read_upload, upload_schema
from deployments.version import API_VERSION
from pipeline import codecs
from pipeline.codecs import ImageLimits
from pipeline.errors import (
    ClearcutError,
    GpuMemoryExhausted,
    InferenceError,
    ModelNotLoaded,
    ModelUnavailable,
    Overloaded,
    ProcessingTimeout,
    Quarantined,
    ReplicaDied,
)
from pipeline.operations.remove_background import RemovedBackground, remove_background
from pipeline.stages import StageClock

PREFIX = "/api/background-removal"
MIB = 1024 * 1024

router = APIRouter(prefix=PREFIX, tags=["background removal"])

_YES_OR_NO = [{"type": "boolean"}, {"type": "string", "enum": ["1", "0", "on", "off", "t", "f", "y", "n", "yes", "no"]}]
_FORM = upload_schema(
    "image",
    {
        "smoothing": {
            "anyOf": _YES_OR_NO,
            "default": True,
            "description": "Whether the cut-out's edges are smoothed; false keeps the alpha as the model made it.",
            "examples": [True],
        },
        "return_base64": {
            "anyOf": _YES_OR_NO,
            "default": False,
            "description": "Whether the answer is JSON with the PNG as a data URL.",
            "examples": [False],
        },
    },
    description="The photo and how it is wanted.",
)
_REMOVED = told(
    "The cut-out: a PNG, or JSON with return_base64.",
    X_Processing_Time_Ms="Milliseconds inside the service, without the upload.",
    X_Original_Size="Width and height in pixels: 1920x1080.",
    X_Model_Version="The model that really ran.",
    X_Mask_Coverage="Share of the picture that is foreground, 0 to 1.",
    X_Mask_Confidence="Mean certainty of the model inside the foreground, 0 to 1.",
    Server_Timing="Milliseconds of each stage.",
    Content_Disposition="Of a PNG: the name to save it under.",
)


@router.get(
    "/health",
    operation_id="background_removal_health",
    summary="Model, device and latencies of background removal.",
    response_model=RemovalHealth,
    response_description="Healthy, or degraded and why.",
    responses=page_refusals({ModelNotLoaded: "The model does not answer."}),
)
async def health(request: Request, services: ServicesDep) -> RemovalHealth | JSONResponse:
    """Status, model, device and the latencies of the last hour."""
    status = (await services.model_status())["BiRefNet"]
    if status is None or status.info is None:
        problem = (status.error if status else None) or "The model does not answer."
        body = {"status": "unhealthy", "error": "Model not loaded", "detail": problem, "error_code": "MODEL_NOT_LOADED"}
        return JSONResponse({**body, "request_id": request_id_of(request)}, status_code=503)
    seen_here = services.latency.snapshot()
    try:
        summary = await services.jobs.report_latency(services.replica, seen_here)
    except (ClearcutError, TimeoutError):
        summary = summarize(seen_here.values())  # JobManager restarts; removals go on without it
    return RemovalHealth(
        status="degraded" if status.info.degraded_reason else "healthy",
        version=API_VERSION,
        model=status.info.model_version,
        device="cuda" if status.info.device == "cuda" else "cpu",
        runtime=status.info.runtime,
        tensorrt_enabled=status.info.tensorrt,
        gpu_memory_free_mb=status.gpu_memory_free_mb,
        model_files_status=ModelFiles.model_validate(status.files),
        performance_metrics=PerformanceMetrics.model_validate(summary, from_attributes=True),
        detail=status.info.degraded_reason,
    )


@router.post(
    "/remove",
    operation_id="remove_background",
    summary="A photo (form field image) to a transparent PNG.",
    openapi_extra=_FORM,
    response_class=Response,
    responses={
        200: {**_REMOVED, "model": RemovalAnswer, "content": {"image/png": {"schema": PNG_SCHEMA}}},
        **refusals(
            {
                **WORK_REFUSED,
                **IMAGE_REFUSED,
                Quarantined: "This picture has made a model fail before. It is not tried again for a while.",
                InferenceError: "The model failed.",
                ModelNotLoaded: "The model is not loaded.",
                ModelUnavailable: "The model is not there now. Try again.",
                GpuMemoryExhausted: "The GPU has no room for this picture now. Try again.",
                Overloaded: "The service is busy. Try again in a moment.",
                ProcessingTimeout: "Processing timeout exceeded 30 seconds",
            }
        ),
    },
)
async def remove(request: Request, services: ServicesDep) -> Response:
    """The photo's foreground as a transparent PNG of the photo's own size."""
    upload = await read_upload(request, "image")
    options = _options(upload)
    quarantine = cast(Quarantine, request.app.state.quarantine)
    quarantine.check(upload.data)
    clock = StageClock()
    try:
        limits = _limits(services)
        header = codecs.read_header(upload.data, limits, declared_type=upload.declared_type)
        hold_pixels(request, header, REMOVAL_BYTES_PER_PIXEL)
        removed = await _remove_in_time(upload, options, limits, services, clock)
    except BaseException as error:
        if isinstance(error, ReplicaDied):
            quarantine.add(upload.data)
        services.latency.record(None)
        raise
    elapsed_ms = round(clock.elapsed_s * 1000, 1)
    services.latency.record(elapsed_ms)
    headers = {
        "X-Processing-Time-Ms": str(elapsed_ms),
        "X-Original-Size": f"{removed.width}x{removed.height}",
        "X-Model-Version": removed.model_version,
        "X-Mask-Coverage": str(removed.quality.coverage),
        "X-Mask-Confidence": str(removed.quality.confidence),
        "Server-Timing": _server_timing(clock, elapsed_ms),
        "Cache-Control": "no-store",
    }
    if options.return_base64:
        answer = await asyncio.to_thread(_base64_answer, removed, options, elapsed_ms)
        return Response(answer, media_type="application/json", headers=headers)
    headers["Content-Disposition"] = content_disposition(_result_name(upload.filename))
    return Response(removed.png, media_type="image/png", headers=headers)


def is_removal(path: str) -> bool:
    """Whether requests to ``path`` remove a background, and need a place among those in flight."""
    return path.endswith(PREFIX + "/remove")


def _limits(services: Services) -> ImageLimits:
    settings = services.settings
    return ImageLimits(
        max_bytes=int(settings.birefnet_max_image_size_mb * MIB), max_megapixels=settings.birefnet_max_megapixels
    )


async def _remove_in_time(
    upload: Upload, options: RemoveOptions, limits: ImageLimits, services: Services, clock: StageClock
) -> RemovedBackground:
    timeout_s = services.settings.birefnet_processing_timeout_sec
    start = time.monotonic()
    try:
        async with asyncio.timeout(timeout_s):
            return await remove_background(
                upload.data,
                matting=services.matting,
                limits=limits,
                declared_type=upload.declared_type,
                smoothing=options.smoothing,
                clock=clock,
            )
    except TimeoutError:
        raise ProcessingTimeout(
            f"Processing timeout exceeded {timeout_s:g} seconds",
            elapsed_seconds=round(time.monotonic() - start, 1),
            suggested_action="Reduce image size or retry with smaller image",
        ) from None


def _options(upload: Upload) -> RemoveOptions:
    try:
        return RemoveOptions.model_validate(upload.fields)
    except ValidationError as error:
        problems = [{**problem, "loc": ("body", *problem["loc"])} for problem in error.errors()]
        raise RequestValidationError(problems) from None


def _base64_answer(removed: RemovedBackground, options: RemoveOptions, elapsed_ms: float) -> bytes:
    size = f"{removed.width}x{removed.height}"
    return (
        RemovalAnswer(
            processed_image="data:image/png;base64," + base64.b64encode(removed.png).decode("ascii"),
            processing_info=ProcessingInfo(
                original_size=size,
                output_size=size,
                edge_smoothing_applied=options.smoothing,
                processing_time_ms=elapsed_ms,
                model_version=removed.model_version,
                tensorrt_enabled=removed.tensorrt,
                mask_coverage=removed.quality.coverage,
                mask_confidence=removed.quality.confidence,
            ),
        )
        .model_dump_json()
        .encode()
    )


def _server_timing(clock: StageClock, total_ms: float) -> str:
    stages = {**clock.stages_ms, "total": total_ms}
    return ", ".join(f"{name};dur={milliseconds}" for name, milliseconds in stages.items())


def _result_name(filename: str) -> str:
    """``portrait.jpg`` → ``portrait_nobg_20251107_143052.png``."""
    stem = re.split(r"[/\\]", filename)[-1].rsplit(".", 1)[0]
    stem = "".join(c for c in stem if c.isprintable() and c not in '<>:"|?*;').strip(" .")[:80] or "image"
    return f"{stem}_nobg_{datetime.now(UTC):%Y%m%d_%H%M%S}.png"


def content_disposition(filename: str) -> str:
    """An attachment's header after RFC 6266: a plain name, and the exact one if it is not plain."""
    plain = re.sub(r"[^A-Za-z0-9._ -]", "_", filename)
    header = f'attachment; filename="{plain}"'
    return header if plain == filename else f"{header}; filename*=UTF-8''{quote(filename, safe='')}"
