"""Pictures that killed a model's replica twice, and are kept away from the models for a while."""

from __future__ import annotations

import hashlib
import time
from collections import OrderedDict
from collections.abc import Callable

from pipeline.errors import Quarantined

QUARANTINE_S = 600.0
MAX_PICTURES = 1000


class Quarantine:
    """Remembers pictures by the SHA-256 of their bytes; the oldest give way."""

    def __init__(self, *, now: Callable[[], float] = time.monotonic) -> None:
        self._now = now
        self._until: OrderedDict[bytes, float] = OrderedDict()

    def check(self, data: bytes) -> None:
        """Raises ``Quarantined`` for a picture that is in quarantine. Free while none is."""
        if not self._until:
            return
        until = self._until.get(_digest(data))
        if until is not None and until > self._now():
            raise Quarantined("This picture made the model fail twice; it is not processed.")

    def add(self, data: bytes) -> None:
        """Keeps the picture away for ``QUARANTINE_S``."""
        now = self._now()
        digest = _digest(data)
        self._until[digest] = now + QUARANTINE_S
        self._until.move_to_end(digest)
        while len(self._until) > MAX_PICTURES or next(iter(self._until.values())) <= now:
            self._until.popitem(last=False)


def _digest(data: bytes) -> bytes:
    return hashlib.sha256(data).digest()
