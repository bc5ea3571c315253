"""JobManager's lease: while it holds, no other JobManager writes to the same jobs."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

from deployments.job_threads import JobThreads
from pipeline.errors import LeaseLost, StorageError
from pipeline.jobs.store import JobStore, LeaseHeld

TTL_S = 5.0
RENEW_EVERY_S = 1.5

_LOOK_AGAIN_S = 0.5

logger = logging.getLogger("ray.serve")


class LeaseKeeper:
    """Takes the store's lease and renews it until it is released or lost.

    The database itself refuses the writes of whoever lost the lease; storage cannot, so that before a file is written
    ``sure()`` is asked.

    Args:
        owner: What others read while they wait.
        on_loss: Called once, when another owner has the lease.
    """

    def __init__(
        self,
        store: JobStore,
        threads: JobThreads,
        *,
        owner: str,
        on_loss: Callable[[], None],
        ttl_s: float = TTL_S,
        renew_every_s: float = RENEW_EVERY_S,
    ) -> None:
        self._store = store
        self._threads = threads
        self._owner = owner
        self._on_loss = on_loss
        self._ttl_s = ttl_s
        self._renew_every_s = renew_every_s
        self._until = 0.0  # of the loop's clock
        self._change = asyncio.Event()
        self._renewing: asyncio.Task[None] | None = None
        self.lost = False

    async def take(self) -> None:
        """Returns once the lease is this owner's, however long another holds it or the database is away."""
        told = ""
        while True:
            begun = asyncio.get_running_loop().time()
            try:
                await self._threads.database(self._store.acquire_lease, self._owner, ttl_s=self._ttl_s)
                break
            except (LeaseHeld, StorageError) as reason:
                if str(reason) != told:
                    logger.warning("%s waits for the lease of the jobs: %s", self._owner, reason)
                    told = str(reason)
            await asyncio.sleep(_LOOK_AGAIN_S)
        self._until = begun + self._ttl_s
        logger.info("%s has the lease of the jobs.", self._owner)
        self._renewing = asyncio.create_task(self._renew(), name="lease")

    def check(self) -> None:
        """Raises ``LeaseLost`` once another owner has the lease."""
        if self.lost:
            raise LeaseLost("The service is restarting. Try again in a few seconds.", retry_after=5)

    async def sure(self) -> None:
        """Returns when the lease is surely held. Raises ``LeaseLost`` if another owner has it."""
        self.check()
        while self._until <= asyncio.get_running_loop().time():
            await self._change.wait()
            self.check()

    def lose(self) -> None:
        """Another owner has it, as a refused write told."""
        if not self.lost:
            self.lost = True
            logger.error("%s lost the lease of the jobs to another owner and stops all work.", self._owner)
            self._tell()
            self._on_loss()

    def _tell(self) -> None:
        self._change.set()
        self._change = asyncio.Event()

    async def release(self) -> None:
        """Gives the lease back, so that the next owner need not wait for its end."""
        if self._renewing is not None:
            self._renewing.cancel()
            await asyncio.gather(self._renewing, return_exceptions=True)
        if self.lost or self._renewing is None:
            return
        try:
            await self._threads.database(self._store.release_lease)
        except (LeaseLost, StorageError) as reason:
            logger.warning("%s could not give its lease back: %s", self._owner, reason)

    async def _renew(self) -> None:
        while True:
            await asyncio.sleep(self._renew_every_s)
            begun = asyncio.get_running_loop().time()
            try:
                await self._threads.database(self._store.renew_lease)
            except LeaseLost:
                return self.lose()
            except Exception as reason:  # whatever it is, the lease is the last thing to give up for it
                logger.warning("%s could not renew its lease: %s", self._owner, reason)
                continue
            self._until = begun + self._ttl_s
            self._tell()
