"""The decoder processes of this process: started when first needed, replaced when they die."""

from __future__ import annotations

import atexit
import logging
import os
import threading
import time

from pipeline.codecs.decoder_limits import DecoderLimits
from pipeline.codecs.decoder_process import DecoderKilled, DecoderProcess
from pipeline.codecs.header import ImageHeader
from pipeline.codecs.unpack import DecodedImage, unpack_image
from pipeline.errors import InvalidImage, Overloaded

MAX_PROCESSES = 4
RETRY_AFTER_S = 5
_SWEEP_S = 5.0  # until a process that died while nothing was asked of it is noticed and buried

logger = logging.getLogger(__name__)


class DecoderPool:
    """Unpacks strangers' pictures where a crash, a hang or a hunger for memory harms no one else.

    Args:
        processes: How many at most; None is one per processor, up to four. With 0 pictures are unpacked in this
            process: some milliseconds faster, and a hostile file that finds a hole in a decoder has the whole service.
        limits: What one picture may take.
        wait_s: How long a picture may wait for a free process.
    """

    def __init__(
        self, processes: int | None = None, *, limits: DecoderLimits | None = None, wait_s: float = 15.0
    ) -> None:
        self._processes = min(MAX_PROCESSES, len(os.sched_getaffinity(0))) if processes is None else processes
        self._limits = limits or DecoderLimits()
        self._wait_s = wait_s
        self._changed = threading.Condition()
        # All below belongs to whoever holds the condition.
        self._keeper: threading.Thread | None = None
        self._idle: list[DecoderProcess] = []
        self._size = 0  # idle, at work, and asked for
        self._asked_for = 0
        self._failures = 0
        self._broken = 0
        self._closed = False

    def decode(self, data: bytes, header: ImageHeader) -> DecodedImage:
        """The picture of a file whose header has been judged. From any thread; blocks.

        Raises:
            InvalidImage: The file is broken, or decoding it crashed, or passed a limit.
            Overloaded: No process came free in time, or none starts.
            MemoryError: There is no memory for the picture.
        """
        if self._processes == 0:
            return unpack_image(data, header)
        for _ in range(self._processes + 1):  # whoever kills one may have killed all
            try:
                return self._decode_once(data, header)
            except DecoderKilled:
                logger.warning("A decoder process was killed from outside; its picture goes to another.")
        raise InvalidImage(f"Invalid image data: the {header.format} file is damaged or truncated")

    def warm_up(self) -> None:
        """Starts all processes and waits until they are ready.

        Raises:
            Overloaded: They do not start; the log says why.
        """
        with self._changed:
            while self._size < self._processes:
                self._ask_for_one()
            failures = self._failures
            self._changed.wait_for(lambda: self._asked_for == 0 or self._closed)
            if self._failures != failures:
                raise Overloaded("The decoder processes do not start.", retry_after=RETRY_AFTER_S)

    def close(self) -> None:
        """Ends all processes; pictures at work and later ones get ``Overloaded``."""
        with self._changed:
            self._closed = True
            keeper = self._keeper
            self._changed.notify_all()
        if keeper is not None:
            keeper.join()
            atexit.unregister(self.close)

    @property
    def broken(self) -> int:
        """Decoders so far that a picture crashed, or that were ended because it passed a limit of time."""
        with self._changed:
            return self._broken

    def pids(self) -> list[int]:
        """Process ids of the decoders that are idle now."""
        with self._changed:
            return [process.pid for process in self._idle]

    def _decode_once(self, data: bytes, header: ImageHeader) -> DecodedImage:
        process = self._take()
        try:
            return process.decode(data, header)
        finally:
            self._give_back(process)

    def _take(self) -> DecoderProcess:
        deadline = time.monotonic() + self._wait_s
        with self._changed:
            failures = self._failures
            while not self._closed:
                self._bury_idle()
                if self._idle:
                    return self._idle.pop()  # the one used last: its memory is warm
                if self._failures != failures and self._size == 0:
                    raise Overloaded("The image cannot be decoded now. Try again.", retry_after=RETRY_AFTER_S)
                if self._size < self._processes:
                    self._ask_for_one()
                if not self._changed.wait(deadline - time.monotonic()):
                    raise Overloaded("No decoder came free in time. Try again.", retry_after=RETRY_AFTER_S)
            raise Overloaded("The service is stopping.", retry_after=RETRY_AFTER_S)

    def _give_back(self, process: DecoderProcess) -> None:
        with self._changed:
            if process.is_alive() and not self._closed:
                self._idle.append(process)
                self._changed.notify_all()
                return
            self._size -= 1
            self._broken += process.broken_by_a_picture
            if not self._closed:
                self._ask_for_one()
        process.end()

    def _ask_for_one(self) -> None:
        self._size += 1
        self._asked_for += 1
        if self._keeper is None:
            # One thread makes them all: the kernel ends each with the thread that made it.
            self._keeper = threading.Thread(target=self._keep, name="decoder-keeper", daemon=True)
            self._keeper.start()
            atexit.register(self.close)
        self._changed.notify_all()

    def _keep(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._asked_for > 0 or self._closed, _SWEEP_S)
                self._bury_idle()
                if self._closed:
                    break
                asked = self._asked_for > 0
            if asked:
                self._start_one()
        for process in self._idle:
            process.end()
        self._idle = []

    def _start_one(self) -> None:
        process = None
        try:
            process = DecoderProcess(self._limits)
        except Exception:
            logger.exception("A decoder process does not start.")
        with self._changed:
            self._asked_for -= 1
            if process is None:
                self._size -= 1
                self._failures += 1
            else:
                self._idle.append(process)
            self._changed.notify_all()

    def _bury_idle(self) -> None:
        for process in [process for process in self._idle if not process.is_alive()]:
            process.end()
            self._idle.remove(process)
            self._size -= 1
