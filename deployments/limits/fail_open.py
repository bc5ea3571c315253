"""The shared limiter as long as it answers quickly, else one that counts for this replica alone."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Mapping
from typing import TypeVar

from deployments.limits.limiter import Limiter, StoredLimiter, Verdict
from deployments.limits.tiers import Allowance

BUDGET_S = 0.1
"""What an answer of the shared limiter may take: counting must not cost more than it saves."""

SLOW_IN_A_ROW = 3
"""So many answers over the budget and it is too slow. One alone is a busy moment, of which exact counts survive."""

PATIENCE_S = 1.0
"""Longest wait for one answer. Whoever does not answer within it is away."""

PAUSE_S = 1.0
"""How long the shared limiter is left alone after it failed; then one request tries it again."""

START_S = 30.0
WARN_EVERY_S = 60.0

T = TypeVar("T")

logger = logging.getLogger("ray.serve")


class FailOpen:
    """A ``Limiter`` that always answers.

    What the shared limiter admits is counted here too: when it goes away, this replica's clients go on from where they
    stood, and where there is only one replica nothing is lost at all. With more, a client gets up to its allowance at
    each of them until the shared limiter is back.

    Args:
        shared: Counts for all replicas; may fail or be slow.
        local: Counts for this one.
    """

    def __init__(
        self,
        shared: Limiter,
        local: Limiter | None = None,
        *,
        budget_s: float = BUDGET_S,
        patience_s: float = PATIENCE_S,
        pause_s: float = PAUSE_S,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        self._shared = shared
        self._local = local or StoredLimiter.in_memory()
        self._budget_s = budget_s
        self._patience_s = patience_s
        self._slow = 0
        self._pause_s = pause_s
        self._now = now
        self._try_again_at: float | None = None  # None while the shared limiter is well
        self._warned_at = -WARN_EVERY_S
        self._in_background: set[asyncio.Task[None]] = set()

    async def ready(self) -> None:
        """Waits for the shared limiter, whose process may have to be started, but not for ever."""
        try:
            async with asyncio.timeout(START_S):
                await self._shared.ready()
        except Exception as error:
            self._lost(f"away ({type(error).__name__})")

    async def admit(self, who: str, allowance: Allowance, *, place: str, cost: int = 1) -> Verdict:
        shared = self._ask(lambda: self._shared.admit(who, allowance, place=place, cost=cost))
        if (verdict := await shared) is None:
            self._in_the_background(self._shared.leave(who, place))  # it may have been taken after all
            return await self._local.admit(who, allowance, place=place, cost=cost)
        if not verdict.refused:
            await self._local.admit(who, allowance, place=place, cost=cost)
        return verdict

    async def charge(self, who: str, allowance: Allowance, *, cost: int) -> Verdict:
        verdict = await self._ask(lambda: self._shared.charge(who, allowance, cost=cost))
        if verdict is None or not verdict.refused:
            counted = await self._local.charge(who, allowance, cost=cost)
            verdict = verdict or counted
        return verdict

    async def leave(self, who: str, place: str) -> None:
        await self._local.leave(who, place)
        leaving = self._in_the_background(self._shared.leave(who, place))
        if self._is_well:
            await asyncio.wait([leaving], timeout=self._patience_s)

    async def renew(self, held: Mapping[str, Iterable[str]]) -> None:
        copied = {who: tuple(places) for who, places in held.items()}
        await self._local.renew(copied)
        if self._is_well:
            self._in_the_background(self._shared.renew(copied))

    async def standing(self, who: str, allowance: Allowance) -> Verdict:
        verdict = await self._ask(lambda: self._shared.standing(who, allowance))
        return verdict or await self._local.standing(who, allowance)

    @property
    def _is_well(self) -> bool:
        return self._try_again_at is None

    async def _ask(self, question: Callable[[], Awaitable[T]]) -> T | None:
        """The shared limiter's answer; None if it is away."""
        is_trial = self._try_again_at is not None
        if self._try_again_at is not None:
            if self._now() < self._try_again_at:
                return None
            self._try_again_at = self._now() + self._pause_s  # others go on without while this request tries
        began = self._now()
        try:
            async with asyncio.timeout(self._budget_s if is_trial else self._patience_s):
                answer = await question()
        except Exception as error:
            self._lost("too slow" if isinstance(error, TimeoutError) else f"away ({type(error).__name__})")
            return None
        took_s = self._now() - began
        self._slow = self._slow + 1 if took_s > self._budget_s else 0
        if self._slow >= SLOW_IN_A_ROW:
            self._lost(f"too slow ({took_s * 1000:.0f} ms)")
        elif is_trial:
            self._try_again_at = None
            logger.info("The shared count of requests answers again.")
        return answer

    def _lost(self, why: str) -> None:
        now = self._now()
        self._slow = 0
        self._try_again_at = now + self._pause_s
        if now - self._warned_at >= WARN_EVERY_S:
            self._warned_at = now
            logger.warning("The shared count of requests is %s; each replica counts for itself until it is back.", why)

    def _in_the_background(self, work: Coroutine[object, object, None]) -> asyncio.Task[None]:
        async def quietly() -> None:
            try:
                async with asyncio.timeout(10):
                    await work
            except Exception:
                logger.debug("The shared count of requests missed a message.", exc_info=True)

        task = asyncio.create_task(quietly())
        self._in_background.add(task)
        task.add_done_callback(self._in_background.discard)
        return task
