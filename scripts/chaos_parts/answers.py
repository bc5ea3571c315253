"""What the service answered, and when: the journal that outages and verdicts are read from."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Literal, TypeAlias

import httpx

Kind: TypeAlias = Literal["remove", "upload", "segment", "status", "events", "download", "cancel", "cleanup"]

RESET = "reset"  # the connection broke under the request
REFUSED = "refused"  # nobody listens
SILENT = "no answer"  # none in time
PLAIN = "plain"  # not in our words: the proxy's
ENDED_EARLY = "ended early"  # an event stream closed before its job's end
AT_THE_DOOR = (RESET, REFUSED, PLAIN)


@dataclass(frozen=True)
class Answer:
    """One request's end. Times are of ``time.monotonic``.

    Attributes:
        status: The HTTP status; None if there was no answer.
        code: The error's code, or one of the words above; empty for an answer that is no error.
        is_good: The caller got what such a request may expect.
    """

    kind: Kind
    started_s: float
    ended_s: float
    status: int | None
    code: str = ""
    is_good: bool = True

    @property
    def label(self) -> str:
        """``503 OVERLOADED``, ``500 plain``, ``reset``."""
        return " ".join(str(part) for part in (self.status, self.code) if part)


@dataclass
class Journal:
    """Every answer, in the order of their ends."""

    answers: list[Answer] = field(default_factory=list)

    def add(self, answer: Answer) -> None:
        self.answers.append(answer)

    def good(self, kind: Kind, *, started_after_s: float = 0) -> Iterator[Answer]:
        return (a for a in self.answers if a.kind == kind and a.is_good and a.started_s >= started_after_s)

    def bad(self, since_s: float, until_s: float) -> Counter[tuple[Kind, str]]:
        """How often each kind of request got which bad answer, of those that ended in that time."""
        return Counter((a.kind, a.label) for a in self.answers if not a.is_good and since_s <= a.ended_s <= until_s)

    def longest_gap_s(self, kind: Kind, since_s: float, until_s: float) -> float:
        """The longest time within ``since_s``..``until_s`` in which no good answer of that kind came."""
        ends = [a.ended_s for a in self.good(kind) if since_s <= a.ended_s <= until_s]
        marks = [since_s, *sorted(ends), until_s]
        return max(later - earlier for earlier, later in itertools.pairwise(marks))


def error_code(response: httpx.Response) -> str:
    """The code of an error that has our body; ``PLAIN`` for one that has not; empty for a good answer."""
    if not response.is_error:
        return ""
    try:
        body = response.json()
    except ValueError:
        return PLAIN
    ours = isinstance(body, dict) and {"detail", "error_code", "request_id"} <= body.keys()
    return str(body["error_code"]) if ours else PLAIN
