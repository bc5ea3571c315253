"""Runs the application in the foreground until Ctrl-C, SIGINT or SIGTERM, and leaves no process behind.

``serve run`` alone shuts down cleanly on SIGINT only, ignores that in a shell's background job, dies without cleaning
up on SIGTERM, and waits for ever beside an application that failed to deploy. So it runs as a child
(``serve_child.py``) in a session of its own, and every process that it or Ray starts stays our descendant, whatever
becomes of its parent.
"""

from __future__ import annotations

import ctypes
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path

from pydantic import ValidationError

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from pipeline.config import Settings  # noqa: E402
from scripts import patch_config  # noqa: E402

# Every process of the cluster inherits these; what the environment says already goes first.
ENVIRONMENT = {
    # Without this, Ray's command line tools do not speak to the cluster, whose ports listen on every interface.
    "RAY_AUTH_MODE": "token",
    "RAY_USAGE_STATS_ENABLED": "0",
    # A dead proxy is replaced after 3 s instead of 29 s.
    "RAY_SERVE_PROXY_HEALTH_CHECK_PERIOD_S": "1",
    "RAY_SERVE_PROXY_HEALTH_CHECK_TIMEOUT_S": "2",
    # uvicorn believes X-Forwarded-For from these peers, by default from 127.0.0.1: name an address that is no one's.
    "FORWARDED_ALLOW_IPS": "255.255.255.255",
    # Ray starts its workers at niceness 15, which leaves work on pixels little room to step back behind event loops.
    "RAY_worker_niceness": "10",
    # Cleans what the proxy would obey and repeat of a client's headers.
    "RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH": "deployments.proxy_door.middlewares",
    "PYTHONUNBUFFERED": "1",
}
GRACE_S = 30.0  # a clean stop takes about 9 s
LINGER_S = 5.0  # what Ray's processes need to notice that their node is gone
PR_SET_CHILD_SUBREAPER = 36


class Stop:
    """Counts the requests to stop: the first is handed on, the second means now."""

    def __init__(self) -> None:
        self.requests = 0
        self.since = 0.0
        signals = [signal.SIGINT, signal.SIGTERM]
        if signal.getsignal(signal.SIGHUP) != signal.SIG_IGN:  # nohup
            signals.append(signal.SIGHUP)
        for number in signals:
            signal.signal(number, self._request)

    def _request(self, number: int, frame: object) -> None:
        self.requests += 1
        self.since = self.since or time.monotonic()

    def is_overdue(self) -> bool:
        return self.requests > 1 or (self.requests == 1 and time.monotonic() - self.since > GRACE_S)


def environment(inherited: Mapping[str, str]) -> dict[str, str]:
    """What the service's processes get as their environment."""
    path = os.pathsep.join(filter(None, [str(ROOT), inherited.get("PYTHONPATH")]))
    return {**ENVIRONMENT, **inherited, "PYTHONPATH": path}


def settings_of(root: Path) -> Settings:
    try:
        return Settings(_env_file=root / ".env")
    except ValidationError as error:
        problems = "\n".join(f"  {'.'.join(map(str, e['loc'])).upper()}: {e['msg']}" for e in error.errors())
        raise SystemExit(f"serve.sh: the environment or .env holds values that cannot be used:\n{problems}") from None


def check_free(host: str, port: int) -> None:
    """Raises SystemExit if nothing can listen on that address."""
    try:
        family, kind, protocol, _, sockaddr = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, kind, protocol) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(sockaddr)
    except OSError as error:
        raise SystemExit(
            f"serve.sh: cannot listen on {host}:{port}: {error.strerror}. Another port: PORT=8080 ./scripts/serve.sh"
        ) from None


def descendants() -> list[int]:
    """Process ids of everything below this process."""
    parents: dict[int, int] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                stat = (entry / "stat").read_text()
            except OSError:  # gone meanwhile
                continue
            parents[int(entry.name)] = int(stat.rpartition(")")[2].split()[1])
    found = {os.getpid()}
    while more := {pid for pid, parent in parents.items() if parent in found} - found:
        found |= more
    return sorted(found - {os.getpid()})


def reap(child: int) -> int | None:
    """Buries what has died; the child's exit code once it is among them."""
    code = None
    while True:
        try:
            pid, status = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return code
        if pid == 0:
            return code
        if pid == child:
            code = os.waitstatus_to_exitcode(status)


def end_leftovers(child: int) -> None:
    """Waits a moment for our descendants to end, then ends them."""
    for number, patience_s in ((None, LINGER_S), (signal.SIGTERM, LINGER_S), (signal.SIGKILL, LINGER_S)):
        if number is not None:
            for pid in descendants():
                try:
                    os.kill(pid, number)
                except ProcessLookupError:
                    continue
        deadline = time.monotonic() + patience_s
        while time.monotonic() < deadline:
            reap(child)
            if not descendants():
                return
            time.sleep(0.1)


def supervise(command: list[str]) -> int:
    """Runs ``command`` until it ends or we are asked to stop. Its exit code; 0 if it was stopped on request."""
    ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    stop = Stop()
    # WORK_DIR, MODELS_DIR and .env are relative to the repository.
    child = subprocess.Popen(command, cwd=ROOT, env=environment(os.environ), start_new_session=True).pid
    code = None
    handed_on = False
    while (code := reap(child)) is None and not stop.is_overdue():
        if stop.requests and not handed_on:
            handed_on = True
            print("serve.sh: stopping", flush=True)
            os.kill(child, signal.SIGINT)
        time.sleep(0.1)
    end_leftovers(child)
    if stop.requests:
        return 0
    return code or 1  # `serve run` also exits with 0 after an error of its own


def main() -> int:
    source = Path(sys.argv[1]) if len(sys.argv) > 1 else ROOT / "serve_config.yaml"
    if not source.is_file():
        raise SystemExit(f"serve.sh: there is no {source}")
    settings = settings_of(ROOT)
    given = settings.model_fields_set
    config = patch_config.patch(
        patch_config.read(source),
        host=settings.host if "host" in given else None,
        port=settings.port if "port" in given else None,
    )
    host, port = patch_config.address(config)
    if not os.environ.get("RAY_ADDRESS"):
        check_free(host, port)
    reachable = {"0.0.0.0": "127.0.0.1", "": "127.0.0.1", "::": "::1"}.get(host, host)

    with tempfile.TemporaryDirectory(prefix="clearcut-") as folder:
        patched = Path(folder) / "serve_config.yaml"
        patch_config.write(config, patched)
        return supervise([sys.executable, str(ROOT / "scripts/serve_child.py"), str(patched), reachable, str(port)])


if __name__ == "__main__":
    sys.exit(main())
