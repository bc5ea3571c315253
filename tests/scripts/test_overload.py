"""``benchmark.py --overload``: what is sent, how answers are told apart, and which promises count as broken."""

from __future__ import annotations

import asyncio
from typing import Any

import httpx
import pytest

from scripts import overload
from scripts.memory_soak import Held
from scripts.overload import Answer, Form, Overload, Phase, closed_loop, one_by_one, open_loop, send
from scripts.overload_report import broken_promises, figures, report

FORM = Form.of("p.jpg", b"pixels", "image/jpeg")
BUSY = {"error_code": "OVERLOADED"}


def client(answer: httpx.Response | Exception) -> httpx.AsyncClient:
    def respond(request: httpx.Request) -> httpx.Response:
        if isinstance(answer, Exception):
            raise answer
        return answer

    return httpx.AsyncClient(transport=httpx.MockTransport(respond), base_url="http://clearcut")


def test_the_form_holds_the_photo_in_the_field_of_removals() -> None:
    assert b'name="image"; filename="p.jpg"' in FORM.body
    assert b"pixels" in FORM.body
    assert FORM.content_type.startswith("multipart/form-data; boundary=")


@pytest.mark.parametrize(
    ("answer", "outcome"),
    [
        (httpx.Response(200), "accepted"),
        (httpx.Response(503, json=BUSY), "refused"),
        (httpx.Response(503, json={"error_code": "MODEL_NOT_LOADED"}), "503 MODEL_NOT_LOADED"),
        (httpx.Response(503, text="Request dropped due to backpressure"), "503 without an error code"),
        (httpx.ReadError("reset"), "ReadError"),
    ],
)
async def test_answers_are_told_apart(answer: httpx.Response | Exception, outcome: str) -> None:
    async with client(answer) as http:
        assert (await send(http, FORM)).outcome == outcome


async def test_a_refusal_keeps_what_the_service_told() -> None:
    headers = {"Server-Timing": "admission;dur=0.25", "Retry-After": "1"}
    async with client(httpx.Response(503, json=BUSY, headers=headers)) as http:
        answer = await send(http, FORM)
    assert (answer.timing_ms, answer.has_retry_after) == ({"admission": 0.25}, True)


async def accept() -> Answer:
    return Answer("accepted", 1.0, {})


async def test_one_caller_sends_so_many() -> None:
    assert len((await one_by_one(accept, 5, 60, "")).answers) == 5


async def test_callers_end_with_the_time() -> None:
    phase = await closed_loop(lambda: asyncio.sleep(0.001, Answer("accepted", 1.0, {})), 3, 0.05)
    assert phase.seconds >= 0.05
    assert phase.rate() == pytest.approx(len(phase.answers) / phase.seconds)


async def test_an_open_loop_waits_for_nobody_and_knows_what_it_could_not_send(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(overload, "MAX_OPEN", 3)
    release = asyncio.Event()

    async def hang() -> Answer:
        await release.wait()
        return await accept()

    asyncio.get_running_loop().call_later(0.2, release.set)
    phase = await open_loop(hang, per_s=100, seconds=0.1, what="")
    assert (len(phase.answers), phase.not_sent) == (3, 7)
    assert phase.seconds < 0.2


def measured(**changed: Any) -> Overload:
    accepted = [Answer("accepted", 250.0, {"infer": 100.0, "total": 230.0})] * 10
    refused = [Answer("refused", 12.0, {"admission": 0.2}, has_retry_after=True)] * 90
    flood = Phase([*accepted, *refused], seconds=2.0)
    idle = Phase([Answer("accepted", 100.0, {"total": 90.0})] * 20, seconds=2.0)
    memory = {"Ingress (7)": {"before": Held(200, 100), "peak": Held(300, 200), "after": None}}
    return Overload(**{**vars(Overload(idle, idle, flood, idle, 100.0, memory, 0.1)), **changed})


def test_a_service_that_bends_breaks_no_promise() -> None:
    told = figures(measured())
    assert broken_promises(told) == []
    assert (told["accepted"], told["refused"], told["accepted_per_s"]) == (10, 90, 5.0)
    assert told["accepted_p95_times_idle_p95"] == 2.5
    assert told["stages_p50_ms"]["overload"] == {"infer": 100.0, "total": 230.0, "outside": 20.0}


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (Answer("accepted", 300.0, {}), "3.0 times idle"),
        (Answer("refused", 1.0, {"admission": 100.0}, has_retry_after=True), "100.0 ms"),
        (Answer("refused", 1.0, {"admission": 0.2}), "Retry-After"),
        (Answer("refused", 1.0, {}, has_retry_after=True), "Server-Timing"),
        (Answer("ReadError", 1.0, {}), "ReadError"),
    ],
)
def test_a_broken_promise_is_named(answer: Answer, words: str) -> None:
    flood = Phase([Answer("accepted", 250.0, {}), *[answer] * 10], seconds=2.0)
    assert any(words in promise for promise in broken_promises(figures(measured(flood=flood))))


def test_an_overload_in_which_nothing_is_accepted_breaks_one() -> None:
    assert broken_promises(figures(measured(flood=Phase([], seconds=1.0))))


def test_the_report_shows_each_process_with_its_memory() -> None:
    text = report(figures(measured()))
    assert "refused              90 with 503 OVERLOADED" in text
    assert text.splitlines()[-1].split() == ["Ingress", "(7)", "100", "200", "ended"]
