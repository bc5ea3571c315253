"""Finding a service's processes, and ending them."""

from __future__ import annotations

import os
import subprocess
import time
from pathlib import Path

import pytest

from scripts.chaos_parts.faults import FAULTS
from scripts.chaos_parts.processes import below, end_all_below, titled


def process(proc: Path, pid: int, title: str, parent: int, state: str = "S") -> None:
    folder = proc / str(pid)
    folder.mkdir()
    (folder / "cmdline").write_bytes(title.encode().replace(b" ", b"\0"))
    (folder / "stat").write_text(f"{pid} (ray::Serve) a (b) {state} {parent} 1 1")


@pytest.fixture
def proc(tmp_path: Path) -> Path:
    """Two services; in the first, one process has ended and waits to be buried."""
    process(tmp_path, 10, "bash scripts/serve.sh", 1)
    process(tmp_path, 11, "raylet --x", 10)
    process(tmp_path, 12, "ray::ServeReplica:clearcut:LaMa.inpaint", 11)
    process(tmp_path, 13, "ray::ServeReplica:clearcut:LaMaTwo", 11)
    process(tmp_path, 14, "ray::ServeController.listen_for_change", 11)
    process(tmp_path, 15, "ray::ServeReplica:clearcut:BiRefNet", 11, state="Z")
    process(tmp_path, 16, "grep ray::ProxyActor", 10)
    process(tmp_path, 20, "bash scripts/serve.sh", 1)
    process(tmp_path, 21, "ray::ServeReplica:clearcut:LaMa", 20)
    (tmp_path / "self").mkdir()
    return tmp_path


def test_only_the_living_below_the_service_are_found(proc: Path) -> None:
    assert set(below(10, proc)) == {11, 12, 13, 14, 16}


@pytest.mark.parametrize(
    ("fault", "pids"), [("lama", [12]), ("controller", [14]), ("proxy", []), ("birefnet", []), ("jobmanager", [])]
)
def test_a_fault_finds_its_process_by_the_title(proc: Path, fault: str, pids: list[int]) -> None:
    assert titled(below(10, proc), FAULTS[fault].title) == pids


def test_everything_below_a_process_ends_and_the_process_stays() -> None:
    script = "trap '' TERM; sleep 600 & (sleep 600 & wait) & echo up; while :; do wait; done"
    with subprocess.Popen(["bash", "-c", script], stdout=subprocess.PIPE) as parent:
        assert parent.stdout is not None
        assert parent.stdout.readline() == b"up\n"
        deadline = time.monotonic() + 10
        while len(below(parent.pid)) < 3 and time.monotonic() < deadline:
            time.sleep(0.01)
        assert len(below(parent.pid)) >= 3
        end_all_below(parent.pid)
        assert not below(parent.pid)
        assert Path(f"/proc/{parent.pid}").exists()
        os.kill(parent.pid, 9)
