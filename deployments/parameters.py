"""Parameters that several routes share, as the OpenAPI description tells them."""

from __future__ import annotations

from typing import Annotated

from fastapi import Path

EXAMPLE_JOB_ID = "5f2b6c0e9d1a4b7c8e3f0a1b2c3d4e5f"
JOB_ID_PATTERN = "^[0-9a-f]{32}$"

# The patterns are told and not enforced: whatever names no job or file is a 404, however it looks.
JobId = Annotated[
    str,
    Path(
        description="The job, as `POST /upload` named it.",
        examples=[EXAMPLE_JOB_ID],
        json_schema_extra={"pattern": JOB_ID_PATTERN},
    ),
]
FileName = Annotated[
    str,
    Path(
        description="A name from the job's `files`.",
        examples=["cropped_0.png"],
        json_schema_extra={
            "pattern": r"^(original|full_inpainted|(mask|cropped|inpainted)_(0|[1-9][0-9]?))\.png$",
        },
    ),
]


PNG_SCHEMA = {"type": "string", "contentMediaType": "image/png"}
JPEG_SCHEMA = {"type": "string", "contentMediaType": "image/jpeg"}


def told(description: str, **headers: str) -> dict[str, object]:
    """A successful answer: what it is, and what its headers say, by their names with underscores for dashes."""
    described = {
        name.replace("_", "-"): {"description": text, "schema": {"type": "string"}} for name, text in headers.items()
    }
    return {"description": description, "headers": described}
