"""What browsers are told about every answer, and who else's pages may read them."""

from __future__ import annotations

import base64
import hashlib
import re

from starlette.datastructures import Headers, MutableHeaders
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from deployments.errors import error_response

SECURITY_HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "X-Frame-Options": "DENY",
    "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'",
    "Cache-Control": "no-store",
}

SENT_BY_PAGES = [
    "Content-Type",
    "Idempotency-Key",
    "If-None-Match",
    "If-Range",
    "Last-Event-ID",
    "Range",
    "X-API-Key",
    "X-Request-ID",
]
READ_BY_PAGES = [
    "Accept-Ranges",
    "Content-Disposition",
    "Content-Range",
    "ETag",
    "RateLimit",
    "RateLimit-Policy",
    "Retry-After",
    "Server-Timing",
    "X-Mask-Confidence",
    "X-Mask-Coverage",
    "X-Model-Version",
    "X-Original-Size",
    "X-Processing-Time-Ms",
    "X-RateLimit-Limit",
    "X-RateLimit-Remaining",
    "X-RateLimit-Reset",
    "X-Request-ID",
]

_SCRIPT = re.compile(rb"<script>(.*?)</script>", re.DOTALL)


class SecurityHeaders:
    """Sets them where a route has not said otherwise.

    Args:
        app: The next application.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def secured_send(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in SECURITY_HEADERS.items():
                    headers.setdefault(name, value)
            await send(message)

        await self._app(scope, receive, secured_send)


def page_policy(page: bytes, *, assets: str) -> str:
    """The policy of a page of our own: its inline scripts by their hashes, and files from ``assets``, nothing else."""
    hashes = [base64.b64encode(hashlib.sha256(script).digest()).decode() for script in _SCRIPT.findall(page)]
    allowed = " ".join([assets, *(f"'sha256-{value}'" for value in hashes)])
    return (
        f"default-src 'none'; script-src {allowed}; style-src {assets} 'unsafe-inline'; img-src 'self' data: {assets};"
        " connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )


class Cors(CORSMiddleware):
    """Lets pages of other origins call this service, without cookies. Keys travel in a header of their own.

    Args:
        app: The next application.
        origins: Such as ``https://shop.example``, or ``*`` alone.
    """

    def __init__(self, app: ASGIApp, origins: tuple[str, ...]) -> None:
        super().__init__(
            app,
            allow_origins=origins,
            allow_methods=["GET", "HEAD", "POST", "DELETE"],
            allow_headers=SENT_BY_PAGES,
            expose_headers=READ_BY_PAGES,
            allow_credentials=False,
        )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers = Headers(scope=scope) if scope["type"] == "http" else Headers()
        if scope["type"] == "http" and scope["method"] == "OPTIONS" and "access-control-request-method" in headers:
            answer: Response = self.preflight_response(headers)
            if answer.status_code >= 400:
                cors = {k: v for k, v in answer.headers.items() if k.startswith("access-control") or k == "vary"}
                detail = f"{bytes(answer.body).decode()}."
                answer = error_response(Request(scope), 400, "INVALID_REQUEST", detail, headers=cors)
            return await answer(scope, receive, send)
        await super().__call__(scope, receive, send)
