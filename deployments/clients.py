"""Who sends a request."""

from __future__ import annotations

from starlette.requests import Request


def client_of(request: Request) -> str:
    """The address a request came from. Waiting jobs of different clients take turns."""
    return request.client.host if request.client else "unknown"
