"""Hostile bodies against a real `serve run`, over sockets: Serve's proxy and the ingress together."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import time
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


@pytest.mark.parametrize("target", [f"POST {REMOVE}", "POST /upload", "POST /segment", "GET /status/x", "GET /health"])
def test_ten_gigabytes_in_chunks_are_cut_at_the_limit(service: RunningService, target: str) -> None:
    before = resident_mb(service)
    assert len(before) == 2, before
    chunk = b"100000\r\n" + bytes(0x100000) + b"\r\n"
    sent = 0
    with connect(service) as connection:
        connection.sendall(f"{target} HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n".encode() + FORM + b"\r\n")
        connection.sendall(b'2f\r\n--b\r\nContent-Disposition: form-data; name="f"; f\r\n')
        with contextlib.suppress(OSError):
            while sent < 10 * GIB:
                connection.sendall(chunk)
                sent += len(chunk)
    assert sent < 0.2 * GIB
    after = resident_mb(service)
    grown = {name: after.get(name, 0) - size for name, size in before.items()}
    print(target, f"{sent / 2**20:.0f} MiB sent", {name: f"{size:+.0f} MB" for name, size in grown.items()})
    assert after.keys() == before.keys()
    assert max(grown.values()) < 250
    assert httpx.get(f"{service.url}/healthz").status_code == 200


def test_who_is_cut_off_can_read_why(service: RunningService) -> None:
    with connect(service) as connection:
        connection.sendall(
            f"POST {REMOVE} HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n".encode() + FORM + b"\r\n"
        )
        for _ in range(12):
            connection.sendall(b"100000\r\n" + bytes(0x100000) + b"\r\n")
        status, headers, body = answer_on(connection)
    assert (status, json.loads(body)["error_code"]) in [(413, "FILE_TOO_LARGE"), (422, "INVALID_REQUEST")]
    assert headers["connection"] == "close"
    assert headers["x-frame-options"] == "DENY"


def test_hundreds_of_slow_senders_stop_nobody_and_are_cut_off(service: RunningService, photo: Path) -> None:
    data = photo.read_bytes()

    def remove() -> tuple[int, float]:
        started = time.monotonic()
        answer = httpx.post(service.url + REMOVE, files={"image": ("a.jpg", data, "image/jpeg")}, timeout=60)
        return answer.status_code, time.monotonic() - started

    assert remove()[0] == 200
    address = urlsplit(service.url)

    async def slow_sender() -> bytes:
        reader, writer = await asyncio.open_connection(address.hostname, address.port)
        head = f"POST {REMOVE} HTTP/1.1\r\nHost: x\r\nContent-Length: 9000000\r\n"
        writer.write(head.encode() + FORM + b"\r\n--b\r\n")
        with contextlib.suppress(OSError):
            while not reader.at_eof():
                writer.write(b"x")
                await writer.drain()
                with contextlib.suppress(TimeoutError):
                    return await asyncio.wait_for(reader.readline(), 0.5)
        return b""

    async def everybody() -> tuple[list[bytes], list[tuple[int, float]], float]:
        started = time.monotonic()
        slow = [asyncio.create_task(slow_sender()) for _ in range(SLOW_SENDERS)]
        await asyncio.sleep(1.5)
        normal = [await asyncio.to_thread(remove) for _ in range(5)]
        return await asyncio.gather(*slow), normal, time.monotonic() - started

    answers, normal, elapsed_s = asyncio.run(everybody())
    told = {line.split()[1].decode() if line else "cut": answers.count(line) for line in set(answers)}
    print(
        "slow:", told, "normal:", [(status, round(s, 2)) for status, s in normal], f"all over after {elapsed_s:.1f} s"
    )
    assert [status for status, _ in normal] == [200] * 5
    assert set(told) <= {"408", "503"}
    assert told.get("408", 0) > 0
    assert elapsed_s < 5 * TIMEOUT_S


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
