"""``serve run CONFIG`` plus a watcher that says when the application is ready, and stops it if it cannot be deployed.

The watcher is a thread of the same process: it asks the Serve controller through the connection ``serve run`` made.
Started by ``run_serve.py``.
"""

from __future__ import annotations

import argparse
import ctypes
import os
import re
import signal
import socket
import sys
import threading
import time
import urllib.error
import urllib.request
from pathlib import Path

import ray
from ray import serve
from ray.serve.schema import ApplicationStatus, ApplicationStatusOverview, ServeStatus
from ray.serve.scripts import cli

POLL_S = 0.5
PATIENCE_S = 30.0
PR_SET_PDEATHSIG = 1
failures: list[str] = []  # why the application cannot run; the watcher writes it, main() ends with it


def say(message: str) -> None:
    print(message, flush=True)


def accepts(host: str, port: int) -> bool:
    try:
        socket.create_connection((host, port), timeout=1).close()
    except OSError:
        return False
    return True


def is_ready(url: str) -> bool:
    try:
        with urllib.request.urlopen(f"{url}/readyz", timeout=5) as answer:
            return bool(answer.status == 200)
    except (OSError, urllib.error.URLError):
        return False


def reason(application: ApplicationStatusOverview) -> str:
    """Why an application failed, without the remote traceback: the controller has logged that already."""
    messages = [d.message for d in application.deployments.values() if d.status == "DEPLOY_FAILED"]
    messages.append(application.message)
    lines = [line.strip() for message in messages for line in message.splitlines() if line.strip()]
    errors = [line for line in lines if re.match(r"[\w.]*(Error|Exception|Warning|Exit)\b.*?: ", line)]
    return (errors or lines or ["no reason given"])[-1]


def waiting_for(status: ServeStatus) -> str:
    """Names of the deployments that are not up, with what Serve says about them."""
    return "; ".join(
        f"{name} {deployment.status}" + (f" ({deployment.message.splitlines()[0]})" if deployment.message else "")
        for application in status.applications.values()
        for name, deployment in application.deployments.items()
        if deployment.status != "HEALTHY"
    )


def watch(host: str, port: int) -> None:
    """Waits for the application; prints its address when it is ready, or ends ``serve run`` when it has failed."""
    started = reported = time.monotonic()
    url = f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
    while not (ray.is_initialized() and accepts(host, port)):
        time.sleep(POLL_S)
    protect_token()
    while True:
        status = serve.status()
        applications = status.applications
        for name, application in applications.items():
            if application.status == ApplicationStatus.DEPLOY_FAILED:
                failures.append(f"application {name!r} failed to deploy: {reason(application)}")
        if failures:
            os.kill(os.getpid(), signal.SIGINT)
            return
        if applications and all(a.status == ApplicationStatus.RUNNING for a in applications.values()) and is_ready(url):
            break
        if time.monotonic() - reported > PATIENCE_S:
            reported = time.monotonic()
            missing = waiting_for(status) or "/readyz"
            say(f"Clearcut is not ready after {reported - started:.0f} s; waiting for: {missing}")
        time.sleep(POLL_S)
    say(f"Clearcut is ready: {url}")
    say(f"  API documentation {url}/docs · web page {url}/studio/ · stop with Ctrl-C")
    if dashboard := ray._private.worker.get_dashboard_url():  # type: ignore[no-untyped-call]
        say(f"  Ray dashboard http://{dashboard} (asks for the token that `.venv/bin/ray get-auth-token` prints)")


def protect_token() -> None:
    """Takes Ray's token away from other users: Ray writes it readable for everyone."""
    token = Path(os.environ.get("RAY_AUTH_TOKEN_PATH") or Path.home() / ".ray" / "auth_token")
    if token.is_file():
        token.chmod(0o600)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("config")
    parser.add_argument("host", help="address on which the service can be reached from here")
    parser.add_argument("port", type=int)
    options = parser.parse_args()

    signal.signal(signal.SIGINT, signal.default_int_handler)
    # Should the supervisor be killed, this process stops as with Ctrl-C.
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGINT)

    threading.Thread(target=watch, args=(options.host, options.port), name="readiness", daemon=True).start()
    # "local" starts a cluster of our own; without it `serve run` joins whichever it finds on this machine.
    address = os.environ.get("RAY_ADDRESS") or "local"
    try:
        cli(["run", "--address", address, options.config])
    finally:
        if failures:
            ray.shutdown()  # it logs until then, and the reason should be the last line
            sys.exit(f"Clearcut could not start: {failures[0]}")


if __name__ == "__main__":
    main()
