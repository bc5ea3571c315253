"""How long each stage of a request took."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager


class StageClock:
    """Adds up seconds by stage name, in the order the stages first ran."""

    def __init__(self) -> None:
        self._started = time.perf_counter()
        self._seconds: dict[str, float] = {}

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Counts what runs inside as ``name``."""
        start = time.perf_counter()
        try:
            yield
        finally:
            self.add(name, time.perf_counter() - start)

    def add(self, name: str, seconds: float) -> None:
        """Counts ``seconds`` more as ``name``."""
        self._seconds[name] = self._seconds.get(name, 0.0) + seconds

    @property
    def elapsed_s(self) -> float:
        """Seconds since the clock was made."""
        return time.perf_counter() - self._started

    @property
    def stages_ms(self) -> dict[str, float]:
        """Milliseconds by stage."""
        return {name: round(seconds * 1000, 2) for name, seconds in self._seconds.items()}
