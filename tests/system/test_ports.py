"""Who listens where, and what answers without the cluster's token."""

from __future__ import annotations

import contextlib
import ipaddress
import os
import re
from pathlib import Path

import grpc
import httpx
import pytest

from tests.system.conftest import RunningService, descendants

pytestmark = [pytest.mark.system, pytest.mark.timeout(300)]

LISTEN = "0A"
# One method of each kind of server that Ray starts; a port knows one of them, and must refuse it.
METHODS = [
    "/ray.rpc.JobInfoGcsService/GetAllJobInfo",
    "/ray.rpc.NodeManagerService/GetNodeStats",
    "/ray.rpc.ObjectManagerService/Pull",
    "/ray.rpc.CoreWorkerService/GetCoreWorkerStats",
    "/ray.rpc.ReporterService/GetTraceback",
    "/ray.serve.ASGIService/HandleRequest",
]


def listeners(pid: int) -> set[tuple[str, int]]:
    """Address and port of every TCP socket that the process or one below it listens on."""
    own = set()
    for process in descendants(pid) | {pid}:
        with contextlib.suppress(OSError):
            for entry in (Path("/proc") / str(process) / "fd").iterdir():
                with contextlib.suppress(OSError):
                    own.add(os.readlink(entry))
    found = set()
    for table in ("/proc/net/tcp", "/proc/net/tcp6"):
        for line in Path(table).read_text().splitlines()[1:]:
            _, local, _, state, *rest = line.split()
            if state == LISTEN and f"socket:[{rest[5]}]" in own:
                address, port = local.split(":")
                words = b"".join(bytes.fromhex(address)[i : i + 4][::-1] for i in range(0, len(address) // 2, 4))
                ip = ipaddress.ip_address(words)
                found.add((str(getattr(ip, "ipv4_mapped", None) or ip), int(port, 16)))
    return found


@pytest.fixture
def ports(service: RunningService) -> set[tuple[str, int]]:
    found = listeners(service.process.pid)
    assert len(found) > 10, "Ray listens on many"
    return found


@pytest.fixture
def dashboard(service: RunningService) -> str:
    """Where Ray says, as it starts, that its dashboard is."""
    said = re.search(r"View the dashboard at .*?(http://[\w.:]+)", service.log.read_text(errors="replace"))
    assert said is not None
    return said[1]


def test_the_service_and_the_dashboard_listen_on_loopback_alone(
    service: RunningService, dashboard: str, ports: set[tuple[str, int]]
) -> None:
    for url in (service.url, dashboard):
        assert {address for address, port in ports if port == httpx.URL(url).port} == {"127.0.0.1"}, url


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/api/jobs/"),
        ("POST", "/api/jobs/"),
        ("PUT", "/api/serve/applications/"),
        ("DELETE", "/api/serve/applications/"),
        ("GET", "/nodes?view=summary"),
        ("GET", "/logs"),
        ("GET", "/api/version"),
    ],
)
def test_the_dashboard_does_nothing_without_the_token(dashboard: str, method: str, path: str) -> None:
    answer = httpx.request(method, dashboard + path, json={} if method in ("POST", "PUT") else None, trust_env=False)
    assert answer.status_code == httpx.codes.UNAUTHORIZED


def test_every_port_that_others_can_reach_refuses_without_the_token(ports: set[tuple[str, int]]) -> None:
    """A port speaks gRPC and knows a method of ours, which it refuses; or HTTP, and only shows figures or health."""
    reachable = sorted((address, port) for address, port in ports if not ipaddress.ip_address(address).is_loopback)
    assert reachable, "Ray is known to listen on every interface"
    told = {
        (address, port): refusal("127.0.0.1" if address in ("0.0.0.0", "::") else address, port)
        for address, port in reachable
    }
    assert set(told.values()) <= {"UNAUTHENTICATED", "metrics", "401"}, told
    assert "UNAUTHENTICATED" in told.values()


def refusal(host: str, port: int) -> str:
    """What a caller without a token gets there: UNAUTHENTICATED of gRPC, 401 of HTTP, or metrics."""
    try:
        answer = httpx.post(
            f"http://{host}:{port}/get_or_create_runtime_env", content=b"{}", timeout=5, trust_env=False
        )
    except httpx.HTTPError:
        return grpc_refusal(host, port)
    if answer.status_code == httpx.codes.UNAUTHORIZED:
        return "401"
    page = httpx.get(f"http://{host}:{port}/metrics", timeout=5, trust_env=False)
    return "metrics" if page.text.startswith("# HELP") else f"HTTP {answer.status_code}"


def grpc_refusal(host: str, port: int) -> str:
    codes = set()
    with grpc.insecure_channel(f"{host}:{port}") as channel:
        for method in METHODS:
            try:
                channel.unary_unary(method)(b"", timeout=10)
            except grpc.RpcError as error:
                codes.add(error.code().name)
            else:
                return f"{method} answered"
    return "+".join(sorted(codes - {"UNIMPLEMENTED"}))
