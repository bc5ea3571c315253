"""What runs inside Serve's HTTP proxy, before it looks at a request.

Named by ``RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH``. The proxy obeys some headers of any client: it repeats
``X-Request-ID`` in its answer and in logs, whatever it holds, and lets ``X-Request-Timeout-Seconds`` end a request
and ``X-Request-Disconnect-Disabled`` keep it running. Those meant for the operator's own proxy are dropped here.
"""

from __future__ import annotations

from starlette.datastructures import MutableHeaders
from starlette.middleware import Middleware
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from deployments.request_id import SAFE_REQUEST_ID

DROPPED = (
    "x-request-timeout-seconds",
    "x-request-disconnect-disabled",
    "serve_multiplexed_model_id",
    "serve-multiplexed-model-id",
)


class ProxyDoor:
    """Cleans the headers that the proxy obeys, and marks what it answers itself.

    Args:
        app: The proxy.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] not in ("http", "websocket"):
            return await self._app(scope, receive, send)
        headers = MutableHeaders(scope=scope)
        for name in DROPPED:
            del headers[name]
        given = headers.getlist("x-request-id")
        if given and (len(given) > 1 or not SAFE_REQUEST_ID.fullmatch(given[0])):
            del headers["x-request-id"]

        async def marked_send(message: Message) -> None:
            if message["type"] == "http.response.start":
                answer = MutableHeaders(scope=message)
                answer.setdefault("X-Content-Type-Options", "nosniff")
                answer.setdefault("Cache-Control", "no-store")
            await send(message)

        await self._app(scope, receive, marked_send)


def middlewares() -> list[Middleware]:
    """What Serve asks for."""
    return [Middleware(ProxyDoor)]
