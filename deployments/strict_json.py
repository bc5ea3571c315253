"""JSON without surprises: no key twice, and no depth that Python cannot follow.

Of a key that stands twice, programs take the first or the last; whoever checks one and uses the other is deceived.
"""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable
from typing import Any

from fastapi import Request
from fastapi.routing import APIRoute
from starlette.responses import Response


def loads(text: str | bytes) -> Any:
    """The value of ``text``. Raises ``ValueError``."""
    try:
        return json.loads(text, object_pairs_hook=_object)
    except RecursionError:
        raise ValueError("nested too deeply") from None


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a key stands twice")
    return found


class _StrictRequest(Request):
    async def json(self) -> Any:
        try:
            return loads(await self.body())
        except ValueError as error:
            raise json.JSONDecodeError(str(error), "", 0) from None  # the one that FastAPI answers with 422


class StrictJsonRoute(APIRoute):
    """A route whose JSON body is read strictly."""

    def get_route_handler(self) -> Callable[[Request], Awaitable[Response]]:  # type: ignore[override]
        handle = super().get_route_handler()

        async def strictly(request: Request) -> Response:
            return await handle(_StrictRequest(request.scope, request.receive))

        return strictly
