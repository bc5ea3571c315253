"""Keys and limits on a real service with two ingress replicas, counted by its actor and by Redis."""

from __future__ import annotations

import concurrent.futures
import contextlib
import os
import re
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest
import yaml

from tests.servers import redis
from tests.stub_models import encode, photo
from tests.system.conftest import ROOT, RunningService, start_service, wait_until_ready

pytestmark = [pytest.mark.slow, pytest.mark.long, pytest.mark.system, pytest.mark.timeout(500)]

PROXY = "127.0.0.2"  # an address of this machine, as all of 127.0.0.0/8
CLIENTS = ("203.0.113.1", "203.0.113.2", "2001:db8:0:3::1")
CALLS = 200
AT_ONCE = 3
PER_MINUTE = 30


@dataclass
class Setting:
    """A service behind a trusted proxy, and where it keeps its keys."""

    service: RunningService
    work_dir: Path

    def client(self, address: str | None = None, *, by: str = PROXY, **headers: str) -> httpx.Client:
        """Somebody at ``address``, as ``by`` tells the service; who has the address ``by`` without one."""
        told = {"X-Forwarded-For": address} if address else {}
        transport = httpx.HTTPTransport(local_address=by)
        return httpx.Client(base_url=self.service.url, transport=transport, headers={**told, **headers}, timeout=60)

    def keys(self, *arguments: str) -> str:
        """What scripts/api_keys.py prints."""
        environment = {**os.environ, "WORK_DIR": str(self.work_dir)}
        command = [sys.executable, str(ROOT / "scripts/api_keys.py"), *arguments]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, check=True)
        return done.stdout.strip()


@pytest.fixture(scope="module", params=["actor", "redis"])
def setting(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Setting]:
    folder = tmp_path_factory.mktemp(f"limits-{request.param}")
    config = yaml.safe_load((ROOT / "serve_config.yaml").read_text())
    application = config["applications"][0]
    others = [known for known in application.get("deployments", []) if known["name"] != "Ingress"]
    application["deployments"] = [*others, {"name": "Ingress", "num_replicas": 2}]
    (folder / "serve_config.yaml").write_text(yaml.safe_dump(config))
    # RAY_DEDUP_LOGS: every line of every replica is to be seen.
    environment = {"TRUSTED_PROXIES": PROXY, "RATE_LIMIT_PER_MINUTE": str(PER_MINUTE), "RAY_DEDUP_LOGS": "0"}
    with contextlib.ExitStack() as stack:
        if request.param == "redis":
            program = redis.program()
            if program is None:
                pytest.skip("Redis's server is not installed (Debian: apt-get install redis-server)")
            server = redis.RedisServer(program)
            stack.callback(server.remove)
            environment["REDIS_URL"] = server.url
        running = start_service(folder, [str(folder / "serve_config.yaml")], **environment)
        stack.callback(lambda: running.process.poll() is None and running.stop())
        wait_until_ready(running)
        wait_for_line(running, "Clearcut is ready")  # both replicas
        yield Setting(running, folder / "work")


def wait_for_line(service: RunningService, text: str) -> None:
    deadline = time.monotonic() + 60
    while text not in service.log.read_text(errors="replace"):
        assert time.monotonic() < deadline, service.log.read_text(errors="replace")[-4000:]
        time.sleep(0.1)


def burst(setting: Setting, calls: int = CALLS) -> dict[str, Counter[str]]:
    """Calls of three clients, each with as many connections as it may have; the answers of each, counted."""
    files = {"file": ("photo.png", encode(photo()), "image/png")}
    answers: dict[str, Counter[str]] = {address: Counter() for address in CLIENTS}
    shares = {address: iter(range(len(range(number, calls, len(CLIENTS))))) for number, address in enumerate(CLIENTS)}
    lock = threading.Lock()

    def work(address: str) -> None:
        with setting.client(address) as client:
            while True:
                with lock:
                    if next(shares[address], None) is None:
                        return
                answer = client.post("/upload", files=files)
                with lock:
                    told = answer.json().get("detail", "") if answer.status_code != 200 else ""
                    answers[address][f"{answer.status_code} {told}".strip()] += 1

    with concurrent.futures.ThreadPoolExecutor(len(CLIENTS) * AT_ONCE) as pool:
        for done in [pool.submit(work, address) for address in CLIENTS for _ in range(AT_ONCE)]:
            done.result()
    return answers


