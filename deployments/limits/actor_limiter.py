"""The limiter of a cluster without Redis: one actor with a name, whose memory all ingress replicas share."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping
from typing import Any, cast

import ray
from ray.exceptions import ActorDiedError

from deployments.limits.limiter import StoredLimiter, Verdict
from deployments.limits.places import MemoryPlaces
from deployments.limits.tiers import Allowance
from deployments.limits.windows import MemoryWindows

NAMESPACE = "clearcut"
NAME = "limits-1"
"""It outlives updates of the application: when its methods change, the number does, and a new actor is made."""


class RequestCounter(StoredLimiter):
    """What runs in the actor. Its methods share one event loop, and none waits within a change."""

    def __init__(self) -> None:
        super().__init__(MemoryWindows(), MemoryPlaces())


class ActorLimiter:
    """A ``Limiter`` that asks the actor, which it makes if there is none.

    Ray starts the actor anew if its process or node dies; what it counted is forgotten then. Every method raises a
    ``RayError`` while it is away.
    """

    def __init__(self, name: str = NAME) -> None:
        self._name = name
        self._actor: Any = None

    async def ready(self) -> None:
        """Returns when the actor answers."""
        await self._ask("ready")

    async def admit(self, who: str, allowance: Allowance, *, place: str, cost: int = 1) -> Verdict:
        return cast(Verdict, await self._ask("admit", who, allowance, place=place, cost=cost))

    async def charge(self, who: str, allowance: Allowance, *, cost: int) -> Verdict:
        return cast(Verdict, await self._ask("charge", who, allowance, cost=cost))

    async def leave(self, who: str, place: str) -> None:
        await self._ask("leave", who, place)

    async def renew(self, held: Mapping[str, Iterable[str]]) -> None:
        await self._ask("renew", held)

    async def standing(self, who: str, allowance: Allowance) -> Verdict:
        return cast(Verdict, await self._ask("standing", who, allowance))

    async def _ask(self, method: str, *arguments: object, **named: object) -> object:
        if self._actor is None:
            self._actor = await asyncio.to_thread(self._find)
        actor = self._actor
        try:
            return await getattr(actor, method).remote(*arguments, **named)
        except ActorDiedError:  # for good: the next call finds its successor, or makes one
            if self._actor is actor:
                self._actor = None
            raise

    def _find(self) -> Any:
        options: dict[str, Any] = {
            "name": self._name,
            "namespace": NAMESPACE,
            "get_if_exists": True,
            "lifetime": "detached",  # it ends with the cluster, not with the replica that happened to make it
            "num_cpus": 0,
            "max_restarts": -1,
            "max_concurrency": 1000,
        }
        return ray.remote(RequestCounter).options(**options).remote()
