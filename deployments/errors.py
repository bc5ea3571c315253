"""Error class → HTTP status: one table, one body for every error of every route."""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from typing import Any

from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.types import Scope

from pipeline import errors

logger = logging.getLogger("ray.serve")

STATUS_BY_ERROR: dict[type[errors.ClearcutError], int] = {
    errors.InvalidRequest: 422,
    errors.InvalidInput: 400,
    errors.FileTooLarge: 413,
    errors.UploadTimeout: 408,
    errors.JobNotFound: 404,
    errors.FileNotFound: 404,
    errors.JobNotReady: 409,
    errors.JobBusy: 409,
    errors.JobFinished: 409,
    errors.KeyReused: 422,
    errors.Unauthorized: 401,
    errors.RateLimitExceeded: 429,
    errors.EmptyMask: 422,
    errors.ModelNotLoaded: 503,
    errors.ModelUnavailable: 503,
    errors.GpuMemoryExhausted: 503,
    errors.Overloaded: 503,
    errors.ProcessingTimeout: 504,
    errors.StorageUnavailable: 503,
    errors.StorageFull: 507,
    errors.ClearcutError: 500,
}

CODE_BY_STATUS = {
    404: "NOT_FOUND",
    405: "METHOD_NOT_ALLOWED",
    408: "UPLOAD_TIMEOUT",
    413: "FILE_TOO_LARGE",
    415: "UNSUPPORTED_MEDIA_TYPE",
    416: "RANGE_NOT_SATISFIABLE",
}
MAX_PROBLEMS = 20
MAX_FIELD_LENGTH = 100
UNFORESEEN = "Something went wrong on our side. Try again; if it happens again, report the request_id."


def status_of(error: errors.ClearcutError) -> int:
    """The status of the error's class, or of the nearest class above it."""
    return next(STATUS_BY_ERROR[cls] for cls in type(error).__mro__ if cls in STATUS_BY_ERROR)


def install_error_handlers(app: FastAPI) -> None:
    """Makes ``app`` answer every error with ``{"detail", "error_code", ..., "request_id"}``."""

    @app.exception_handler(errors.ClearcutError)
    async def ours(request: Request, error: errors.ClearcutError) -> Response:
        return answer_to(request, error)

    @app.exception_handler(TimeoutError)
    async def timed_out(request: Request, error: TimeoutError) -> Response:
        late = errors.Overloaded("A part of the service did not answer in time. Try again.", retry_after=5)
        return answer_to(request, late)

    @app.exception_handler(RequestValidationError)
    async def invalid(request: Request, error: RequestValidationError) -> JSONResponse:
        listed = error.errors()[:MAX_PROBLEMS]
        problems = [{"field": _field(problem["loc"]), "problem": problem["msg"]} for problem in listed]
        named = "; ".join(f"{p['field'] or 'body'}: {p['problem']}" for p in problems)
        return error_response(
            request, 422, "INVALID_REQUEST", f"The request is not valid. {named}", {"errors": problems}
        )

    @app.exception_handler(HTTPException)
    async def http(request: Request, error: HTTPException) -> Response:
        if error.status_code == 400:  # FastAPI's, for JSON that is not even text
            unreadable = {"type": "value_error", "loc": ("body",), "msg": "It cannot be read.", "input": None}
            return await invalid(request, RequestValidationError([unreadable]))
        return answer_to(request, error)


def answer_to(request: Request, error: errors.ClearcutError | HTTPException) -> Response:
    """The answer that tells of ``error``."""
    if isinstance(error, errors.ClearcutError):
        status = status_of(error)
        if status >= 500:
            told = (request.method, route_of(request.scope), error.detail, error.code, request_id_of(request))
            logger.warning("%s %s: %s (%s, request %s)", *told)
        retry_after = error.fields.get("retry_after")
        headers = {"Retry-After": str(math.ceil(retry_after))} if isinstance(retry_after, int | float) else {}
        return error_response(request, status, error.code, error.detail, error.fields, headers)
    if error.status_code == 204:
        return Response(status_code=204, headers=error.headers)
    code = CODE_BY_STATUS.get(error.status_code, "INVALID_REQUEST" if error.status_code < 500 else "INTERNAL_ERROR")
    fields = getattr(error, "fields", {})
    return error_response(request, error.status_code, code, str(error.detail), fields, dict(error.headers or {}))


def _field(location: Sequence[object]) -> str:
    """Where a problem lies. Names of fields may be the sender's: short, and nothing that UTF-8 cannot hold."""
    path = ".".join(str(part) for part in location[1:])
    return path[:MAX_FIELD_LENGTH].encode("utf-8", "replace").decode()


def error_response(
    request: Request,
    status: int,
    code: str,
    detail: str,
    fields: dict[str, Any] | None = None,
    headers: dict[str, str] | None = None,
) -> JSONResponse:
    """The one body of errors."""
    request.scope.setdefault("state", {})["error_code"] = code
    body = {"detail": detail, "error_code": code, **(fields or {}), "request_id": request_id_of(request)}
    return JSONResponse(body, status_code=status, headers=headers)


def headers_of_unread(scope: Scope) -> dict[str, str]:
    """What an answer needs whose request's body is not read.

    A body without an end in sight is cut off. Others are read and dropped by the server: closing the connection on a
    sender in mid-body resets it, and the answer may be lost.
    """
    return {"Connection": "close"} if "transfer-encoding" in Headers(scope=scope) else {}


def internal_error(request: Request) -> JSONResponse:
    """The answer to what nobody foresaw; the log has the rest under the same ``request_id``."""
    return error_response(request, 500, "INTERNAL_ERROR", UNFORESEEN)


def request_id_of(request: Request) -> str:
    """The id this request has in the log and in the ``X-Request-ID`` header."""
    return str(request.scope.get("state", {}).get("request_id", ""))


def route_of(scope: Scope) -> str:
    """The route's own path, such as ``/status/{job_id}``; what callers fill in stays out of logs."""
    return str(getattr(scope.get("route"), "path", "an unknown path"))
