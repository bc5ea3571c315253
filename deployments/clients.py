"""Who a request is from."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal, TypeAlias, cast

from fastapi import Depends, Request
from starlette.types import Scope

from deployments.client_address import neighbourhood
from pipeline.jobs.api_keys import Tier

ClientTier: TypeAlias = Literal["anonymous"] | Tier


@dataclass(frozen=True)
class Client:
    """Who a request is from.

    Attributes:
        address: Where it comes from, proxies left out.
        key_id: Whose API key it has; None without one.
        name: What its owner calls the key.
    """

    address: str
    key_id: str | None = None
    name: str | None = None
    tier: ClientTier = "anonymous"

    @property
    def identity(self) -> str:
        """What its requests and its turns count for: its key, else its address (of IPv6 the /64)."""
        return f"key:{self.key_id}" if self.key_id else neighbourhood(self.address)


def remember_client(scope: Scope, client: Client) -> None:
    """Keeps who the request is from, for everything after."""
    scope.setdefault("state", {})["client"] = client


def client_in(scope: Scope) -> Client:
    """Who the request is from, as ``Identification`` found out; without it, its peer."""
    known = scope.get("state", {}).get("client")
    peer = scope.get("client")
    return cast(Client, known) if known else Client(peer[0] if peer else "unknown")


def client_of(request: Request) -> Client:
    """Who the request is from."""
    return client_in(request.scope)


ClientDep = Annotated[Client, Depends(client_of)]
