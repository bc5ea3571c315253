"""The owner of one job: uploads, segments, watches, downloads, and now and then cancels or cleans up."""

from __future__ import annotations

import asyncio
import json
import random
import time
from typing import Any

from scripts.chaos_parts.caller import Caller, GaveUp
from scripts.chaos_parts.comparison import decode
from scripts.chaos_parts.ledger import OPEN_STATES, Entry
from scripts.chaos_parts.plans import Plan

POLL_S = 0.3
LONG_POLL_S = 10
FIRST_BYTES = 20_000
PATIENCE_S = 300.0
REPEATS = 0.2
"""Share of requests sent again though they were answered, as after an answer that was lost on its way."""
DOWNLOADS = 0.4
"""Share of the files fetched while the job is worked on; the proof fetches all of them later."""


class JobClient:
    """Lives through one job after the other.

    Args:
        offers: What the service knows, as ``service.offers`` names it.
        callback_url: Where the service tells of its jobs' ends.
    """

    def __init__(
        self, caller: Caller, offers: set[str], dice: random.Random, *, callback_url: str | None = None
    ) -> None:
        self._caller = caller
        self._offers = offers
        self._dice = dice
        self._callback = {"callback_url": callback_url} if callback_url else {}

    async def live(self, entry: Entry, again: Plan | None = None) -> None:
        """The whole life of a job; ``again`` is what it is segmented with once more if its owner wishes so."""
        try:
            await self.upload(entry)
            await self.segment(entry)
            await asyncio.gather(self._watch(entry), self._interfere(entry))
            if entry.wish == "again" and again is not None and entry.state == "ready":
                entry.begins_again(again)
                await self.segment(entry)
                await self._watch(entry)
            elif entry.wish == "cleanup" and not entry.cleanup:
                await self._clean_up(entry)
        except GaveUp as error:
            entry.problems.append(str(error))
        except (KeyError, ValueError) as error:
            entry.problems.append(f"an answer was not to be understood: {error!r}")

    async def upload(self, entry: Entry) -> None:
        """Opens the job; sent again, it is the same one. Raises ``GaveUp``."""
        photo = entry.plan.photo
        for _ in range(self._times()):
            headers = {"Idempotency-Key": f"{entry.key}-upload"}
            files = {"file": (photo.name, photo.data)}
            answer = await self._caller.patiently("upload", "POST", "/upload", files=files, headers=headers)
            entry.uploaded(answer.json())

    async def segment(self, entry: Entry) -> None:
        """Starts the job's present run; sent again, it is the same one. Raises ``GaveUp``."""
        body = {"job_id": entry.job_id, **entry.plan.request(*entry.size_wh), **self._callback}
        headers = {"Idempotency-Key": f"{entry.key}-segment-{entry.run}"}
        # Without keys, a request whose answer was lost finds its job at work.
        expected = set() if "keys" in self._offers else {"JOB_BUSY"}
        for _ in range(self._times()):
            await self._caller.patiently("segment", "POST", "/segment", json=body, headers=headers, expected=expected)
            entry.segmented()

    def _times(self) -> int:
        return 1 + ("keys" in self._offers and self._dice.random() < REPEATS)

    async def _watch(self, entry: Entry) -> None:
        """Follows the job to its end, by polling, by long polls or by its events; fetches some files on the way."""
        deadline = time.monotonic() + PATIENCE_S
        # Where an earlier run's stream broke, its last events would still come first.
        follows = "events" in self._offers and entry.run == 1
        how = self._dice.choice(["poll", "wait", *(["events"] if follows else [])])
        fetched = {"original.png"}
        while entry.state == "processing" and not entry.cleanup and time.monotonic() < deadline:
            if how == "events":
                await self._follow(entry)
            wait = {"wait": LONG_POLL_S} if how == "wait" else {}
            status = await self.status(entry, **wait)
            if status is None:
                return
            if how == "poll":
                await self._fetch_some(entry, [name for name in status["files"] if name not in fetched])
                fetched |= set(status["files"])
                await asyncio.sleep(POLL_S)

    async def status(self, entry: Entry, **parameters: int) -> dict[str, Any] | None:
        """What the service says about the job; None once its owner has asked for its deletion."""
        path = f"/status/{entry.job_id}"
        answer = await self._caller.patiently("status", "GET", path, params=parameters, expected={"JOB_NOT_FOUND"})
        if entry.cleanup:
            return None
        if answer.is_error:
            raise GaveUp("its status answered 404")
        status: dict[str, Any] = answer.json()
        entry.saw(status)
        return status

    async def _follow(self, entry: Entry) -> None:
        expected = {"JOB_NOT_FOUND"} if entry.wish == "cleanup" else set()
        stream = self._caller.events(entry.job_id, str(entry.last_event or ""), expected)
        async for number, name, data in stream:
            entry.saw_event(int(number), json.loads(data))
            if name == "end" or entry.cleanup:
                break
        await stream.aclose()  # type: ignore[attr-defined]
        await asyncio.sleep(POLL_S)

    async def _fetch_some(self, entry: Entry, names: list[str]) -> None:
        for name in names:
            if self._dice.random() < DOWNLOADS and not (entry.cancel or entry.cleanup):
                await self._download_in_two(entry, name)

    async def _download_in_two(self, entry: Entry, name: str) -> None:
        """The beginning of a file, then the rest of the same file; the proof compares whole ones."""
        got, size, headers = b"", FIRST_BYTES, {"Range": f"bytes=0-{FIRST_BYTES - 1}"}
        # Its owner may cancel or delete the job while the file is on its way.
        expected = (
            {"FILE_NOT_FOUND", "JOB_NOT_FOUND", "JOB_NOT_READY"} if entry.wish in ("cancel", "cleanup") else set()
        )
        path = f"/download/{entry.job_id}/{name}"
        while len(got) < size:
            part = await self._caller.patiently("download", "GET", path, headers=headers, expected=expected)
            if part.is_error:
                return
            if part.status_code != 206:
                entry.problems.append(f"{name} changed while it was downloaded")
                return
            got += part.content
            size = int(part.headers["Content-Range"].rpartition("/")[2])
            headers = {"Range": f"bytes={len(got)}-", "If-Range": part.headers["ETag"]}
        entry.downloads += 1
        if decode(got) is None:
            entry.problems.append(f"{name} is torn: {size} bytes in two parts are no PNG")

    async def _interfere(self, entry: Entry) -> None:
        """Cancels or deletes a job at work, if its owner wishes so."""
        if entry.wish == "cancel" and "cancel" in self._offers:
            await asyncio.sleep(self._dice.uniform(0, 1.5))
            await self._cancel(entry)
        elif entry.wish == "cleanup" and self._dice.random() < 0.5:
            await asyncio.sleep(self._dice.uniform(0, 1.5))
            await self._clean_up(entry)

    async def _cancel(self, entry: Entry) -> None:
        if entry.state not in OPEN_STATES:
            return
        entry.cancel = "asked"
        path = f"/cancel/{entry.job_id}"
        answer = await self._caller.patiently("cancel", "POST", path, expected={"JOB_FINISHED"})
        entry.cancel = "late" if answer.is_error else "done"

    async def _clean_up(self, entry: Entry) -> None:
        entry.cleanup = "asked"
        path = f"/cleanup/{entry.job_id}"
        # Not found: an earlier attempt did it, and its answer was lost.
        await self._caller.patiently("cleanup", "DELETE", path, expected={"JOB_NOT_FOUND"})
        entry.cleanup = "done"
