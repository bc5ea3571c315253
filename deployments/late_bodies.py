"""Bodies that take long, and which of them must go when there are too many.

An honest phone on a bad line is slow too, so being slow is allowed: within bounds of how many there are and of what
they keep in memory. Beyond these the sender goes who loses least: of the address that has the most open, the slowest.
One client, or one network, that opens hundreds thereby only pushes out its own.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field

MAX_LATE = 256
"""A quarter of the requests that one ingress replica takes at once (``deployments/ingress.py``)."""


@dataclass(eq=False)
class LateBody:
    """One of them.

    Attributes:
        sender: Its client's address.
        cut: Ends it.
        received: Bytes that have come.
    """

    sender: str
    cut: Callable[[], None]
    received: int = 0
    since: float = field(default_factory=time.monotonic)

    @property
    def rate(self) -> float:
        """Bytes a second."""
        return self.received / max(time.monotonic() - self.since, 1e-3)


class LateBodies:
    """Those of one ingress replica.

    Args:
        max_bytes: What they may keep in memory together.
        max_count: How many there may be.
    """

    def __init__(self, max_bytes: float, max_count: int = MAX_LATE) -> None:
        self._max_bytes = max_bytes
        self._max_count = max_count
        self._bodies: set[LateBody] = set()
        self._bytes = 0

    def __len__(self) -> int:
        return len(self._bodies)

    def add(self, body: LateBody) -> None:
        """Counts ``body``, and makes room."""
        self._bodies.add(body)
        self._bytes += body.received
        self._make_room()

    def grow(self, body: LateBody, size: int) -> None:
        """Counts ``size`` bytes more of ``body``, and makes room."""
        body.received += size
        if body in self._bodies:
            self._bytes += size
            self._make_room()

    def discard(self, body: LateBody) -> None:
        """Forgets ``body``, if it is here."""
        if body in self._bodies:
            self._bodies.remove(body)
            self._bytes -= body.received

    def _make_room(self) -> None:
        while len(self._bodies) > self._max_count:
            self._cut_one(Counter(body.sender for body in self._bodies))
        while len(self._bodies) > 1 and self._bytes > self._max_bytes:
            held: Counter[str] = Counter()
            for body in self._bodies:
                held[body.sender] += body.received
            self._cut_one(held)

    def _cut_one(self, weights: Counter[str]) -> None:
        greediest = weights.most_common(1)[0][0]
        slowest = min((body for body in self._bodies if body.sender == greediest), key=lambda body: body.rate)
        self.discard(slowest)
        slowest.cut()
