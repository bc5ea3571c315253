"""An ingress replica's memory of API keys, so that not every request asks JobManager."""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from typing import Generic, TypeVar

from pipeline.errors import ClearcutError
from pipeline.jobs.api_keys import ApiKey, fingerprint

FRESH_S = 30.0
"""For how long an answer counts: a revoked key is refused after that at the latest."""

STALE_S = 300.0
"""For how long a known key still opens while nobody can be asked."""

LOOKUP_TIMEOUT_S = 5.0

Value = TypeVar("Value")


class KeyCache:
    """Finds keys, and remembers for a while what it found.

    Args:
        look_up: Asks the owner of the keys for the one with a fingerprint.
        max_known: Keys remembered.
        max_unknown: Fingerprints remembered of which there is no key.
    """

    def __init__(
        self,
        look_up: Callable[[str], Awaitable[ApiKey | None]],
        *,
        max_known: int = 10_000,
        max_unknown: int = 1_000,
        now: Callable[[], float] = time.time,
    ) -> None:
        self._look_up = look_up
        self._known: _Recent[ApiKey] = _Recent(max_known)
        self._unknown: _Recent[None] = _Recent(max_unknown)
        self._now = now

    async def find(self, key: str) -> ApiKey | None:
        """The key with this text; None if there is none, or it has ended.

        Raises:
            ClearcutError, TimeoutError: It is not remembered, and nobody can be asked.
        """
        digest = fingerprint(key)
        if digest is None:
            return None
        now = self._now()
        if self._unknown.get(digest, since=now - FRESH_S) is not None:
            return None
        known = self._known.get(digest, since=now - STALE_S)
        if known is not None and known[0] > now - FRESH_S:
            return _unless_ended(known[1], now)
        try:
            found = await asyncio.wait_for(self._look_up(digest), LOOKUP_TIMEOUT_S)
        except (ClearcutError, TimeoutError):
            if known is None:
                raise
            return _unless_ended(known[1], now)
        if found is None:
            self._known.forget(digest)
            self._unknown.keep(digest, None, at=now)
            return None
        self._known.keep(digest, found, at=now)
        return _unless_ended(found, now)


def _unless_ended(key: ApiKey, now: float) -> ApiKey | None:
    return None if key.ends_at is not None and key.ends_at <= now else key


class _Recent(Generic[Value]):
    """The values last kept, with the time of their keeping; the oldest goes when there are too many."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._values: OrderedDict[str, tuple[float, Value]] = OrderedDict()

    def get(self, name: str, *, since: float) -> tuple[float, Value] | None:
        kept = self._values.get(name)
        return kept if kept is not None and kept[0] > since else None

    def keep(self, name: str, value: Value, *, at: float) -> None:
        self._values[name] = at, value
        self._values.move_to_end(name)
        if len(self._values) > self._most:
            self._values.popitem(last=False)

    def forget(self, name: str) -> None:
        self._values.pop(name, None)
