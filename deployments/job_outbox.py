"""JobManager's outbox of callbacks, for whoever sends them."""

from __future__ import annotations

from collections.abc import Callable

from deployments.job_threads import JobThreads
from pipeline.jobs.records import Delivery
from pipeline.jobs.store import JobStore


def _nobody() -> None:
    """There is no sender."""


class JobOutbox:
    """The store's outbox as the event loop may use it. ``JobStore`` tells what each method does.

    Attributes:
        on_new: Called when a job has ended, so that there may be something to send.
    """

    def __init__(self, store: JobStore, threads: JobThreads) -> None:
        self._store = store
        self._threads = threads
        self.on_new: Callable[[], None] = _nobody

    async def due_deliveries(self, limit: int) -> list[Delivery]:
        return await self._threads.database(self._store.due_deliveries, limit)

    async def next_delivery_at(self) -> float | None:
        return await self._threads.database(self._store.next_delivery_at)

    async def delivered(self, delivery_id: str) -> None:
        await self._threads.database(self._store.delivered, delivery_id)

    async def postpone_delivery(self, delivery_id: str, *, until: float | None) -> None:
        await self._threads.database(self._store.postpone_delivery, delivery_id, until=until)
