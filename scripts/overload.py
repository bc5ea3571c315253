"""What a service does with more removals than it can take: ``benchmark.py --overload``.

Four phases: one caller (idle), a few callers that wait for their answers (the sustainable rate), then for
``--seconds`` a stream of ``--factor`` times that rate which waits for nobody, and one caller again. The service must
run on this machine with its rate limit off (``RATE_LIMIT_PER_MINUTE=0``).
"""

from __future__ import annotations

import asyncio
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field

import httpx
from tqdm import tqdm

from scripts.benchmark_stats import parse_server_timing
from scripts.memory_soak import Held, find_replicas, look

REMOVE = "/api/background-removal/remove"
TIMEOUT_S = 60.0
IDLE_REQUESTS = 40
FEW_CALLERS = 3
PAUSE_S = 0.1  # of a caller who was refused while the sustainable rate is measured
MAX_OPEN = 500  # requests that may be under way at once; what comes beyond is counted as not sent
MEMORY_EVERY_S = 0.5


@dataclass(frozen=True)
class Answer:
    """What became of one request.

    Attributes:
        outcome: ``accepted``, ``refused`` (503 ``OVERLOADED`` of our own), or what else it was.
        client_ms: What the caller waited.
        timing_ms: The service's ``Server-Timing``.
        has_retry_after: Whether a refusal says when to come again.
    """

    outcome: str
    client_ms: float
    timing_ms: dict[str, float]
    has_retry_after: bool = False


@dataclass
class Phase:
    """The answers of one phase, and what it took."""

    answers: list[Answer] = field(default_factory=list)
    seconds: float = 0.0
    not_sent: int = 0

    def outcomes(self) -> Counter[str]:
        return Counter(answer.outcome for answer in self.answers)

    def client_ms(self, outcome: str = "accepted") -> list[float]:
        return [answer.client_ms for answer in self.answers if answer.outcome == outcome]

    def rate(self, outcome: str = "accepted") -> float:
        """Answers of that kind per second."""
        return self.outcomes()[outcome] / self.seconds if self.seconds else 0.0


@dataclass
class Overload:
    """Everything that was measured; memory in MiB by process."""

    idle: Phase
    sustained: Phase
    flood: Phase
    after: Phase
    offered_per_s: float
    memory: dict[str, dict[str, Held | None]]
    client_cpu_share: float


@dataclass(frozen=True)
class Form:
    """A multipart body that is built once, so that the client costs little."""

    body: bytes
    content_type: str

    @classmethod
    def of(cls, name: str, data: bytes, media_type: str) -> Form:
        request = httpx.Request("POST", "http://x", files={"image": (name, data, media_type)})
        return cls(request.read(), request.headers["content-type"])


