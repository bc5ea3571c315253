"""JobManager's side of API keys: it answers for them, and notes when they were used."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import TypeVar

from pipeline.config import Settings
from pipeline.errors import StorageError
from pipeline.jobs.api_keys import ApiKey, ApiKeys
from pipeline.jobs.location import database_url

NOTE_EVERY_S = 60.0

T = TypeVar("T")

logger = logging.getLogger("ray.serve")


class KeyRing:
    """The keys of one database, on a thread of their own. Uses are written down together, at most once a minute.

    Args:
        open_keys: Connects to the database; called when the first key is asked for.
        note_every_s: Seconds between two writings.
    """

    def __init__(
        self,
        open_keys: Callable[[], ApiKeys],
        *,
        note_every_s: float = NOTE_EVERY_S,
        now: Callable[[], float] = time.time,
    ) -> None:
        self._open_keys = open_keys
        self._note_every_s = note_every_s
        self._now = now
        self._keys: ApiKeys | None = None
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="keys")
        self._used: dict[str, float] = {}
        self._note: asyncio.Task[None] | None = None

    @classmethod
    def of(cls, settings: Settings) -> KeyRing:
        """The keys in the jobs' database."""
        secret = settings.api_key_secret
        text = secret.get_secret_value() if secret else None
        return cls(lambda: ApiKeys(database_url(settings), secret=text))

    async def find(self, fingerprint: str) -> ApiKey | None:
        """The key with this fingerprint, unless it has ended. Raises ``StorageError``."""
        key = await self._in_thread(partial(self._find, fingerprint))
        if key is not None:
            self._used[key.prefix] = self._now()
            if self._note is None:
                self._note = asyncio.create_task(self._write_later())
        return key

    async def stop(self) -> None:
        """Writes down what is still to be written, and closes the database."""
        if self._note is not None:
            self._note.cancel()
        await self._write()
        if self._keys is not None:
            await self._in_thread(self._keys.close)
        self._thread.shutdown(wait=False)

    def _find(self, fingerprint: str) -> ApiKey | None:
        if self._keys is None:
            self._keys = self._open_keys()
        return self._keys.find(fingerprint)

    async def _write_later(self) -> None:
        await asyncio.sleep(self._note_every_s)
        self._note = None
        await self._write()

    async def _write(self) -> None:
        used, self._used = self._used, {}
        if used and self._keys is not None:
            try:
                await self._in_thread(partial(self._keys.used, used))
            except StorageError as error:  # the next use is told again
                logger.warning("When keys were last used could not be written down: %s", error.detail)

    async def _in_thread(self, function: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._thread, function)
