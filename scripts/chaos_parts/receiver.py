"""A receiver of callbacks on loopback that remembers whom it heard of, and by which delivery."""

from __future__ import annotations

import base64
import contextlib
import hmac
import json
import secrets
import threading
from collections import Counter
from collections.abc import Iterator, Set
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


class Receiver:
    """What came so far. Its secret signs what is sent to it.

    Attributes:
        deliveries: For each job how often each delivery id came.
        states: For each job the state of the last callback.
        problems: What no callback should be: unsigned, unreadable, answered twice with other words.
    """

    def __init__(self) -> None:
        self.secret = secrets.token_hex(16)
        self.port = 0
        self.deliveries: dict[str, Counter[str]] = {}
        self.states: dict[str, str] = {}
        self.problems: list[str] = []
        self._news = threading.Condition()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/hook"

    def environment(self) -> dict[str, str]:
        """What lets a service send its callbacks here."""
        return {
            "CALLBACK_HOSTS": f"127.0.0.1:{self.port}",
            "CALLBACK_PRIVATE_NETWORKS": "127.0.0.0/8",
            "CALLBACK_SECRET": self.secret,
        }

    def receive(self, headers: dict[str, str], body: bytes) -> None:
        """Keeps one callback; header names are in lower case."""
        delivery = headers.get("webhook-id", "")
        signed = f"{delivery}.{headers.get('webhook-timestamp', '')}.".encode() + body
        signature = "v1," + base64.b64encode(hmac.digest(self.secret.encode(), signed, "sha256")).decode()
        with self._news:
            if not hmac.compare_digest(signature, headers.get("webhook-signature", "")):
                self.problems.append(f"delivery {delivery} is not signed with our secret")
            status = json.loads(body)
            self.deliveries.setdefault(status["job_id"], Counter())[delivery] += 1
            self.states[status["job_id"]] = status["status"]
            self._news.notify_all()

    def wait_for(self, job_ids: Set[str], timeout_s: float) -> None:
        """Returns once a callback has come for each of these jobs, or after ``timeout_s``. It blocks."""
        with self._news:
            self._news.wait_for(lambda: job_ids <= self.deliveries.keys(), timeout_s)

    @property
    def repeats(self) -> int:
        """Deliveries that came again under the same id."""
        return sum(times - 1 for counts in self.deliveries.values() for times in counts.values())


@contextlib.contextmanager
def receiving() -> Iterator[Receiver]:
    """A receiver that listens on a free port of 127.0.0.1, in a thread."""
    receiver = Receiver()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length", "0")))
            receiver.receive({name.lower(): value for name, value in self.headers.items()}, body)
            self.send_response(204)
            self.end_headers()

        def log_message(self, format: str, *args: Any) -> None:
            """Nobody reads a line per request."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        receiver.port = server.server_port
        thread = threading.Thread(target=server.serve_forever, name="receiver", daemon=True)
        thread.start()
        try:
            yield receiver
        finally:
            server.shutdown()
            thread.join()
