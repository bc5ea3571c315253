"""The receiver of callbacks."""

from __future__ import annotations

import base64
import hmac
import json

import httpx
import pytest

from scripts.chaos_parts.receiver import Receiver, receiving


def send(receiver: Receiver, job_id: str, delivery: str, state: str = "ready", secret: str | None = None) -> None:
    body = json.dumps({"job_id": job_id, "status": state}).encode()
    digest = hmac.digest((secret or receiver.secret).encode(), f"{delivery}.12.".encode() + body, "sha256")
    headers = {
        "webhook-id": delivery,
        "webhook-timestamp": "12",
        "webhook-signature": "v1," + base64.b64encode(digest).decode(),
    }
    assert httpx.post(receiver.url, content=body, headers=headers, trust_env=False).status_code == 204


@pytest.fixture
def receiver() -> Receiver:
    with receiving() as receiver:
        yield receiver


def test_deliveries_are_told_apart_by_their_ids(receiver: Receiver) -> None:
    send(receiver, "a", "1")
    send(receiver, "a", "1")
    send(receiver, "b", "2")
    send(receiver, "b", "3", "error")
    receiver.wait_for({"a", "b"}, 5)
    assert receiver.deliveries == {"a": {"1": 2}, "b": {"2": 1, "3": 1}}
    assert receiver.states == {"a": "ready", "b": "error"}
    assert (receiver.repeats, receiver.problems) == (1, [])


def test_a_callback_with_another_secret_is_a_problem(receiver: Receiver) -> None:
    send(receiver, "a", "1", secret="not ours")
    assert receiver.problems == ["delivery 1 is not signed with our secret"]