def test_exactly_the_allowed_number_passes_each_window(setting: Setting) -> None:
    refused = f"429 Rate limit exceeded: {PER_MINUTE} requests per minute"
    for window in (1, 2):
        began = time.monotonic()
        answers = burst(setting)
        took_s = time.monotonic() - began
        assert took_s < 55, f"{CALLS} calls took {took_s:.0f} s: too long for one window"
        for address, counted in answers.items():
            assert counted == {"200": PER_MINUTE, refused: sum(counted.values()) - PER_MINUTE}, (window, address)
        assert sum(sum(counted.values()) for counted in answers.values()) == CALLS
        if window == 1:
            with setting.client(CLIENTS[0]) as client:
                while client.get("/account").json()["use"]["requests_last_minute"]:
                    time.sleep(0.5)
            time.sleep(took_s)  # the other clients' last calls may have come later

    log = setting.service.log.read_text(errors="replace")
    assert len(set(re.findall(r"Ingress pid=(\d+)\).* POST /upload 200", log))) == 2
    assert "counts for itself" not in log


def test_nobody_on_the_same_host_can_take_another_address(setting: Setting) -> None:
    answers = []
    for number in range(PER_MINUTE + 3):
        with setting.client(f"198.51.100.{number}", by="127.0.0.1") as client:
            answers.append(client.post("/segment").status_code)

    assert answers == [422] * PER_MINUTE + [429] * 3


def test_a_refusal_comes_before_the_body_is_sent(setting: Setting) -> None:
    with setting.client("203.0.113.77") as client:
        for _ in range(PER_MINUTE):
            client.post("/segment")

    def endless() -> Iterator[bytes]:
        yield b"{"
        for _ in range(600):
            time.sleep(0.1)
            yield b" "

    began = time.monotonic()
    with (
        setting.client("203.0.113.77") as client,
        client.stream("POST", "/segment", content=endless(), headers={"Content-Type": "application/json"}) as answer,
    ):
        status, connection = answer.status_code, answer.headers.get("connection")
    assert (status, connection) == (429, "close")
    assert time.monotonic() - began < 30


def test_a_key_opens_its_own_jobs_until_it_is_revoked(setting: Setting) -> None:
    mine, theirs = (setting.keys("create", "--tier", "pro", "--name", name) for name in ("mine", "theirs"))
    files = {"file": ("photo.png", encode(photo()), "image/png")}
    with setting.client("203.0.113.5", **{"X-API-Key": mine}) as client:
        job_id = client.post("/upload", files=files).json()["job_id"]
        told = client.get("/account").json()
        assert (told["tier"], told["name"], told["use"]["requests_last_minute"]) == ("pro", "mine", 1)
        for headers in ({"X-API-Key": theirs}, {}):
            with setting.client("203.0.113.5", **headers) as other:
                assert other.get(f"/status/{job_id}").status_code == 404

        setting.keys("revoke", "mine")
        deadline = time.monotonic() + 45
        in_a_row = 0
        while in_a_row < 20:  # at both replicas: each remembers the key for a while of its own
            assert time.monotonic() < deadline, "A revoked key still opens."
            time.sleep(0.1)
            refused = client.get(f"/status/{job_id}")
            in_a_row = in_a_row + 1 if refused.status_code == 401 else 0
    assert refused.json()["error_code"] == "UNAUTHORIZED"
    setting.keys("revoke", "theirs")
