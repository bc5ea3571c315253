"""The limits as a route sees them: a request is a visit, which is admitted, may be charged more, and ends."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import secrets
from collections.abc import AsyncIterator

from deployments.clients import Client
from deployments.limits.answers import refusal
from deployments.limits.fail_open import FailOpen
from deployments.limits.limiter import Limiter, StoredLimiter, Verdict
from deployments.limits.places import HELD_S
from deployments.limits.tiers import Allowance, allowance_of
from pipeline.config import Settings

logger = logging.getLogger("ray.serve")


class Limits:
    """The limits of one ingress replica.

    Args:
        limiter: Who counts; by default this process alone.
        per_minute: Requests a minute of a client without a key; 0 turns everything off.
    """

    def __init__(self, limiter: Limiter | None = None, *, per_minute: int = 30) -> None:
        self._limiter = limiter or StoredLimiter.in_memory()
        self._per_minute = per_minute
        self._held: dict[str, set[str]] = {}

    @property
    def is_on(self) -> bool:
        """Whether anything is limited."""
        return self._per_minute > 0

    def allowance(self, client: Client) -> Allowance:
        """What ``client`` may ask for."""
        return allowance_of(client, anonymous_per_minute=self._per_minute)

    async def standing(self, client: Client) -> Verdict:
        """Where ``client`` stands."""
        return await self._limiter.standing(client.identity, self.allowance(client))

    async def enter(self, client: Client, *, cost: int) -> Visit:
        """A visit of ``client``; whether it is admitted, its verdict tells."""
        visit = Visit(self, client)
        await visit._enter(cost)
        return visit

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Begins when requests can be counted; keeps the places of long ones taken for as long as the context lasts."""
        if self.is_on:
            await self._limiter.ready()
        renewing = asyncio.create_task(self._renew())
        try:
            yield
        finally:
            renewing.cancel()

    async def _renew(self) -> None:
        while True:
            await asyncio.sleep(HELD_S / 3)
            try:
                await self._limiter.renew(self._held)
            except Exception:
                logger.exception("Places of requests at work could not be renewed.")


class Visit:
    """One request that is work.

    Attributes:
        client: Whose it is.
        verdict: The last word about it.
    """

    def __init__(self, limits: Limits, client: Client) -> None:
        self.client = client
        self.verdict: Verdict
        self._limits = limits
        self._who = client.identity
        self._place = secrets.token_hex(8)
        self._leaving: asyncio.Task[None] | None = None

    async def charge(self, units: int) -> None:
        """Spends ``units`` more, or none: a batch's images. Raises ``RateLimitExceeded``."""
        allowance = self._limits.allowance(self.client)
        self.verdict = await self._limits._limiter.charge(self._who, allowance, cost=units)
        if self.verdict.refused:
            raise refusal(self.verdict, cost=units)

    async def leave(self) -> None:
        """Ends the visit; again, it does nothing. It ends even if whoever waits for it is cancelled."""
        if self._leaving is None:
            self._leaving = asyncio.create_task(self._leave())
        await asyncio.shield(self._leaving)

    async def _enter(self, cost: int) -> None:
        held = self._limits._held.setdefault(self._who, set())
        held.add(self._place)
        try:
            self.verdict = await self._limits._limiter.admit(
                self._who, self._limits.allowance(self.client), place=self._place, cost=cost
            )
        except BaseException:  # the client went away meanwhile
            self._leaving = asyncio.create_task(self._leave())
            raise
        if self.verdict.refused:
            self._forget()

    async def _leave(self) -> None:
        self._forget()
        await self._limits._limiter.leave(self._who, self._place)

    def _forget(self) -> None:
        held = self._limits._held.get(self._who, set())
        held.discard(self._place)
        if not held:
            self._limits._held.pop(self._who, None)


def open_limits(settings: Settings) -> Limits:
    """The limits of a replica in a cluster: Redis counts if ``REDIS_URL`` is set, else an actor."""
    # Here, so that a service without Ray needs neither.
    from deployments.limits.actor_limiter import ActorLimiter
    from deployments.limits.redis_limiter import RedisLimiter

    shared = RedisLimiter(settings.redis_url) if settings.redis_url else ActorLimiter()
    return Limits(FailOpen(shared), per_minute=settings.rate_limit_per_minute)
