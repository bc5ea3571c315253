"""Errors in the OpenAPI description: each with its status, its code and an example of its body."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from deployments.errors import status_of
from pipeline.errors import ClearcutError, InvalidRequest, Unauthorized

_UNKNOWN_KEY = "This API key is not known, or was revoked."
TOO_MANY = "Rate limit exceeded: 30 requests per minute"
_NOT_VALID = "The request is not valid. job_id: Field required"


class ErrorBody(BaseModel):
    """The body of every error of every route. Some hold further fields, such as the limit that was passed."""

    model_config = ConfigDict(extra="allow")

    detail: str
    error_code: str = Field(examples=["JOB_NOT_FOUND"])
    request_id: str


def refusals(details: Mapping[type[ClearcutError], str]) -> dict[int | str, dict[str, Any]]:
    """``responses=`` of a route that may raise these errors, each with the sentence its caller may read.

    Two need no mention: a request that is not valid, which FastAPI describes for every route in a shape that is not
    ours, and a key that is not known.
    """
    responses: dict[int | str, dict[str, Any]] = {}
    always: dict[type[ClearcutError], str] = {InvalidRequest: _NOT_VALID, Unauthorized: _UNKNOWN_KEY}
    for error, detail in (always | dict(details)).items():
        status = status_of(error(detail))
        response = responses.setdefault(
            status, {"model": ErrorBody, "description": "", "content": {"application/json": {"examples": {}}}}
        )
        response["description"] = " or ".join(filter(None, [response["description"], error.code]))
        body = {"detail": detail, "error_code": error.code, "request_id": "0b6d7f1e"}
        response["content"]["application/json"]["examples"][error.code] = {"value": body}
    return responses
