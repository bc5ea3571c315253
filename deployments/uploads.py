"""Multipart forms with one file, kept in memory: no upload ever touches a temporary file."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from fastapi.exceptions import RequestValidationError
from python_multipart.multipart import parse_options_header
from starlette.datastructures import UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import ClientDisconnect, Request

MAX_FIELDS = 20
MAX_FIELD_BYTES = 64 * 1024
MAX_NAME_LENGTH = 100
MAX_BOUNDARY_LENGTH = 70  # RFC 2046


@dataclass(frozen=True)
class Upload:
    """A file as it was sent, and the form's other fields; its name and type are the sender's claims."""

    data: bytes
    filename: str
    declared_type: str | None
    fields: dict[str, str]


class _InMemoryParser(MultiPartParser):
    spool_max_size = 1 << 40  # the body limit bounds it; spooling would write uploads to disk

    def on_headers_finished(self) -> None:
        super().on_headers_finished()
        if len(self._current_part.field_name) > MAX_NAME_LENGTH:
            raise MultiPartException(f"The name of a field is longer than {MAX_NAME_LENGTH} characters.")


async def read_upload(request: Request, field: str) -> Upload:
    """The file in form field ``field``.

    Raises:
        RequestValidationError: The body is no multipart form, or has no such file.
        BodyTooLarge: It is over the limit of its route.
    """
    kind, parameters = parse_options_header(request.headers.get("content-type", ""))
    if kind != b"multipart/form-data":
        raise _invalid(field, f"Send a multipart/form-data body with a file in the field '{field}'.")
    if not 0 < len(parameters.get(b"boundary", b"")) <= MAX_BOUNDARY_LENGTH:
        raise _invalid(field, f"The Content-Type needs a boundary of 1 to {MAX_BOUNDARY_LENGTH} characters.")
    if parameters.get(b"charset", b"utf-8").lower() != b"utf-8":  # Python's codecs decode more than texts
        raise _invalid(field, "Names and texts in a form are UTF-8.")
    parser = _InMemoryParser(
        request.headers, request.stream(), max_files=1, max_fields=MAX_FIELDS, max_part_size=MAX_FIELD_BYTES
    )
    try:
        form = await parser.parse()
    except ClientDisconnect:
        raise
    except (MultiPartException, KeyError, UnicodeDecodeError) as error:
        problem = error.message if isinstance(error, MultiPartException) else "The form could not be read."
        raise _invalid(field, problem) from None
    try:
        file = form.get(field)
        if not isinstance(file, UploadFile):
            raise _invalid(field, f"Field required: a file in the field '{field}'.")
        fields = {name: value for name, value in form.items() if isinstance(value, str)}
        return Upload(await file.read(), file.filename or "", file.content_type, fields)
    finally:
        await form.close()


def _invalid(field: str, message: str) -> RequestValidationError:
    problem: dict[str, Any] = {"type": "missing", "loc": ("body", field), "msg": message, "input": None}
    return RequestValidationError([problem])


def upload_schema(field: str, extra: dict[str, dict[str, Any]], *, description: str) -> dict[str, Any]:
    """The OpenAPI description of such a form, since the routes read their bodies themselves."""
    photo = {"type": "string", "format": "binary", "description": "JPEG, PNG, WebP or BMP; 64x64 pixels to 8K."}
    schema = {"type": "object", "required": [field], "properties": {field: photo, **extra}}
    form = {"schema": schema, "encoding": {field: {"contentType": "image/jpeg, image/png, image/webp, image/bmp"}}}
    return {"requestBody": {"required": True, "description": description, "content": {"multipart/form-data": form}}}
