"""How the service starts, refuses to start, and stops."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
import yaml

from tests.system.conftest import ROOT, descendants, start_service, wait_until_ready

pytestmark = [pytest.mark.system, pytest.mark.slow, pytest.mark.timeout(300)]


def test_ctrl_c_leaves_no_process_behind(tmp_path: Path) -> None:
    service = start_service(tmp_path)
    wait_until_ready(service)
    started = descendants(service.process.pid)
    assert len(started) > 5, "Ray's processes run below the launcher"
    assert service.stop() == 0
    deadline = time.monotonic() + 10
    while (left := {pid for pid in started if is_alive(pid)}) and time.monotonic() < deadline:
        time.sleep(0.2)
    assert not left


def test_a_plan_that_cannot_fit_stops_the_start_within_a_minute(tmp_path: Path) -> None:
    config = yaml.safe_load((ROOT / "serve_config.yaml").read_text())
    config["applications"][0]["args"]["cpu_share"] = {"LaMa": 500}
    path = tmp_path / "too_large.yaml"
    path.write_text(yaml.safe_dump(config))
    start = time.monotonic()
    service = start_service(tmp_path, arguments=[str(path)])
    try:
        assert service.process.wait(60) != 0
    finally:
        if service.process.poll() is None:
            service.stop()
    assert time.monotonic() - start < 60
    said = service.log.read_text(errors="replace")
    assert "LaMa does not fit: it needs 500 CPU" in said


def test_a_job_survives_a_restart(tmp_path: Path, photo: Path) -> None:
    import httpx

    first = start_service(tmp_path)
    wait_until_ready(first)
    with httpx.Client(base_url=first.url, timeout=60) as client:
        job_id = client.post("/upload", files={"file": photo.read_bytes()}).json()["job_id"]
    first.stop()
    second = start_service(tmp_path)
    try:
        wait_until_ready(second)
        with httpx.Client(base_url=second.url, timeout=60) as client:
            assert client.get(f"/status/{job_id}").json()["status"] == "uploaded"
            assert client.get(f"/download/{job_id}/original.png").status_code == 200
    finally:
        second.stop()


def is_alive(pid: int) -> bool:
    try:
        state = (Path("/proc") / str(pid) / "stat").read_text().rsplit(")", 1)[1].split()[0]
    except OSError:
        return False
    return state != "Z"
