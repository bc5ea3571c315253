"""What clients are told of their limits: headers with every answer, and the refusal."""

from __future__ import annotations

import math
import time
from datetime import UTC, datetime

from deployments.limits.limiter import WINDOW_S, Verdict
from pipeline.errors import RateLimitExceeded


def headers(verdict: Verdict, *, now: float | None = None) -> dict[str, str]:
    """The fields of the IETF draft "RateLimit header fields for HTTP" (10), and the older ones many clients read."""
    now = time.time() if now is None else now
    allowance = verdict.allowance
    reset_s = max(0, math.ceil(verdict.reset_at - now))
    told = {
        "RateLimit-Policy": f'"minute";q={allowance.per_minute};w={WINDOW_S}, '
        f'"at-once";q={allowance.at_once};qu="concurrent-requests"',
        "RateLimit": f'"minute";r={verdict.remaining};t={reset_s}',
        "X-RateLimit-Limit": str(allowance.per_minute),
        "X-RateLimit-Remaining": str(verdict.remaining),
        "X-RateLimit-Reset": str(math.ceil(verdict.reset_at)),
    }
    if verdict.refused:
        told["Retry-After"] = str(retry_after_s(verdict))
    return told


def retry_after_s(verdict: Verdict) -> int:
    """Whole seconds after which a refused request may pass."""
    return max(1, math.ceil(verdict.retry_after_s))


def refusal(verdict: Verdict, *, cost: int = 1) -> RateLimitExceeded:
    """The error of a refused request."""
    allowance = verdict.allowance
    if verdict.refused == "at_once":
        detail = f"Rate limit exceeded: {allowance.at_once} requests at once"
    elif cost > allowance.per_minute:
        detail = f"Rate limit exceeded: {allowance.per_minute} images per minute, and this batch has {cost}. Send fewer"
    else:
        detail = f"Rate limit exceeded: {allowance.per_minute} requests per minute"
    seconds = retry_after_s(verdict)
    again_at = verdict.reset_at if verdict.refused == "at_once" else time.time() + seconds
    return RateLimitExceeded(
        detail,
        retry_after_seconds=seconds,
        requests_remaining=verdict.remaining,
        limit_reset_at=datetime.fromtimestamp(math.ceil(again_at), UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
    )
