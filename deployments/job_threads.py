"""The threads beside JobManager's event loop: one for the database, a few for pixels and files."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import ParamSpec, TypeVar

from pipeline.errors import JobNotFound, LeaseLost, StorageUnavailable

P = ParamSpec("P")
T = TypeVar("T")

_WORKERS = 2
_FILE_WORKERS = 4
_FIRST_DELAY_S = 0.2
_MAX_DELAY_S = 5.0

logger = logging.getLogger("ray.serve")


class JobThreads:
    """Where what would block the event loop runs.

    The database has one thread, so that its calls keep their order. Work on pixels has few, because the models need
    the processors too; files have their own, because a storage that does not answer must not stop the encoding.
    """

    def __init__(self) -> None:
        self._database = ThreadPoolExecutor(1, thread_name_prefix="database")
        self._workers = ThreadPoolExecutor(_WORKERS, thread_name_prefix="pixels")
        self._files = ThreadPoolExecutor(_FILE_WORKERS, thread_name_prefix="files")

    async def database(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """``function``'s answer, after every database call before it."""
        return await asyncio.get_running_loop().run_in_executor(self._database, partial(function, *args, **kwargs))

    async def insist(
        self, function: Callable[[], T], what: str, patience: tuple[type[Exception], ...] = (StorageUnavailable,)
    ) -> T:
        """A database call's answer, however long that takes: errors in ``patience`` are waited out.

        For what nothing can go on without. ``what`` tells the log what waits. ``JobNotFound`` and ``LeaseLost`` are
        answers, and no error that passes.
        """
        delay_s = _FIRST_DELAY_S
        while True:
            try:
                return await self.database(function)
            except (JobNotFound, LeaseLost):
                raise
            except patience as failure:
                logger.warning("%s waits for the database: %r", what, failure)
            await asyncio.sleep(delay_s)
            delay_s = min(2 * delay_s, _MAX_DELAY_S)

    async def pool(self, function: Callable[[], T], /) -> T:
        """``function``'s answer, once a thread for pixels is free."""
        return await asyncio.get_running_loop().run_in_executor(self._workers, function)

    async def files(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """``function``'s answer. Whoever is cancelled meanwhile goes on only when ``function`` has ended.

        Its thread cannot be stopped: a file written after its job was deleted would bring the folder back.
        """
        submitted = self._files.submit(partial(function, *args, **kwargs))
        call = asyncio.wrap_future(submitted)
        try:
            return await asyncio.shield(call)
        except asyncio.CancelledError:
            submitted.cancel()  # if it has not begun
            await asyncio.wait([call])
            raise

    async def close(self) -> None:
        """Lets what runs come to its end; what has not begun is dropped."""
        for executor in (self._workers, self._files, self._database):
            await asyncio.to_thread(executor.shutdown, cancel_futures=True)
