"""Finds out who a request is from, before anything else is done for it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from starlette._utils import get_route_path
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

from deployments.client_address import TrustedProxies
from deployments.clients import Client, remember_client
from deployments.errors import error_response, headers_of_unread, status_of
from pipeline.errors import ClearcutError, Overloaded, Unauthorized
from pipeline.jobs.api_keys import ApiKey

KEY_HEADER = b"x-api-key"

OPEN_PATHS = frozenset(
    {
        "/healthz",
        "/readyz",
        "/health",
        "/api/background-removal/health",
        "/",
        "/docs",
        "/openapi.json",
    }
)
"""Pages that need no key, and look at none, under ``REQUIRE_API_KEY`` too: health, for those who watch the service, and
documentation, for those who have still to learn how to send a key."""

OPEN_FOLDER = "/studio/"

FindKey = Callable[[str], Awaitable[ApiKey | None]]


class Identification:
    """Puts a ``Client`` into the request's state, or answers 401.

    Args:
        app: The next application.
        proxies: Whose word counts for the client's address.
        find_key: The key with this text, or None.
        require_key: Whether nobody is let in without a key.
    """

    def __init__(self, app: ASGIApp, *, proxies: TrustedProxies, find_key: FindKey, require_key: bool = False) -> None:
        self._app = app
        self._proxies = proxies
        self._find_key = find_key
        self._require_key = require_key

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] not in ("http", "websocket"):
            return await self._app(scope, receive, send)
        try:
            client = await self._identify(scope)
        except (ClearcutError, TimeoutError) as error:
            if scope["type"] == "websocket":
                return await send({"type": "websocket.close", "code": 1008})
            return await _refusal(Request(scope), error)(scope, receive, send)
        remember_client(scope, client)
        await self._app(scope, receive, send)

    async def _identify(self, scope: Scope) -> Client:
        peer = scope.get("client")
        forwarded = [value.decode("latin-1") for name, value in scope["headers"] if name == b"x-forwarded-for"]
        address = self._proxies.client(peer[0] if peer else "", forwarded)
        if _is_open(scope):
            return Client(address)
        sent = [value.decode("latin-1") for name, value in scope["headers"] if name == KEY_HEADER]
        if not sent:
            if self._require_key:
                raise Unauthorized("This service asks for an API key, in the header X-API-Key.")
            return Client(address)
        key = await self._find_key(sent[0]) if len(sent) == 1 else None
        if key is None:
            raise Unauthorized("This API key is not known, or was revoked.")
        return Client(address, key.key_id, key.name, key.tier)


def _is_open(scope: Scope) -> bool:
    path = get_route_path(scope)
    # Browsers ask with OPTIONS, and without the key, whether they may send it.
    return path in OPEN_PATHS or path.startswith(OPEN_FOLDER) or scope.get("method") == "OPTIONS"


def _refusal(request: Request, error: ClearcutError | TimeoutError) -> Response:
    if isinstance(error, TimeoutError):
        error = Overloaded("API keys cannot be checked now. Try again.", retry_after=5)
    headers = headers_of_unread(request.scope)
    if isinstance(error, Unauthorized):
        headers["WWW-Authenticate"] = 'ApiKey header="X-API-Key"'
    if "retry_after" in error.fields:
        headers["Retry-After"] = str(error.fields["retry_after"])
    return error_response(request, status_of(error), error.code, error.detail, error.fields, headers)
