"""How many requests may stay for long in one ingress replica, so that others find room."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from pipeline.errors import Overloaded


class Seats:
    """At most ``limit`` at once; whoever finds none free is told to come back, and does not wait.

    Args:
        limit: How many there are.
        whose: Who sits there, for the refusal.
    """

    def __init__(self, limit: int, whose: str) -> None:
        self._limit = limit
        self._whose = whose
        self._taken = 0

    @property
    def taken(self) -> int:
        """How many are taken now."""
        return self._taken

    @contextlib.contextmanager
    def seat(self) -> Iterator[None]:
        """A seat for as long as the context lasts. Raises ``Overloaded``."""
        if self._taken >= self._limit:
            raise Overloaded(f"Too many {self._whose} are open. Try again in a few seconds.", retry_after=5)
        self._taken += 1
        try:
            yield
        finally:
            self._taken -= 1
