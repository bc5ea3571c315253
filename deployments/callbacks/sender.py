"""Sends callbacks from the outbox: signed, a few at once, again and again until they arrive or a day is over."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
import ssl
import time
from collections import Counter
from collections.abc import Callable
from typing import Protocol

import httpx

from deployments.callbacks.message import body_of, headers_of
from deployments.callbacks.rules import CallbackRules
from deployments.callbacks.transport import CheckedTransport, PrivateAddress, Resolve, SystemResolver
from pipeline.errors import CallbackRejected
from pipeline.jobs.records import Delivery

GONE = 410
"""Standard Webhooks: the receiver wants nothing more sent there."""

MAX_TRIES = 10
FIRST_DELAY_S = 5.0
DELAY_GROWTH = 3.2  # nine delays: 22 hours in all
JITTER = 0.2

TIMEOUT_S = 10.0
CONNECT_TIMEOUT_S = 3.0
AT_ONCE = 8
AT_ONCE_PER_HOST = 2
LOOK_AHEAD = 32
LOOK_AGAIN_S = 1.0
SHORTEST_PAUSE_S = 0.05
IDLE_S = 60.0
OUTBOX_PAUSE_S = 10.0

logger = logging.getLogger("ray.serve")


class Outbox(Protocol):
    """The callbacks still to be sent. ``JobStore`` tells what each method does."""

    async def due_deliveries(self, limit: int) -> list[Delivery]: ...

    async def next_delivery_at(self) -> float | None: ...

    async def delivered(self, delivery_id: str) -> None: ...

    async def postpone_delivery(self, delivery_id: str, *, until: float | None) -> None: ...


class _Failed(Exception):
    """One try failed; ``for_good`` if the receiver wants no other."""

    def __init__(self, reason: str, *, for_good: bool = False) -> None:
        super().__init__(reason)
        self.for_good = for_good


class CallbackSender:
    """Empties an outbox for as long as ``run`` runs. A receiver may see a delivery twice, never a lost one.

    Args:
        outbox: What is to be sent, and where the outcome is written down.
        rules: What may be called, and the key of the signatures.
        resolve: The addresses of a name; the operating system's by default.
        ssl_context: Whose certificates count; by default those of certifi, or of SSL_CERT_FILE.
        now: Seconds since the epoch.
        timeout_s: For one try, names and all.
    """

    def __init__(
        self,
        outbox: Outbox,
        rules: CallbackRules,
        *,
        resolve: Resolve | None = None,
        ssl_context: ssl.SSLContext | None = None,
        now: Callable[[], float] = time.time,
        timeout_s: float = TIMEOUT_S,
    ) -> None:
        self._outbox = outbox
        self._rules = rules
        self._resolver = SystemResolver()
        self._transport = CheckedTransport(resolve or self._resolver, rules.private_networks, ssl_context=ssl_context)
        self._now = now
        self._timeout_s = timeout_s
        self._changed = asyncio.Event()
        self._sending: dict[str, str] = {}  # delivery id → host

    def wake(self) -> None:
        """Tells that the outbox may have something new."""
        self._changed.set()

    async def run(self) -> None:
        """Sends what is due, for ever; cancel it to stop. What was under way then is sent again by the next run."""
        with contextlib.closing(self._resolver):
            timeout = httpx.Timeout(self._timeout_s, connect=min(CONNECT_TIMEOUT_S, self._timeout_s))
            async with (
                httpx.AsyncClient(transport=self._transport, timeout=timeout, trust_env=False) as client,
                asyncio.TaskGroup() as group,
            ):
                while True:
                    self._changed.clear()
                    try:
                        pause_s = await self._start_due(client, group)
                    except Exception:
                        logger.exception("The outbox of callbacks could not be read.")
                        pause_s = OUTBOX_PAUSE_S
                    with contextlib.suppress(TimeoutError):
                        async with asyncio.timeout(pause_s):  # wait_for of Python 3.11 may swallow a cancellation
                            await self._changed.wait()

    async def _start_due(self, client: httpx.AsyncClient, group: asyncio.TaskGroup) -> float:
        """Starts what may start now; the seconds after which to look again, unless woken before."""
        limit = LOOK_AHEAD
        while len(self._sending) < AT_ONCE:
            due = await self._outbox.due_deliveries(limit)
            started = [delivery for delivery in due if self._take(delivery)]
            for delivery in started:
                group.create_task(self._deliver(client, delivery))
            if started or len(due) < limit:
                break
            limit *= 4  # all of these wait for their host's turn: look behind them
        if self._sending:
            return LOOK_AGAIN_S
        at = await self._outbox.next_delivery_at()
        return IDLE_S if at is None else min(max(at - self._now(), SHORTEST_PAUSE_S), IDLE_S)

    def _take(self, delivery: Delivery) -> bool:
        host = _host(delivery)
        free = len(self._sending) < AT_ONCE and Counter(self._sending.values())[host] < AT_ONCE_PER_HOST
        if not free or delivery.delivery_id in self._sending:
            return False
        self._sending[delivery.delivery_id] = host
        return True

    async def _deliver(self, client: httpx.AsyncClient, delivery: Delivery) -> None:
        try:
            try:
                await self._post(client, delivery)
            except _Failed as failure:
                await self._postpone(delivery, failure)
            else:
                await self._outbox.delivered(delivery.delivery_id)
        except Exception:
            # The outbox still has it as due: without a pause it would be sent again at once.
            logger.exception("Callback %s: its outcome could not be written down.", delivery.delivery_id)
            await asyncio.sleep(OUTBOX_PAUSE_S)
        finally:
            del self._sending[delivery.delivery_id]
            self.wake()

    async def _post(self, client: httpx.AsyncClient, delivery: Delivery) -> None:
        try:
            url = self._rules.check(delivery.url)
            body = body_of(delivery)
            headers = headers_of(delivery, body, secret=self._rules.secret, timestamp=int(self._now()))
            async with (
                asyncio.timeout(self._timeout_s),
                client.stream("POST", url, content=body, headers=headers, follow_redirects=False) as answer,
            ):
                status = answer.status_code  # the answer's body is not read at all
        except CallbackRejected as error:
            raise _Failed(error.detail) from error
        except (PrivateAddress, httpx.HTTPError, TimeoutError, OSError) as error:
            raise _Failed(f"{type(error).__name__}: {error}") from error
        except Exception as error:
            # It counts as a try all the same: what nobody foresaw must not be sent for ever.
            logger.exception("Callback %s could not be sent.", delivery.delivery_id)
            raise _Failed(type(error).__name__) from error
        if not 200 <= status < 300:
            raise _Failed(f"it answered {status}", for_good=status == GONE)

    async def _postpone(self, delivery: Delivery, failure: _Failed) -> None:
        delay_s = None if failure.for_good else delay_after(delivery.attempts + 1)
        until = None if delay_s is None else self._now() + delay_s
        await self._outbox.postpone_delivery(delivery.delivery_id, until=until)
        outlook = "It is given up." if delay_s is None else f"The next try is in {delay_s:.0f} s."
        names = (delivery.delivery_id, delivery.job_id, _host(delivery))
        logger.warning("Callback %s of job %s to %s failed: %s. %s", *names, failure, outlook)


def delay_after(tries: int) -> float | None:
    """Seconds until the next try after so many failed ones, spread a little by chance; None if it was the last."""
    if tries >= MAX_TRIES:
        return None
    return FIRST_DELAY_S * DELAY_GROWTH ** (tries - 1) * random.uniform(1 - JITTER, 1 + JITTER)


def _host(delivery: Delivery) -> str:
    try:
        return httpx.URL(delivery.url).host
    except httpx.InvalidURL:
        return ""  # the rules refuse it before it is called
