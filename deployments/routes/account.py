"""What a client may do, and what it did: with its API key, or by its address."""

from __future__ import annotations

import math
from datetime import UTC, datetime

from fastapi import APIRouter
from pydantic import BaseModel, Field

from deployments.clients import ClientDep, ClientTier
from deployments.error_docs import KEY_REFUSED, page_refusals
from deployments.services import ServicesDep

router = APIRouter(tags=["system"])


class AccountLimits(BaseModel):
    """What the tier allows."""

    requests_per_minute: int = Field(description="In any 60 seconds; of a batch, each image counts.", examples=[30])
    requests_at_once: int = Field(examples=[3])


class AccountUse(BaseModel):
    """What of it is used now."""

    requests_last_minute: int = Field(examples=[4])
    requests_remaining: int = Field(examples=[26])
    limit_reset_at: datetime = Field(
        description="When the oldest request of the last minute no longer counts.", examples=["2026-01-31T12:00:40Z"]
    )
    requests_at_work: int = Field(examples=[1])


class Account(BaseModel):
    """A client, its limits and its use."""

    tier: ClientTier = Field(examples=["free"])
    name: str | None = Field(None, description="The key's name; none without a key.", examples=["shop"])
    limits: AccountLimits | None = Field(None, description="None on a service that limits nothing.")
    use: AccountUse | None = Field(None, description="Likewise.")


@router.get(
    "/account",
    operation_id="account",
    summary="Tier, limits and use of the key that is sent, or of the address.",
    response_model=Account,
    response_model_exclude_none=True,
    response_description="What the client may do, and what it did in the last minute.",
    responses=page_refusals(KEY_REFUSED),
)
async def account(client: ClientDep, services: ServicesDep) -> Account:
    """What the key that is sent may do, and what of it is used; without one, likewise of the address."""
    if not services.limits.is_on:
        return Account(tier=client.tier, name=client.name)
    standing = await services.limits.standing(client)
    allowance = standing.allowance
    return Account(
        tier=client.tier,
        name=client.name,
        limits=AccountLimits(requests_per_minute=allowance.per_minute, requests_at_once=allowance.at_once),
        use=AccountUse(
            requests_last_minute=allowance.per_minute - standing.remaining,
            requests_remaining=standing.remaining,
            limit_reset_at=datetime.fromtimestamp(math.ceil(standing.reset_at), UTC),
            requests_at_work=standing.at_work or 0,
        ),
    )
