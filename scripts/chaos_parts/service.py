"""A service of our own: started as a user starts it, killed with all it has, started again on the same folder."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import subprocess
import time
from collections.abc import Mapping
from pathlib import Path

import httpx

from scripts.chaos_parts import processes

ROOT = Path(__file__).resolve().parents[2]
STOP_S = 60.0
POLL_S = 0.25


class ServiceDown(Exception):
    """The service ended, or did not get ready."""


class OwnService:
    """``scripts/serve.sh`` on a free port, with its jobs, log and models in ``folder``.

    Args:
        folder: Holds everything that outlives the process.
        environment: Variables that go before ours.
        config: Instead of ``serve_config.yaml``.
    """

    def __init__(self, folder: Path, environment: Mapping[str, str] | None = None, config: Path | None = None) -> None:
        self.folder = folder
        self.log = folder / "service.log"
        self.work_dir = folder / "work"
        port = _free_port()
        self.url = f"http://127.0.0.1:{port}"
        self._command = [str(ROOT / "scripts" / "serve.sh"), *([str(config)] if config else [])]
        own = {
            "HOST": "127.0.0.1",
            "PORT": str(port),
            "WORK_DIR": str(self.work_dir),
            "MODELS_DIR": str(folder / "models"),
            "CLEARCUT_DOWNLOAD": "0",
            "RATE_LIMIT_PER_MINUTE": "0",  # all the load comes from one address
        }
        self._environment = {**os.environ, **own, **(environment or {})}
        self._environment.pop("RAY_ADDRESS", None)
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int:
        """The launcher's process id; every other process is below it."""
        if self._process is None:
            raise ServiceDown("The service was not started.")
        return self._process.pid

    def start(self) -> None:
        """Starts it and returns at once. Call it on the main thread: should that end, the service stops."""
        with self.log.open("ab") as output:
            self._process = subprocess.Popen(
                self._command,
                cwd=self.folder,
                env=self._environment,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                preexec_fn=processes.stop_with_parent,
            )

    def kill(self) -> None:
        """``kill -9`` of the launcher and everything below it."""
        processes.kill([self.pid, *processes.below(self.pid)])
        if self._process is not None:
            self._process.wait(STOP_S)
        processes.end_all_below(os.getpid())

    def stop(self) -> None:
        """Ctrl-C; then the end of whatever is left."""
        if self._process is not None and self._process.poll() is None:
            self._process.send_signal(signal.SIGINT)
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(STOP_S)
        processes.end_all_below(os.getpid())

    def has_ended(self) -> bool:
        return self._process is not None and self._process.poll() is not None

    def last_words(self) -> str:
        """The end of its log."""
        return self.log.read_text(errors="replace")[-3000:] if self.log.exists() else ""


class ForeignService:
    """A service that somebody else runs on this machine."""

    def __init__(self, url: str, pid: int) -> None:
        self.url = url.rstrip("/")
        self.pid = pid

    def has_ended(self) -> bool:
        return not Path(f"/proc/{self.pid}").exists()

    def last_words(self) -> str:
        return ""


Service = OwnService | ForeignService


async def is_ready(client: httpx.AsyncClient) -> bool:
    """Whether every deployment answers now."""
    try:
        return (await client.get("/readyz", timeout=5)).status_code == 200
    except httpx.HTTPError:
        return False


async def wait_until_ready(service: Service, *, timeout_s: float = 180) -> float:
    """Seconds it took until every deployment answered. Raises ``ServiceDown``."""
    started = time.monotonic()
    async with httpx.AsyncClient(base_url=service.url, trust_env=False) as client:
        while time.monotonic() - started < timeout_s and not service.has_ended():
            if await is_ready(client):
                return time.monotonic() - started
            await asyncio.sleep(POLL_S)
    raise ServiceDown(f"The service did not get ready.\n{service.last_words()}")


async def offers(client: httpx.AsyncClient) -> set[str]:
    """Which of ``cancel``, ``events``, ``keys`` and ``callbacks`` this service knows, by its own description."""
    answer = await client.get("/openapi.json", timeout=30)
    answer.raise_for_status()
    paths, text = answer.json()["paths"], answer.text.lower()
    signs = {
        "cancel": "/cancel/{job_id}" in paths,
        "events": "/events/{job_id}" in paths,
        "keys": "idempotency-key" in text,
        "callbacks": "callback_url" in text,
    }
    return {name for name, there in signs.items() if there}


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])