async def measure(url: str, form: Form, *, seconds: float, factor: float, pid: int | None) -> Overload:
    """Runs the four phases against the service at ``url``; ``pid`` is of its ``serve.sh``, if several run here."""
    processes = {f"{name} ({pid})": pid for pid, name in find_replicas(pid).items()}
    memory = {name: dict[str, Held | None]() for name in processes}

    def note(when: str) -> None:
        for name, process in processes.items():
            memory[name][when] = look(process)

    limits = httpx.Limits(max_connections=MAX_OPEN, max_keepalive_connections=MAX_OPEN)
    async with httpx.AsyncClient(base_url=url, timeout=TIMEOUT_S, limits=limits) as client:

        async def ask() -> Answer:
            return await send(client, form)

        await one_by_one(ask, IDLE_REQUESTS // 8, seconds, "warm-up")
        idle = await one_by_one(ask, IDLE_REQUESTS, seconds, "one caller")
        if not idle.client_ms():
            raise SystemExit(f"benchmark: no removal succeeds: {dict(idle.outcomes())}")
        sustained = await closed_loop(ask, FEW_CALLERS, min(seconds, 15))
        offered_per_s = factor * sustained.rate()
        note("before")
        cpu = time.process_time()
        async with watched(lambda: note_peak(memory, processes)):
            flood = await open_loop(ask, offered_per_s, seconds, f"{factor:g} times as many")
        cpu_share = (time.process_time() - cpu) / flood.seconds
        after = await one_by_one(ask, IDLE_REQUESTS // 2, seconds, "one caller")
        note("after")
    return Overload(idle, sustained, flood, after, offered_per_s, memory, cpu_share)


async def send(client: httpx.AsyncClient, form: Form) -> Answer:
    """One removal, and what became of it."""
    started = time.perf_counter()
    try:
        response = await client.post(REMOVE, content=form.body, headers={"Content-Type": form.content_type})
    except httpx.HTTPError as error:
        return Answer(type(error).__name__, (time.perf_counter() - started) * 1000, {})
    waited_ms = (time.perf_counter() - started) * 1000
    timing = parse_server_timing(response.headers.get("Server-Timing", ""))
    if response.status_code == 200:
        return Answer("accepted", waited_ms, timing)
    try:
        code = str(response.json()["error_code"])
    except (ValueError, KeyError, TypeError):
        code = "without an error code"
    told = f"{response.status_code} {code}"
    return Answer("refused" if told == "503 OVERLOADED" else told, waited_ms, timing, "Retry-After" in response.headers)


async def one_by_one(ask: Callable[[], Awaitable[Answer]], count: int, seconds: float, what: str) -> Phase:
    """``count`` requests of one caller, fewer if they take longer than ``seconds``."""
    phase = Phase()
    started = time.perf_counter()
    for _ in tqdm(range(count), desc=what, unit="request", file=sys.stderr, disable=None):
        phase.answers.append(await ask())
        phase.seconds = time.perf_counter() - started
        if phase.seconds > seconds:
            break
    return phase


async def closed_loop(ask: Callable[[], Awaitable[Answer]], callers: int, seconds: float) -> Phase:
    """Callers that each wait for their answer, and a little longer after a refusal."""
    phase = Phase()
    started = time.perf_counter()
    with tqdm(desc=f"{callers} callers", unit="request", file=sys.stderr, disable=None) as bar:

        async def caller() -> None:
            while time.perf_counter() - started < seconds:
                phase.answers.append(await ask())
                bar.update()
                if phase.answers[-1].outcome != "accepted":
                    await asyncio.sleep(PAUSE_S)

        await asyncio.gather(*(caller() for _ in range(callers)))
    phase.seconds = time.perf_counter() - started
    return phase


async def open_loop(ask: Callable[[], Awaitable[Answer]], per_s: float, seconds: float, what: str) -> Phase:
    """``per_s`` requests a second, whatever becomes of those before; ends when all are answered."""
    phase = Phase()
    open_requests: set[asyncio.Task[None]] = set()
    with tqdm(total=round(per_s * seconds), desc=what, unit="request", file=sys.stderr, disable=None) as bar:

        async def one() -> None:
            phase.answers.append(await ask())
            bar.update()

        started = time.perf_counter()
        for number in range(round(per_s * seconds)):
            await asyncio.sleep(max(0.0, started + number / per_s - time.perf_counter()))
            if len(open_requests) >= MAX_OPEN:
                phase.not_sent += 1
                continue
            task = asyncio.create_task(one())
            open_requests.add(task)
            task.add_done_callback(open_requests.discard)
        phase.seconds = time.perf_counter() - started
        await asyncio.gather(*open_requests)
    return phase


@asynccontextmanager
async def watched(look_at: Callable[[], None]) -> AsyncIterator[None]:
    """Calls ``look_at`` every now and then, meanwhile."""

    async def repeat() -> None:
        while True:
            look_at()
            await asyncio.sleep(MEMORY_EVERY_S)

    task = asyncio.create_task(repeat())
    try:
        yield
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task


def note_peak(memory: dict[str, dict[str, Held | None]], processes: dict[str, int]) -> None:
    """Keeps the most each process holds of its own."""
    for name, process in processes.items():
        held, peak = look(process), memory[name].get("peak")
        if held is not None and (peak is None or held.own_mb > peak.own_mb):
            memory[name]["peak"] = held
