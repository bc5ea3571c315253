"""What is left of the memory: of the machine, of a container, of a GPU."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
import torch

from pipeline.models.memory import MIB, GpuMemory, SystemMemory

NO_LIMIT_V1 = 2**63 - 4096


def machine(root: Path, groups: str = "", available_mb: int = 8000) -> Path:
    """A root folder with the files that tell of memory."""
    (root / "proc" / "self").mkdir(parents=True)
    (root / "proc" / "meminfo").write_text(
        f"MemTotal:       16000000 kB\nMemAvailable:   {available_mb * 1024} kB\nHugePages_Total:       0\n"
    )
    (root / "proc" / "self" / "cgroup").write_text(groups)
    return root


def group_v2(folder: Path, limit: int | str, used: int, reclaimable: int = 0) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "memory.max").write_text(f"{limit}\n")
    (folder / "memory.current").write_text(f"{used}\n")
    (folder / "memory.stat").write_text(f"anon 1\ninactive_file {reclaimable}\n")


def group_v1(folder: Path, limit: int, used: int, reclaimable: int = 0) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "memory.limit_in_bytes").write_text(f"{limit}\n")
    (folder / "memory.usage_in_bytes").write_text(f"{used}\n")
    (folder / "memory.stat").write_text(f"cache 1\ntotal_inactive_file {reclaimable}\n")


def test_without_control_groups_the_machine_s_memory_counts(tmp_path: Path) -> None:
    assert SystemMemory(machine(tmp_path)).available_mb() == 8000
    (tmp_path / "proc" / "self" / "cgroup").unlink()
    assert SystemMemory(tmp_path).available_mb() == 8000


def test_a_container_s_limit_counts_and_files_that_can_be_dropped_are_free(tmp_path: Path) -> None:
    memory = SystemMemory(machine(tmp_path, "0::/\n"))
    folder = tmp_path / "sys" / "fs" / "cgroup"
    group_v2(folder, 2048 * MIB, 1500 * MIB, reclaimable=100 * MIB)
    assert SystemMemory(tmp_path).available_mb() == 648
    group_v2(folder, "max", 1500 * MIB)
    assert memory.available_mb() == 8000


def test_the_narrowest_of_nested_groups_counts_and_a_new_limit_at_once(tmp_path: Path) -> None:
    root = machine(tmp_path, "0::/kubepods/pod1/c1\n")
    folder = tmp_path / "sys" / "fs" / "cgroup" / "kubepods"
    group_v2(folder / "pod1" / "c1", "max", 100 * MIB)
    group_v2(folder / "pod1", 1000 * MIB, 300 * MIB)
    group_v2(folder, 9000 * MIB, 100 * MIB)
    memory = SystemMemory(root)
    assert memory.available_mb() == 700
    group_v2(folder / "pod1" / "c1", 600 * MIB, 100 * MIB)
    assert memory.available_mb() == 500


@pytest.mark.parametrize("path", ["/docker/0123", "/"])
def test_groups_of_the_first_version_count_also_where_the_path_is_the_host_s(tmp_path: Path, path: str) -> None:
    root = machine(tmp_path, f"5:cpu,cpuacct:{path}\n4:memory:{path}\n0::/\n")
    group_v1(tmp_path / "sys" / "fs" / "cgroup" / "memory", 1024 * MIB, 1000 * MIB, reclaimable=76 * MIB)
    assert SystemMemory(root).available_mb() == 100


def test_no_limit_of_the_first_version_is_none(tmp_path: Path) -> None:
    root = machine(tmp_path, "4:memory:/\n")
    group_v1(tmp_path / "sys" / "fs" / "cgroup" / "memory", NO_LIMIT_V1, 1000 * MIB)
    assert SystemMemory(root).available_mb() == 8000


def test_this_machine_has_some_memory_left() -> None:
    total_kib = re.search(r"MemTotal: +(\d+) kB", Path("/proc/meminfo").read_text())
    assert total_kib is not None
    assert 0 < SystemMemory().available_mb() < int(total_kib[1]) / 1024


def test_what_was_taken_and_given_back_is_measured() -> None:
    memory = SystemMemory()
    memory.start_measuring()
    np.ones(100 * MIB, np.uint8)
    peak_mb = memory.peak_mb()
    if peak_mb is None:
        pytest.skip("this system does not tell a process's peak")
    assert 99 < peak_mb < 120
    memory.start_measuring()
    again_mb = memory.peak_mb()
    assert again_mb is not None
    assert again_mb < 5


def test_what_the_process_took_and_keeps_is_free_for_it(tmp_path: Path) -> None:
    memory = SystemMemory(machine(tmp_path, available_mb=1000))

    def hold(own_mb: int) -> None:
        status = f"VmHWM:\t {(own_mb + 50) * 1024} kB\nRssAnon:\t {own_mb * 1024} kB\n"
        (tmp_path / "proc" / "self" / "status").write_text(status)

    hold(400)
    memory.start_measuring()
    hold(700)
    assert memory.available_mb() == 1300
    assert memory.peak_mb() == 300
    memory.start_measuring()
    hold(750)
    assert (memory.available_mb(), memory.peak_mb()) == (1350, 350)
    hold(350)
    assert memory.available_mb() == 1000


def test_a_system_that_does_not_tell_is_believed_to_tell_nothing(tmp_path: Path) -> None:
    memory = SystemMemory(machine(tmp_path))
    memory.start_measuring()
    assert memory.peak_mb() is None


def test_what_pytorch_keeps_on_the_gpu_is_free_for_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda: (300 * MIB, 16000 * MIB))
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda: 900 * MIB)
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda: 500 * MIB)
    assert GpuMemory().available_mb() == 700


def test_the_peak_on_a_gpu_leaves_out_what_was_held_before(monkeypatch: pytest.MonkeyPatch) -> None:
    resets: list[int] = []
    monkeypatch.setattr(torch.cuda, "reset_peak_memory_stats", lambda: resets.append(1))
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda: 500 * MIB)
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda: 1900 * MIB)
    memory = GpuMemory()
    memory.start_measuring()
    assert memory.peak_mb() == 1400
    assert resets == [1]
