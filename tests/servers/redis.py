"""A Redis server of Debian's package on loopback, for tests."""

from __future__ import annotations

import contextlib
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from pathlib import Path

WAIT_S = 20


def program() -> str | None:
    """The server's program, or None where it is not installed."""
    return shutil.which("redis-server")


class RedisServer:
    """A server that keeps everything in memory, on a port of its own.

    Args:
        program: Path of ``redis-server``.
    """

    def __init__(self, program: str) -> None:
        self._program = program
        self._folder = Path(tempfile.mkdtemp(prefix="clearcut-redis-"))
        self._process: subprocess.Popen[bytes] | None = None
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port: int = free.getsockname()[1]
        self.start()

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}/0"

    def start(self) -> None:
        """Returns when it takes connections."""
        options = ["--port", str(self.port), "--bind", "127.0.0.1", "--save", "", "--dir", str(self._folder)]
        with (self._folder / "log").open("ab") as log:
            self._process = subprocess.Popen([self._program, *options], stdout=log, stderr=log)
        deadline = time.monotonic() + WAIT_S
        while time.monotonic() < deadline and self._process.poll() is None:
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self.port), 1) as asked:
                asked.sendall(b"PING\r\n")
                if asked.recv(7) == b"+PONG\r\n":
                    return
            time.sleep(0.02)
        raise RuntimeError(f"redis-server did not start:\n{(self._folder / 'log').read_text()}")

    def stop(self) -> None:
        """Cuts every connection; returns when the server is gone, and with it all it knew."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()

    def freeze(self) -> None:
        """It takes connections, and answers nothing until ``thaw``."""
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)

    def thaw(self) -> None:
        assert self._process is not None
        self._process.send_signal(signal.SIGCONT)

    def remove(self) -> None:
        """Stops it, and deletes all it has."""
        self.stop()
        shutil.rmtree(self._folder)
