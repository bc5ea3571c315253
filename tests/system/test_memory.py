"""A few requests under the eyes of the memory soak; many are for whoever looks for a leak."""

from __future__ import annotations

import subprocess
import sys

import pytest

from tests.system.conftest import ROOT, RunningService

pytestmark = [pytest.mark.system, pytest.mark.slow, pytest.mark.timeout(300)]


def test_no_replica_grows_with_the_requests(service: RunningService) -> None:
    soak = [sys.executable, str(ROOT / "scripts" / "memory_soak.py"), "--url", service.url]
    options = ["--pid", str(service.process.pid), "--warm-up", "12", "--requests", "48", "--allow-mb", "70"]
    done = subprocess.run([*soak, *options], capture_output=True, text=True, timeout=280)
    assert done.returncode == 0, done.stdout + done.stderr
    for deployment in ("BiRefNet", "MobileSAM", "LaMa", "JobManager", "Ingress"):
        assert f"\n{deployment} (" in done.stdout
