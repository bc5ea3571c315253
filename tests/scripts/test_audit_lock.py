"""The audit of the lock files, against a database on loopback that says what the test wants."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from scripts.audit_lock import ignored, pinned

ROOT = Path(__file__).resolve().parents[2]


class Database(ThreadingHTTPServer):
    """OSV, knowing of one hole in one package."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Answers)
        self.hole_in = ""
        self.asked: list[str] = []
        self.delay_s = 0.0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/v1/query"


class _Answers(BaseHTTPRequestHandler):
    server: Database

    def do_POST(self) -> None:
        question = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        name = question["package"]["name"]
        if self.server.asked:  # the first question only asks whether anybody is there
            time.sleep(self.server.delay_s)
        self.server.asked.append(name)
        body: dict[str, Any] = {}
        if name == self.server.hole_in:
            ranges = [{"type": "ECOSYSTEM", "events": [{"introduced": "0"}, {"fixed": "999.0"}]}]
            affected = [{"package": {"name": name, "ecosystem": "PyPI"}, "ranges": ranges}]
            body = {"vulns": [{"id": "GHSA-test-0001", "aliases": ["CVE-2026-0001"], "affected": affected}]}
        answer = json.dumps(body).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def database() -> Iterator[Database]:
    server = Database()
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


def run_audit(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "scripts/audit_lock.py", *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=100, check=False)


def test_every_package_is_asked_about(database: Database) -> None:
    done = run_audit("--osv-url", database.url)
    assert done.returncode == 0, done.stderr
    names = {requirement.partition("==")[0] for requirement in pinned()}
    assert len(names) > 100
    assert {"fastapi", "pillow", "ray", "torch", "pytest"} <= names <= set(database.asked)
    assert f"{len(pinned())} packages, 0 known holes" in done.stdout


def test_a_known_hole_fails_the_check(database: Database) -> None:
    database.hole_in = "pillow"
    done = run_audit("--osv-url", database.url)
    assert done.returncode == 1
    assert "CVE-2026-0001, mended in 999.0" in done.stderr
    assert "pillow" in done.stderr


@pytest.mark.parametrize("name", ["GHSA-test-0001", "CVE-2026-0001"])
def test_a_hole_with_a_reason_is_accepted(database: Database, tmp_path: Path, name: str) -> None:
    database.hole_in = "pillow"
    ignore = tmp_path / "ignore.txt"
    ignore.write_text(f"# accepted\n{name} only in a format that is never opened\n")
    done = run_audit("--osv-url", database.url, "--ignore", str(ignore))
    assert done.returncode == 0, done.stderr
    assert "(1 accepted)" in done.stdout


def test_no_hole_is_accepted_without_a_reason() -> None:
    with pytest.raises(SystemExit, match="GHSA-test-0001 needs a reason"):
        ignored("GHSA-test-0001  \n")


def test_a_database_that_is_away_is_said_plainly() -> None:
    done = run_audit("--osv-url", "http://127.0.0.1:9/v1/query")
    assert done.returncode == 0
    assert "SKIPPED" in done.stdout


def test_a_database_that_takes_long_ends_in_time(database: Database) -> None:
    database.delay_s = 5.0
    done = run_audit("--osv-url", database.url, "--finish-within-s", "3")
    assert done.returncode == 0
    assert "SKIPPED" in done.stdout
    assert "longer than 3 s" in done.stdout


def test_the_check_of_everything_runs_it() -> None:
    assert "scripts/audit_lock.py" in (ROOT / "scripts" / "check.sh").read_text()
