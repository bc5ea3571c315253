"""Hostile bodies against a real `serve run`, over sockets: Serve's proxy and the ingress together."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import pytest

from tests.system.conftest import RunningService, descendants, running_service

pytestmark = [pytest.mark.system, pytest.mark.slow, pytest.mark.timeout(300)]

REMOVE = "/api/background-removal/remove"
GIB = 1024**3
TIMEOUT_S = 6
SLOW_SENDERS = 200
FORM = b"Content-Type: multipart/form-data; boundary=b\r\n"


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningService]:
    folder = tmp_path_factory.mktemp("bodies")
    settings = {"UPLOAD_TIMEOUT_S": str(TIMEOUT_S), "LOG_FILE": str(folder / "logs" / "service.log")}
    with running_service(folder, RATE_LIMIT_PER_MINUTE="0", **settings) as running:
        yield running


def connect(service: RunningService) -> socket.socket:
    address = urlsplit(service.url)
    assert address.hostname
    assert address.port
    return socket.create_connection((address.hostname, address.port), timeout=60)


def answer_on(connection: socket.socket) -> tuple[int, dict[str, str], bytes]:
    received = b""
    with contextlib.suppress(ConnectionResetError):
        while part := connection.recv(65536):
            received += part
    head, _, body = received.partition(b"\r\n\r\n")
    first, *lines = head.decode("latin-1").split("\r\n")
    return int(first.split()[1]), {k.lower(): v for k, v in (line.split(": ", 1) for line in lines)}, body


def resident_mb(service: RunningService) -> dict[str, float]:
    """Memory of the proxy and of the ingress."""
    found: dict[str, float] = {}
    for pid in descendants(service.process.pid):
        with contextlib.suppress(OSError):
            name = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")[0].decode()
            if "Proxy" in name or "Ingress" in name:
                fields = dict(
                    line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines() if ":" in line
                )
                found[f"{name.split('.')[0]}:{pid}"] = int(fields["VmRSS"].split()[0]) / 1024
    return found


PREAMBLE = b'--b\r\nContent-Disposition: form-data; name="%s"; filename="a.png"\r\n\r\n'
MIB_CHUNK = b"100000\r\n" + bytes(0x100000) + b"\r\n"


def begin_endless(connection: socket.socket, target: str) -> None:
    """Sends the head of a request, and a first chunk with the beginning of a form."""
    preamble = PREAMBLE % (b"file" if target.endswith("/upload") else b"image")
    connection.sendall(f"{target} HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n".encode() + FORM + b"\r\n")
    connection.sendall(f"{len(preamble):x}\r\n".encode() + preamble + b"\r\n")


@pytest.mark.parametrize(
    ("target", "status", "limit_mib"),
    [
        (f"POST {REMOVE}", 413, 10),
        ("POST /upload", 413, 50),
        ("POST /segment", 413, 1),
        ("GET /status/x", 404, 0),
        ("GET /health", 200, 0),
    ],
)
def test_ten_gigabytes_in_chunks_are_cut_at_the_limit(
    service: RunningService, target: str, status: int, limit_mib: int
) -> None:
    before = resident_mb(service)
    assert len(before) == 2, before
    sent = 0
    with connect(service) as connection:
        begin_endless(connection, target)
        with contextlib.suppress(OSError):
            while sent < 10 * GIB:
                connection.sendall(MIB_CHUNK)
                sent += len(MIB_CHUNK)
    after = resident_mb(service)
    grown = {name: after.get(name, 0) - size for name, size in before.items()}
    print(target, f"{sent / 2**20:.0f} MiB sent", {name: f"{size:+.0f} MB" for name, size in grown.items()})
    assert limit_mib * 2**20 <= sent < 0.5 * GIB
    assert after.keys() == before.keys()
    assert max(grown.values()) < 250
    assert httpx.get(f"{service.url}/healthz").status_code == 200
    with connect(service) as connection:  # the same, by a sender who stops in time to read why
        begin_endless(connection, target)
        for _ in range(limit_mib + 1):
            connection.sendall(MIB_CHUNK)
        told, headers, _ = answer_on(connection)
    assert (told, headers["connection"]) == (status, "close")


def test_hundreds_of_slow_senders_stop_nobody_and_are_cut_off(service: RunningService, photo: Path) -> None:
    data = photo.read_bytes()

    def remove() -> tuple[int, float]:
        started = time.monotonic()
        answer = httpx.post(service.url + REMOVE, files={"image": ("a.jpg", data, "image/jpeg")}, timeout=60)
        return answer.status_code, time.monotonic() - started

    assert remove()[0] == 200
    address = urlsplit(service.url)

    async def slow_sender() -> str:
        """Sends a byte now and then until it is cut off; comes again when it is turned away."""
        head = f"POST /upload HTTP/1.1\r\nHost: x\r\nContent-Length: {9 * 2**20}\r\n".encode() + FORM + b"\r\n--b\r\n"
        while True:
            reader, writer = await asyncio.open_connection(address.hostname, address.port)
            answered = asyncio.ensure_future(reader.readline())
            with contextlib.suppress(OSError):
                writer.write(head)
                while not answered.done():
                    writer.write(b"x")
                    await writer.drain()
                    await asyncio.wait([answered], timeout=0.5)
            line = await answered
            writer.close()
            with contextlib.suppress(OSError):
                await writer.wait_closed()
            status = line.split()[1].decode() if line else "cut"
            if status != "503":
                return status

    async def everybody() -> tuple[list[str], list[tuple[int, float]], float]:
        started = time.monotonic()
        slow = [asyncio.create_task(slow_sender()) for _ in range(SLOW_SENDERS)]
        await asyncio.sleep(3)
        normal = [await asyncio.to_thread(remove) for _ in range(5)]
        return await asyncio.gather(*slow), normal, time.monotonic() - started

    answers, normal, elapsed_s = asyncio.run(everybody())
    rounded = [(status, round(seconds, 2)) for status, seconds in normal]
    print("slow:", dict(Counter(answers)), "normal:", rounded, f"all over after {elapsed_s:.1f} s")
    assert [status for status, _ in normal] == [200] * 5
    assert Counter(answers) == {"408": SLOW_SENDERS}
    assert elapsed_s < 6 * TIMEOUT_S


def test_the_proxy_repeats_no_hostile_id_and_obeys_no_client(service: RunningService) -> None:
    kept = httpx.get(f"{service.url}/health", headers={"X-Request-ID": "order-66.a_b"})
    assert kept.headers.get_list("x-request-id") == ["order-66.a_b"]
    for hostile in ("<script>alert(1)</script>", "a" * 5000, "a b", "${jndi:x}"):
        answer = httpx.get(f"{service.url}/status/x", headers={"X-Request-ID": hostile})
        assert answer.headers["x-request-id"] != hostile
        assert answer.json()["request_id"] == answer.headers["x-request-id"]
    steered = httpx.get(f"{service.url}/health", headers={"X-Request-Timeout-Seconds": "0.0001"})
    assert steered.status_code == 200


@pytest.mark.parametrize(
    "path", ["/download/../../etc/passwd", "/status/../../..", "//etc/passwd", "/download/a/..%2f..%2fjobs.db", "/%00"]
)
def test_raw_paths_lead_nowhere(service: RunningService, path: str) -> None:
    with connect(service) as connection:
        connection.sendall(f"GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n".encode())
        status, headers, body = answer_on(connection)
    assert status == 404
    assert json.loads(body)["error_code"] in ("NOT_FOUND", "JOB_NOT_FOUND")
    assert headers["x-content-type-options"] == "nosniff"


def test_the_log_file_has_a_line_for_each_request_and_no_secrets(service: RunningService, photo: Path) -> None:
    files = {"image": ("holiday-in-rome.jpg", photo.read_bytes(), "image/jpeg")}
    answer = httpx.post(f"{service.url}{REMOVE}?token=hush", files=files, timeout=60)
    assert answer.status_code == 200
    path = service.log.parent / "logs" / "service.log"
    deadline = time.monotonic() + 10
    while answer.headers["x-request-id"] not in path.read_text() and time.monotonic() < deadline:
        time.sleep(0.1)
    lines = [json.loads(text) for text in path.read_text().splitlines()]
    (line,) = [
        line
        for line in lines
        if line.get("event") == "request" and line["request_id"] == answer.headers["x-request-id"]
    ]
    assert (line["route"], line["status"], line["bytes_out"]) == (REMOVE, 200, len(answer.content))
    assert "holiday" not in path.read_text()
    assert "hush" not in path.read_text()
