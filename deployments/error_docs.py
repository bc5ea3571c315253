"""Errors in the OpenAPI description: each with its status, its code and an example of its body."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from deployments.errors import CODE_BY_STATUS, UNFORESEEN, status_of
from pipeline.errors import (
    ClearcutError,
    FileTooLarge,
    ImageBomb,
    ImageTooSmall,
    InvalidImage,
    InvalidRequest,
    Overloaded,
    RateLimitExceeded,
    ResolutionTooLarge,
    Unauthorized,
    UnsupportedFormat,
    UploadTimeout,
)

ERROR_BODY = "#/components/schemas/ErrorBody"

Details = Mapping[type[ClearcutError], str]

IMAGE_REFUSED: Details = {
    UnsupportedFormat: "This is not a JPEG, PNG, WebP or BMP image.",
    InvalidImage: "The image cannot be read.",
    ImageBomb: "This image unpacks to far more than it should: a decompression bomb.",
    ResolutionTooLarge: "The image is larger than 8K (7680x4320).",
    ImageTooSmall: "The image is smaller than 64x64 pixels.",
    FileTooLarge: "File size exceeds 10MB limit",
}
"""What a picture may be refused for, before any model sees it."""

TOO_MANY = "Rate limit exceeded: 30 requests per minute"
WORK_REFUSED: Details = {
    UploadTimeout: "The upload was too slow. Try again on a better connection, or with a smaller file.",
    RateLimitExceeded: TOO_MANY,
}
"""What a request for work may be refused for, before anything is known of its body."""

KEY_REFUSED: Details = {
    Unauthorized: "This API key is not known, or was revoked.",
    Overloaded: "API keys cannot be checked now. Try again.",
}
"""What any request with a key may be refused for."""

_FORESEEN: Details = {
    **KEY_REFUSED,
    InvalidRequest: "The request is not valid. job_id: Field required",
    Overloaded: "A part of the service did not answer in time. Try again.",
}
_ANYWHERE: Details = {ClearcutError: UNFORESEEN}


class ErrorBody(BaseModel):
    """The body of every error of every route. Some hold further fields, such as the limit that was passed."""

    model_config = ConfigDict(extra="allow")

    detail: str = Field(description="A sentence for the caller.", examples=["Job not found"])
    error_code: str = Field(pattern="^[A-Z][A-Z_]*$", examples=["JOB_NOT_FOUND"], description="What programs go by.")
    request_id: str = Field(
        description="The X-Request-ID of the answer; the service's log has more under it.", examples=["0b6d7f1e"]
    )


def refusals(details: Details, *, by_status: Mapping[int, str] | None = None) -> dict[int | str, dict[str, Any]]:
    """``responses=`` of a route that may raise these errors, each with the sentence its caller may read.

    Some need no mention, since every route that works on something may raise them: the request is not valid, its key is
    not known, a part of the service is late, or something nobody foresaw.

    Args:
        details: The errors of our own.
        by_status: The errors that are HTTP's own, such as 416.
    """
    return page_refusals({**_FORESEEN, **details}, by_status=by_status)


def page_refusals(
    details: Details | None = None, *, by_status: Mapping[int, str] | None = None
) -> dict[int | str, dict[str, Any]]:
    """Likewise for a page that takes nothing: only what nobody foresaw needs no mention."""
    found = [(status_of(error(text)), error.code, text) for error, text in {**_ANYWHERE, **(details or {})}.items()]
    found += [(status, CODE_BY_STATUS[status], text) for status, text in (by_status or {}).items()]
    responses: dict[int | str, dict[str, Any]] = {}
    for status, code, text in sorted(found, key=lambda refusal: refusal[0]):
        json_content = responses.setdefault(status, _response())["content"]["application/json"]
        body = {"detail": text, "error_code": code, "request_id": "0b6d7f1e"}
        json_content["examples"].setdefault(code, {"value": body})
        codes = list(json_content["examples"])
        json_content["schema"] = {"$ref": ERROR_BODY, "properties": {"error_code": {"enum": codes}}}
        responses[status]["description"] = " or ".join(codes)
    return responses


def _response() -> dict[str, Any]:
    # No "model": FastAPI files that under the type of the route's successful answers.
    return {"description": "", "content": {"application/json": {"examples": {}}}}
