"""Waiting jobs in fair turns: clients take turns with one another, and each client's jobs come in their order."""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Iterator
from dataclasses import dataclass


@dataclass(frozen=True)
class Waiting:
    """A job that waits for its turn.

    Attributes:
        run: Which of the job's runs waits.
        alone: A model died under it: nothing else runs beside it, so that nothing else dies with it.
    """

    job_id: str
    client: str
    run: int
    alone: bool = False


class FairQueue:
    """Round robin over clients, first in first out within one."""

    def __init__(self) -> None:
        self._clients: OrderedDict[str, deque[Waiting]] = OrderedDict()  # whose turn is next comes first
        self._by_id: dict[str, Waiting] = {}

    def __len__(self) -> int:
        return len(self._by_id)

    def __iter__(self) -> Iterator[Waiting]:
        return iter(self._by_id.values())

    def add(self, waiting: Waiting, *, first: bool = False) -> None:
        """Puts a job behind its client's others; or before them, if it had its turn and has to begin again."""
        mine = self._clients.setdefault(waiting.client, deque())
        if first:
            mine.appendleft(waiting)
        else:
            mine.append(waiting)
        self._by_id[waiting.job_id] = waiting

    def next(self) -> Waiting | None:
        """The job whose turn it is; it stays."""
        return next(iter(self._clients.values()))[0] if self._clients else None

    def take(self) -> Waiting:
        """The job whose turn it is; its client comes last now. Raises ``LookupError`` if none waits."""
        client, mine = next(iter(self._clients.items()), (None, None))
        if client is None or mine is None:
            raise LookupError("No job waits.")
        waiting = mine.popleft()
        del self._by_id[waiting.job_id]
        self._clients.move_to_end(client)
        if not mine:
            del self._clients[client]
        return waiting

    def remove(self, job_id: str) -> bool:
        """Takes a job out; whether it was waiting."""
        waiting = self._by_id.pop(job_id, None)
        if waiting is None:
            return False
        mine = self._clients[waiting.client]
        mine.remove(waiting)
        if not mine:
            del self._clients[waiting.client]
        return True

    def position(self, job_id: str) -> int | None:
        """The job's place if nobody else comes, 1 is next; None if it does not wait."""
        waiting = self._by_id.get(job_id)
        if waiting is None:
            return None
        before = self._clients[waiting.client].index(waiting)
        place, passed = 1, False
        for client, queue in self._clients.items():
            if client == waiting.client:
                place, passed = place + before, True
            else:  # those whose turn comes before this client's have one more than it had
                place += min(len(queue), before if passed else before + 1)
        return place


class RunTimes:
    """How long jobs take, as a moving average of the last ones."""

    _WEIGHT = 0.2

    def __init__(self) -> None:
        self._average_s: float | None = None

    def add(self, seconds: float) -> None:
        """A job that ran so long has ended."""
        if self._average_s is None:
            self._average_s = seconds
        else:
            self._average_s += self._WEIGHT * (seconds - self._average_s)

    def wait_s(self, position: int, slots: int) -> float | None:
        """Seconds until the turn of the job at ``position`` (1 is next), or None before any job has run."""
        return None if self._average_s is None else position * self._average_s / slots
