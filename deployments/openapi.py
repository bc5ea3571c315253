"""The OpenAPI description as a whole: what it says of every route alike."""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI

from deployments.error_docs import ErrorBody
from deployments.version import API_VERSION

TAGS = [
    {"name": "background removal", "description": "A photo in, its cut-out back, in one call."},
    {
        "name": "jobs",
        "description": "Upload a photo, tap objects on it, follow the work, and fetch each object cut out and the"
        " photo without it. A job and its files go with `DELETE /cleanup/{job_id}`, or when it expires.",
    },
    {"name": "system", "description": "The service about itself."},
]
DESCRIPTION = """\
Cut people and products out of photos; tap an object to extract it or to make it vanish.

Every error of every route has the same body, `ErrorBody`. Beyond what the routes name, any address that is not there
answers 404 `NOT_FOUND`, any method that a route does not know 405 `METHOD_NOT_ALLOWED` with an `Allow` header, and a
body beyond its route's limit 413 `FILE_TOO_LARGE`.

An API key goes into the header `X-API-Key`; whether one is needed is up to the operator, and `GET /account` tells what
a client may do with or without it.
"""
HEADERS = {
    "RequestId": {
        "description": "This request's name in the service's log: the one sent as X-Request-ID if it is up to 64"
        " letters, digits, dots, dashes and underscores, else a new one.",
        "required": True,
        "schema": {"type": "string"},
        "example": "0b6d7f1e",
    },
    "RetryAfter": {
        "description": "After how many seconds it is worth to try again, where that is known.",
        "schema": {"type": "integer", "minimum": 0},
        "example": 5,
    },
}

METADATA: dict[str, Any] = {
    "title": "Clearcut",
    "version": API_VERSION,
    "summary": "Background removal, and objects extracted or removed by a tap.",
    "description": DESCRIPTION,
    "license_info": {"name": "MIT", "identifier": "MIT"},
    "openapi_tags": TAGS,
    "servers": [{"url": "/", "description": "This service."}],
}
"""Arguments of ``FastAPI``."""


def install_openapi(app: FastAPI) -> None:
    """Completes what FastAPI describes, once it is first asked for."""
    generate = app.openapi

    def described() -> dict[str, Any]:
        if app.openapi_schema is None:
            _complete(generate())
        return generate()

    app.openapi = described  # type: ignore[method-assign]


def list_endpoints(app: FastAPI) -> dict[str, str]:
    """Each method and path that is described, with its summary."""
    return {
        f"{method.upper()} {path}": operation["summary"]
        for path, item in app.openapi()["paths"].items()
        for method, operation in item.items()
    }


def _complete(document: dict[str, Any]) -> None:
    document["components"]["schemas"]["ErrorBody"] = ErrorBody.model_json_schema()
    document["components"]["headers"] = HEADERS
    for item in document["paths"].values():
        for operation in item.values():
            for parameter in operation.get("parameters", ()):
                _without_null(parameter)
            for status, response in operation["responses"].items():
                if stream := response.get("content", {}).get("text/event-stream"):
                    stream.pop("itemSchema", None)  # FastAPI writes a word of OpenAPI 3.2 into 3.1
                headers = response.setdefault("headers", {})
                headers["X-Request-ID"] = {"$ref": "#/components/headers/RequestId"}
                if status in ("429", "503"):
                    headers["Retry-After"] = {"$ref": "#/components/headers/RetryAfter"}


def _without_null(parameter: dict[str, Any]) -> None:
    """An optional parameter is left out; the null of its Python type cannot be sent."""
    schema = parameter.get("schema", {})
    kinds = [kind for kind in schema.get("anyOf", ()) if kind != {"type": "null"}]
    if len(kinds) == 1:
        del schema["anyOf"]
        schema.update(kinds[0])
