"""A web server on loopback that serves files well or badly, as each test asks."""

from __future__ import annotations

import contextlib
import re
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


@dataclass
class Served:
    """One file, and how it is served.

    Attributes:
        data: Its bytes.
        knows_ranges: Whether ``Range`` is obeyed.
        breaks_off_after: Bytes of each answer after which the connection is cut.
        status: Anything but 200: an error page.
        content_type: Of the answer.
        hangs_before: Whether nothing comes at all, not even a header.
        hangs_after: Bytes after which nothing more comes, and the connection stays.
        redirect: Where it went.
    """

    data: bytes = b""
    knows_ranges: bool = True
    breaks_off_after: int | None = None
    status: int = 200
    content_type: str = "application/octet-stream"
    hangs_before: bool = False
    hangs_after: int | None = None
    redirect: str | None = None


@dataclass
class FileServer:
    """Files by path, and the requests that came.

    Attributes:
        url: Its address, without a slash at the end.
        files: What it serves; tests fill it.
        requests: Path and ``Range`` header of every request, in order.
    """

    url: str
    files: dict[str, Served] = field(default_factory=dict)
    requests: list[tuple[str, str | None]] = field(default_factory=list)
    closing: threading.Event = field(default_factory=threading.Event)

    def add(self, path: str, served: Served) -> str:
        """The address of a new file."""
        self.files[path] = served
        return f"{self.url}{path}"


class _Handler(BaseHTTPRequestHandler):
    server: _Server

    def do_GET(self) -> None:
        shared = self.server.shared
        shared.requests.append((self.path, self.headers.get("Range")))
        served = shared.files.get(self.path, Served(status=404))
        if served.hangs_before:
            shared.closing.wait(20)
            return
        if served.redirect is not None:
            self.send_response(302)
            self.send_header("Location", served.redirect)
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        if served.status != 200:
            self.send_error(served.status)
            return
        self._send(served)

    def _send(self, served: Served) -> None:
        start = 0
        asked = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", ""))
        if asked and served.knows_ranges:
            start = int(asked[1])
            if start >= len(served.data):
                self.send_error(416)
                return
            self.send_response(206)
            self.send_header("Content-Range", f"bytes {start}-{len(served.data) - 1}/{len(served.data)}")
        else:
            self.send_response(200)
        self.send_header("Content-Type", served.content_type)
        self.send_header("Content-Length", str(len(served.data) - start))
        self.end_headers()
        body = served.data[start:]
        end = min(n for n in (len(body), served.breaks_off_after, served.hangs_after) if n is not None)
        with contextlib.suppress(ConnectionError):
            self.wfile.write(body[:end])
            self.wfile.flush()
        if served.hangs_after is not None:
            self.server.shared.closing.wait(20)

    def log_message(self, format: str, *args: object) -> None:
        pass


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = True
    shared: FileServer


@contextlib.contextmanager
def serve_files() -> Iterator[FileServer]:
    server = _Server(("127.0.0.1", 0), _Handler)
    server.shared = FileServer(f"http://127.0.0.1:{server.server_address[1]}")
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield server.shared
    finally:
        server.shared.closing.set()
        server.shutdown()
        thread.join()
        server.server_close()
