"""What a callback says, and the signature that proves who says it (Standard Webhooks)."""

from __future__ import annotations

import base64
import hmac

from deployments.job_schemas import JobStatus
from deployments.version import API_VERSION
from pipeline.jobs.records import Delivery


def body_of(delivery: Delivery) -> bytes:
    """The job's status document as it stood when the job ended, in JSON."""
    return JobStatus.of(delivery.record).model_dump_json(exclude_none=True).encode()


def headers_of(delivery: Delivery, body: bytes, *, secret: bytes, timestamp: int) -> dict[str, str]:
    """The request's headers; ``webhook-id`` is the same at every try, the rest is of this one."""
    return {
        "Content-Type": "application/json",
        "User-Agent": f"Clearcut/{API_VERSION}",
        "webhook-id": delivery.delivery_id,
        "webhook-timestamp": str(timestamp),
        "webhook-signature": sign(secret, delivery.delivery_id, timestamp, body),
    }


def sign(secret: bytes, delivery_id: str, timestamp: int, body: bytes) -> str:
    """``v1,`` and the HMAC-SHA256 of ``<delivery id>.<timestamp>.<body>``, in base64."""
    digest = hmac.digest(secret, f"{delivery_id}.{timestamp}.".encode() + body, "sha256")
    return "v1," + base64.b64encode(digest).decode("ascii")
