"""What can be asked next about a job, as links of the OpenAPI description."""

from __future__ import annotations

from typing import Any

_JOB = "$response.body#/job_id"


def _link(operation_id: str, description: str, **more: Any) -> dict[str, Any]:
    return {"operationId": operation_id, "description": description, "parameters": {"job_id": _JOB}} | more


LINKS: dict[str, Any] = {
    "segment": {
        "operationId": "segment",
        "description": "Tap objects on the photo.",
        "requestBody": {"job_id": _JOB, "coordinates_list": [[32, 32]]},
    },
    "status": _link("job_status", "How far the job is."),
    "events": _link("job_events", "Follow the job."),
    "original": _link(
        "download", "Fetch the photo as it was stored.", parameters={"job_id": _JOB, "filename": "original.png"}
    ),
    "cancel": _link("cancel", "End the work."),
    "cleanup": _link("cleanup", "Delete the job."),
}
"""Of any answer whose body names a ``job_id``."""
