"""Turns away what is over its client's limits before its body is read, and tells everyone where they stand."""

from __future__ import annotations

from typing import cast

from starlette._utils import get_route_path
from starlette.datastructures import MutableHeaders
from starlette.requests import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from deployments.clients import client_in
from deployments.errors import error_response, headers_of_unread, status_of
from deployments.limits.answers import headers, refusal
from deployments.limits.tiers import cost_of
from deployments.limits.visits import Limits, Visit


class WorkLimits:
    """Admits requests that are work, and holds a place for each until its answer ends.

    A middleware and not a dependency of the routes: those are asked only after FastAPI has read the body. It stands
    inside ``Identification``.

    Args:
        app: The next application.
        limits: The limits of this replica.
    """

    def __init__(self, app: ASGIApp, limits: Limits) -> None:
        self._app = app
        self._limits = limits

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        cost = cost_of(scope["method"], get_route_path(scope)) if scope["type"] == "http" else None
        if cost is None or not self._limits.is_on:
            return await self._app(scope, receive, send)
        visit = await self._limits.enter(client_in(scope), cost=cost)
        if visit.verdict.refused:
            return await self._refuse(visit, scope, receive, send)
        scope["state"]["visit"] = visit

        async def told(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message).update(headers(visit.verdict))
            elif message["type"] == "http.response.body" and not message.get("more_body"):
                await visit.leave()  # before the client can know that it is done, and come again
            await send(message)

        try:
            await self._app(scope, receive, told)
        finally:
            await visit.leave()

    async def _refuse(self, visit: Visit, scope: Scope, receive: Receive, send: Send) -> None:
        error = refusal(visit.verdict)
        sent = {**headers(visit.verdict), **headers_of_unread(scope)}
        answer = error_response(Request(scope), status_of(error), error.code, error.detail, error.fields, sent)
        await answer(scope, receive, send)


def visit_of(request: Request) -> Visit | None:
    """The visit that this request is; None if it is free, or nothing is limited."""
    return cast("Visit | None", request.scope.get("state", {}).get("visit"))
