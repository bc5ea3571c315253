"""The faults, one after another: each strikes when it hurts, and the next waits until all is normal again."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass

from scripts.chaos_parts import processes
from scripts.chaos_parts.caller import Caller
from scripts.chaos_parts.faults import Fault
from scripts.chaos_parts.ledger import Ledger
from scripts.chaos_parts.load import Load
from scripts.chaos_parts.program import Say
from scripts.chaos_parts.service import OwnService, Service, ServiceDown, is_ready, wait_until_ready

LOOK_EVERY_S = 0.01
ASK_EVERY_S = 0.2
MOMENT_S = 30.0
RECOVERY_S = 180.0
BURST, AFTERWARDS = 3, 1
"""Jobs sent just before each fault, so that it strikes some at work, and just after it, to see when jobs go on."""
QUIET_S = 8.0
"""Undisturbed load before the first fault: the first row of the table."""


@dataclass(frozen=True)
class Outage:
    """One fault and what came of it; times are of ``time.monotonic``.

    Attributes:
        pids: The processes that were killed.
        was_the_moment: Whether it struck at the moment it waited for; after ``MOMENT_S`` it strikes anyway.
        normal_s: Until the process has a successor, ``/readyz`` is 200, and a removal and a status call that were
            sent after the fault got a good answer. None if that never came.
        job_s: Until a job that was accepted after the fault was ready.
    """

    fault: str
    breaks_connections: bool
    pids: tuple[int, ...]
    was_the_moment: bool
    began_s: float
    normal_s: float | None
    job_s: float | None

    @property
    def over_s(self) -> float:
        """When both had come."""
        return self.began_s + max(self.normal_s or RECOVERY_S, self.job_s or RECOVERY_S)


class Campaign:
    """Strikes a service under load."""

    def __init__(self, service: Service, caller: Caller, ledger: Ledger, load: Load, say: Say) -> None:
        self._service = service
        self._caller = caller
        self._ledger = ledger
        self._load = load
        self._say = say
        self.outages: list[Outage] = []

    async def run(self, faults: Sequence[Fault]) -> None:
        """Every fault in turn. Raises ``ServiceDown`` if the service does not come back from one."""
        began_s = time.monotonic()
        await asyncio.sleep(QUIET_S)
        self.outages.append(Outage("(none)", False, (), True, began_s, QUIET_S, QUIET_S))
        for fault in faults:
            was_the_moment = await self._wait_for(fault)
            began_s = time.monotonic()
            pids = self._kill(fault)
            self._load.send_jobs_now(AFTERWARDS, "keep")
            self._say(f"{fault.name}: killed {len(pids)} process{'es' if len(pids) > 1 else f' ({pids[0]})'}")
            if fault.is_everything:
                await self._restart()
            normal_s, job_s = await self._wait_until_normal(fault, set(pids), began_s)
            self.outages.append(
                Outage(fault.name, fault.breaks_connections, pids, was_the_moment, began_s, normal_s, job_s)
            )
            if normal_s is None or job_s is None:
                raise ServiceDown(f"{fault.name}: not normal after {RECOVERY_S:g} s\n{self._service.last_words()}")
            self._say(f"{fault.name}: normal after {normal_s:.1f} s, a new job was ready after {job_s:.1f} s")

    async def _wait_for(self, fault: Fault) -> bool:
        self._load.send_jobs_now(BURST)
        deadline = time.monotonic() + MOMENT_S
        while time.monotonic() < deadline:
            if fault.moment(self._ledger, self._caller):
                return True
            await asyncio.sleep(LOOK_EVERY_S)
        return False

    def _kill(self, fault: Fault) -> tuple[int, ...]:
        running = processes.below(self._service.pid)
        if fault.is_everything:
            assert isinstance(self._service, OwnService)
            self._service.kill()
            return tuple(running)
        found = processes.titled(running, fault.title)
        if not found:
            raise ServiceDown(f"{fault.name}: the service has no such process")
        processes.kill(found[:1])
        return tuple(found[:1])

    async def _restart(self) -> None:
        assert isinstance(self._service, OwnService)
        self._service.start()
        took_s = await wait_until_ready(self._service)
        self._say(f"started again on the same folder, ready after {took_s:.1f} s")

    async def _wait_until_normal(
        self, fault: Fault, killed: set[int], began_s: float
    ) -> tuple[float | None, float | None]:
        normal_s: float | None = None
        while time.monotonic() - began_s < RECOVERY_S:
            if normal_s is None and await self._is_normal(fault, killed, began_s):
                normal_s = time.monotonic() - began_s
            ended_s = self._ledger.first_end_after(began_s)
            if normal_s is not None and ended_s is not None:
                return normal_s, ended_s - began_s
            await asyncio.sleep(ASK_EVERY_S)
        return normal_s, None

    async def _is_normal(self, fault: Fault, killed: set[int], began_s: float) -> bool:
        if self._service.has_ended():
            raise ServiceDown(f"{fault.name}: the launcher ended\n{self._service.last_words()}")
        if fault.title and not set(processes.titled(processes.below(self._service.pid), fault.title)) - killed:
            return False
        good = self._caller.journal.good
        answered = all(any(good(kind, started_after_s=began_s)) for kind in ("remove", "status"))
        return answered and await is_ready(self._caller.client)
