"""S3 servers as they are on bad days: silent, cut off, refusing."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


@contextmanager
def silent_server() -> Iterator[str]:
    """Takes connections and never says a word."""
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen(64)  # the kernel takes the connections; nobody reads them
        yield f"http://127.0.0.1:{listening.getsockname()[1]}"


def closed_port() -> str:
    """An address where nobody listens."""
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{listening.getsockname()[1]}"


@dataclass
class Answers:
    """What a server says to every request.

    Attributes:
        status: Of each answer.
        body: Of each answer.
        sent: How many bytes of the body come before the server falls silent; None for all.
        requests: Method, path, ``Range`` and ``If-Match`` of what was asked.
    """

    status: int = 200
    body: bytes = b""
    sent: int | None = None
    requests: list[tuple[str, str, str | None, str | None]] = field(default_factory=list)
    closing: threading.Event = field(default_factory=threading.Event)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    answers: Answers

    def _answer(self) -> None:
        answers = self.answers
        self.rfile.read(int(self.headers.get("Content-Length", 0)))
        pinned = self.headers.get("If-Match")
        answers.requests.append((self.command, self.path, self.headers.get("Range"), pinned))
        self.send_response(answers.status)
        self.send_header("Content-Length", str(len(answers.body)))
        self.send_header("ETag", '"tag"')
        self.send_header("Last-Modified", "Sat, 21 Nov 2026 07:00:00 GMT")
        if answers.status == 206:
            self.send_header("Content-Range", f"bytes 0-{len(answers.body) - 1}/{len(answers.body)}")
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(answers.body[: answers.sent])
            self.wfile.flush()
            if answers.sent is not None:
                answers.closing.wait(30)
                self.close_connection = True

    do_GET = do_HEAD = do_PUT = do_POST = do_DELETE = _answer

    def log_message(self, format: str, *args: object) -> None:
        pass


@contextmanager
def answering_server(answers: Answers) -> Iterator[str]:
    """Says ``answers`` to everybody."""
    handler = type("Handler", (_Handler,), {"answers": answers})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        answers.closing.set()
        server.shutdown()
        thread.join()
        server.server_close()
