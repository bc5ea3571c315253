"""One real service for all system tests: `serve run` as a user starts it, on a free port and in a folder of its own."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
START_TIMEOUT_S = 300  # a first start with weights compiles the networks


@dataclass
class RunningService:
    """A service process: where it answers, what it printed, and its process."""

    url: str
    log: Path
    process: subprocess.Popen[bytes]

    def stop(self) -> int:
        """Ctrl-C, as a user would; the exit code."""
        self.process.send_signal(signal.SIGINT)
        return self.process.wait(60)


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def start_service(folder: Path, arguments: Sequence[str] = (), **environment: str) -> RunningService:
    """Starts the service and returns at once; ``folder`` gets its log and its jobs, and lends it no weights."""
    port = free_port()
    log = folder / "service.log"
    own = {
        "HOST": "127.0.0.1",
        "PORT": str(port),
        "WORK_DIR": str(folder / "work"),
        "MODELS_DIR": str(folder / "models"),
        "CLEARCUT_DOWNLOAD": "0",
        "RATE_LIMIT_PER_MINUTE": "0",
    }
    env = {**os.environ, **own, **environment}
    env.pop("RAY_ADDRESS", None)
    with log.open("wb") as output:
        process = subprocess.Popen(
            [str(ROOT / "scripts" / "serve.sh"), *arguments],
            cwd=folder,
            env=env,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    return RunningService(f"http://127.0.0.1:{port}", log, process)


def wait_until_ready(service: RunningService) -> None:
    deadline = time.monotonic() + START_TIMEOUT_S
    while time.monotonic() < deadline:
        if service.process.poll() is not None:
            break
        with contextlib.suppress(httpx.HTTPError):
            if httpx.get(f"{service.url}/readyz", timeout=5).status_code == 200:
                return
        time.sleep(0.5)
    pytest.fail(f"The service did not get ready:\n{service.log.read_text(errors='replace')[-4000:]}")


def descendants(pid: int) -> set[int]:
    """Ids of every process below ``pid``, from /proc."""
    parents: dict[int, int] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError):
                parents[int(entry.name)] = int((entry / "stat").read_text().rsplit(")", 1)[1].split()[1])
    found = {pid}
    while more := {child for child, parent in parents.items() if parent in found} - found:
        found |= more
    return found - {pid}


@contextlib.contextmanager
def running_service(
    folder: Path, args: Mapping[str, object] | None = None, **environment: str
) -> Iterator[RunningService]:
    """A service that is ready; it ends with the block.

    Args:
        folder: As for ``start_service``.
        args: Replace some of the application's ``args:``.
        environment: More variables.
    """
    arguments = []
    if args:
        config = yaml.safe_load((ROOT / "serve_config.yaml").read_text())
        config["applications"][0]["args"] |= args
        arguments = [str(folder / "serve_config.yaml")]
        (folder / "serve_config.yaml").write_text(yaml.safe_dump(config))
    running = start_service(folder, arguments, **environment)
    try:
        wait_until_ready(running)
        yield running
    finally:
        if running.process.poll() is None:
            running.stop()


@pytest.fixture(scope="session")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningService]:
    """The running service."""
    with running_service(tmp_path_factory.mktemp("service")) as running:
        yield running


@pytest.fixture
def client(service: RunningService) -> Iterator[httpx.Client]:
    """An HTTP client of the running service."""
    with httpx.Client(base_url=service.url, timeout=60) as http:
        yield http


@pytest.fixture(scope="session")
def photo() -> Path:
    """A portrait, 512 x 512; tests/data/README.md has its source."""
    return ROOT / "tests" / "data" / "astronaut.jpg"
