"""The load: removals and status calls at a steady pace, and owners of jobs, never more than so many."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass
from typing import Any

from scripts.chaos_parts.answers import Kind
from scripts.chaos_parts.caller import Caller
from scripts.chaos_parts.comparison import decode
from scripts.chaos_parts.job_client import JobClient
from scripts.chaos_parts.ledger import Entry, Ledger, Wish
from scripts.chaos_parts.plans import Photo, Plan

REMOVE = "/api/background-removal/remove"
STATUS_EVERY_S = 0.2
MOST_UNDERWAY = 8
MOST_JOBS = 8
MOST_AHEAD = 3
REMOVALS_SHARE = 0.4
"""Of the machine's work; jobs have the rest."""
WISHES: dict[Wish, float] = {"keep": 0.7, "again": 0.1, "cancel": 0.1, "cleanup": 0.1}


@dataclass(frozen=True)
class Pace:
    """Seconds from one removal, and from one job, to the next."""

    removal_every_s: float
    job_every_s: float

    @classmethod
    def of(cls, *, removal_s: float, job_s: float, load: float) -> Pace:
        """The pace that keeps the machine busy for ``load`` of its time, from the time each kind takes it."""
        return cls(removal_s / (load * REMOVALS_SHARE), job_s / (load * (1 - REMOVALS_SHARE)))


class Load:
    """A mixed load until it is told to end."""

    def __init__(
        self, caller: Caller, ledger: Ledger, plans: Sequence[Plan], pace: Pace, offers: set[str], dice: random.Random
    ) -> None:
        self._caller = caller
        self._ledger = ledger
        self._plans = plans
        self._photos = list({plan.photo.name: plan.photo for plan in plans}.values())
        self._pace = pace
        self._dice = dice
        self._owner = JobClient(caller, offers, dice)
        self._ending = asyncio.Event()
        self._owners: set[asyncio.Task[None]] = set()
        self._ahead = 0
        self.torn_removals: list[str] = []

    async def run(self) -> None:
        """Keeps the load up until ``end`` is called and the last job's owner is done."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._steadily("remove", self._pace.removal_every_s, self._remove))
            group.create_task(self._steadily("status", STATUS_EVERY_S, self._ask))
            group.create_task(self._send_jobs_at_their_pace())
        await asyncio.gather(*self._owners)

    def end(self) -> None:
        self._ending.set()

    def send_jobs_now(self, count: int, wish: Wish | None = None) -> None:
        """Sends jobs before their time; some of those to come are left out for them."""
        self._ahead = min(MOST_AHEAD, self._ahead + count)
        self._send_jobs(count, wish)

    def _send_jobs(self, count: int, wish: Wish | None = None) -> None:
        for owner in [owner for owner in self._owners if owner.done()]:
            self._owners.remove(owner)
            owner.result()  # raises what is wrong with the owner itself
        for _ in range(min(count, MOST_JOBS - len(self._owners))):
            self._owners.add(asyncio.create_task(self._own_a_job(wish)))

    async def _steadily(self, kind: Kind, every_s: float, send: Callable[[], Coroutine[Any, Any, None]]) -> None:
        """Sends at a pace of its own, whether or not the last one was answered; skips a turn if too many are not."""
        async with asyncio.TaskGroup() as group:
            while not self._ending.is_set():
                if self._caller.underway.get(kind, 0) < MOST_UNDERWAY:
                    group.create_task(send())
                await self._pause(every_s)

    async def _remove(self) -> None:
        photo: Photo = self._dice.choice(self._photos)
        response, answer = await self._caller.once("remove", "POST", REMOVE, files={"image": (photo.name, photo.data)})
        if response is not None and answer.is_good:
            picture = await asyncio.to_thread(decode, response.content)
            size = "none" if picture is None else f"{picture.shape[1]}x{picture.shape[0]}"
            if size != response.headers.get("X-Original-Size"):
                self.torn_removals.append(f"a removal of {photo.name} came back as a picture of size {size}")

    async def _ask(self) -> None:
        known = [entry for entry in self._ledger.accepted() if not entry.cleanup]
        if known:
            entry = self._dice.choice(known)
            path = f"/status/{entry.job_id}"
            response, answer = await self._caller.once("status", "GET", path, expected={"JOB_NOT_FOUND"})
            if response is not None and answer.code == "JOB_NOT_FOUND" and not entry.cleanup:
                entry.problems.append("its status answered 404")

    async def _send_jobs_at_their_pace(self) -> None:
        while not self._ending.is_set():
            if self._ahead:
                self._ahead -= 1
            else:
                self._send_jobs(1)
            await self._pause(self._pace.job_every_s * self._dice.uniform(0.5, 1.5))

    async def _own_a_job(self, wish: Wish | None) -> None:
        plan = self._dice.choice(self._plans)
        key = f"{self._dice.getrandbits(64):016x}"
        entry = Entry(key, plan, wish or self._dice.choices(list(WISHES), list(WISHES.values()))[0])
        self._ledger.entries.append(entry)
        others = [other for other in self._plans if other.photo is plan.photo and other is not plan]
        await self._owner.live(entry, self._dice.choice(others or [plan]))

    async def _pause(self, seconds: float) -> None:
        try:
            async with asyncio.timeout(seconds):
                await self._ending.wait()
        except TimeoutError:
            return
