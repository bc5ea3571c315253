"""How many removals may be in flight: a limit that follows from what each of them finds.

Little's law says how many are in flight at once: rate times latency. So a request that took ``l`` seconds with ``n`` in
flight around it has seen a rate of ``n / l``, and at that rate a latency of ``TOLERANCE`` times the idle one takes
``TOLERANCE * idle * n / l`` requests in flight. The limit moves towards this figure with every answer. Where work in
parallel costs nothing (a GPU with room in its batches) ``l`` stays at the idle latency, and the limit grows by itself;
where every request slows the others it stays at about ``TOLERANCE``.

The same feedback stands behind Gradient2 of Netflix's concurrency-limits (https://github.com/Netflix/concurrency-limits),
which multiplies the limit by long-term over short-term latency. Here the idle latency is measured and not guessed: it
is that of requests that ran alone while nobody was turned away. CoDel (RFC 8289) has the idea in common that a standing
queue is the fault, not a burst: a few come in beyond the limit, and then none until it has been calm for a while.
"""

from __future__ import annotations

import math
import statistics
import time
from collections import deque
from collections.abc import Callable

TOLERANCE = 1.8
"""How many times the idle latency an accepted request may take."""

START_LIMIT = 4.0
MAX_LIMIT = 64.0  # what a model replica takes at once
BURST = 6
"""Requests that come in beyond the limit before it is kept."""

CALM_S = 10.0
"""After so long without a crowd the next burst is let in."""

SMOOTHING = 0.2
IDLE_SAMPLES = 31
ENOUGH_SAMPLES = 5
STALE_S = 600.0


class ConcurrencyLimit:
    """Counts what is in flight, and says whether one more fits.

    Args:
        fixed: The limit; 0 lets it follow from the latencies.
        now: Seconds on a clock that never goes back.

    Attributes:
        in_flight: Requests that hold a place.
        limit: Places there are now.
    """

    def __init__(self, fixed: int = 0, *, now: Callable[[], float] = time.monotonic) -> None:
        self.now = now
        self.in_flight = 0
        self._fixed = fixed
        self._limit = float(fixed) if fixed else START_LIMIT
        self._idle: deque[float] = deque(maxlen=IDLE_SAMPLES)
        self._idle_at = -math.inf  # when the newest sample was taken
        self._crowded_at = -math.inf  # when two were in flight the last time
        self._refused_at = -math.inf
        self._spare = 0
        self._burst_at = -math.inf  # when one came in beyond the limit, or was refused, the last time
        self._area = 0.0  # integral of in_flight over time
        self._area_at = now()

    @property
    def limit(self) -> int:
        return round(self._limit)

    @property
    def idle_s(self) -> float | None:
        """Latency of a request that runs alone, in seconds; None until there are enough to tell."""
        return statistics.median(self._idle) if len(self._idle) >= ENOUGH_SAMPLES else None

    @property
    def retry_after_s(self) -> int:
        """Whole seconds after which a place may be free: one idle latency, 1 to 30."""
        return min(30, max(1, math.ceil(self.idle_s or 1.0)))

    def admit(self) -> Place | None:
        """A place, or None if there is none now."""
        if self.in_flight >= self.limit and not self._is_in_burst():
            self._refuse()
            return None
        self._step(+1)
        return Place(self)

    def _is_in_burst(self) -> bool:
        """Whether one more may come in beyond the limit; counts it."""
        now = self.now()
        if now - self._burst_at > CALM_S:
            self._spare = 0 if self._fixed else BURST
        if not self._spare:
            return False
        self._spare -= 1
        self._burst_at = now
        return True

    def _refuse(self) -> None:
        self._refused_at = self._burst_at = self.now()
        if self._fixed:
            return
        if self._refused_at - self._idle_at > STALE_S:
            self._idle.clear()
        if self.idle_s is None:
            self._limit = 1.0  # under pressure none would ever run alone, and nothing could be learnt

    def _step(self, change: int) -> None:
        now = self.now()
        self._area += self.in_flight * (now - self._area_at)
        self._area_at = now
        if max(self.in_flight, self.in_flight + change) > 1:
            self._crowded_at = now
        self.in_flight += change

    def _learn(self, started: float, area: float) -> None:
        """Takes over what a request that began at ``started`` and has just been answered found."""
        now = self.now()
        latency = now - started
        if self._fixed or latency <= 0:
            return
        known = self.idle_s is not None
        if self._crowded_at < started and (not known or self._refused_at < started):
            self._idle.append(latency)
            self._idle_at = now
        idle_s = self.idle_s
        if idle_s is None:
            return
        around = (self._area + self.in_flight * (now - self._area_at) - area) / latency
        wanted = min(max(around * TOLERANCE * idle_s / latency, 1.0), MAX_LIMIT)
        # Few in flight because few came say nothing against a high limit.
        if wanted > self._limit or around >= self._limit / 2:
            self._limit += SMOOTHING * (wanted - self._limit)


class Place:
    """One request's place among those in flight. Every method may be called at any time, in any state."""

    def __init__(self, limit: ConcurrencyLimit) -> None:
        self._limit = limit
        self._held = True
        self._ended = False
        self._started, self._area = limit.now(), limit._area

    def leave(self) -> None:
        """Gives the place to others for a while."""
        if self._held:
            self._held = False
            self._limit._step(-1)

    def come_back(self) -> bool:
        """Takes a place again if it was left, and starts its clock anew; False if there is none now."""
        limit = self._limit
        if self._held or self._ended:
            return self._held
        if limit.in_flight >= limit.limit:
            limit._refuse()
            return False
        limit._step(+1)
        self._held = True
        self._started, self._area = limit.now(), limit._area
        return True

    def end(self, *, answered: bool) -> None:
        """The end; ``answered`` if its latency tells something."""
        if self._held and answered:
            self._limit._learn(self._started, self._area)
        self.leave()
        self._ended = True
