"""How much memory a device has left, and how much a piece of work took of it. All figures are in MiB."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Final, Literal, Protocol

MIB: Final = 2**20


class Memory(Protocol):
    """The memory that an engine takes its room from."""

    @property
    def device(self) -> Literal["cuda", "cpu"]: ...

    def available_mb(self) -> float:
        """What this process can still take."""
        ...

    def start_measuring(self) -> None:
        """Begins to watch what this process takes."""
        ...

    def peak_mb(self) -> float | None:
        """The most that was taken at once since measuring began, beside what was held then; None if nobody knows."""
        ...

    def release(self) -> None:
        """Gives back what is kept for later use."""
        ...


def memory_of(device: Literal["cuda", "cpu"]) -> Memory:
    """The memory of the device that an engine runs on."""
    return GpuMemory() if device == "cuda" else SystemMemory()


class GpuMemory:
    """Memory of the GPU that PyTorch uses. What other processes hold there is theirs."""

    device: Literal["cuda", "cpu"] = "cuda"

    def __init__(self) -> None:
        self._held_bytes = 0

    def available_mb(self) -> float:
        from torch import cuda  # where an engine runs on a GPU, it is loaded already

        free, _total = cuda.mem_get_info()
        kept = cuda.memory_reserved() - cuda.memory_allocated()  # by PyTorch, for later use
        return float(free + kept) / MIB

    def start_measuring(self) -> None:
        from torch import cuda

        cuda.reset_peak_memory_stats()
        self._held_bytes = cuda.memory_allocated()

    def peak_mb(self) -> float | None:
        from torch import cuda

        return float(cuda.max_memory_allocated() - self._held_bytes) / MIB

    def release(self) -> None:
        from torch import cuda

        cuda.empty_cache()


class SystemMemory:
    """The machine's memory, or what the process's control groups (a container's limit) leave of it.

    What the process took since measuring began first, and still holds, counts as free for it: that is what allocators
    and runtimes keep for the next time.

    Args:
        root: Where ``proc`` and ``sys`` are; tests have them elsewhere.
    """

    device: Literal["cuda", "cpu"] = "cpu"

    def __init__(self, root: Path = Path("/")) -> None:
        self._proc = root / "proc"
        self._groups = list(_groups(root))
        self._held_mb = 0.0
        self._held_at_first_mb: float | None = None
        self._measures = False

    def available_mb(self) -> float:
        free_mb = _kib_lines(self._proc / "meminfo")["MemAvailable"] / 1024
        free_mb = min([free_mb, *(room for group in self._groups if (room := _room_mb(group)) is not None)])
        return free_mb + self._kept_mb()

    def start_measuring(self) -> None:
        own = self._proc / "self"
        try:
            (own / "clear_refs").write_text("5")  # the peak begins anew at what is held now
            if self._held_at_first_mb is None:
                self._held_at_first_mb = self._own_mb()
            self._held_mb = _kib_lines(own / "status")["VmHWM"] / 1024 - self._kept_mb()
        except (OSError, KeyError):
            self._measures = False  # a system that does not tell
        else:
            self._measures = True

    def peak_mb(self) -> float | None:
        if not self._measures:
            return None
        return max(0.0, _kib_lines(self._proc / "self" / "status")["VmHWM"] / 1024 - self._held_mb)

    def release(self) -> None:
        pass  # freed memory of this size goes back to the system at once

    def _kept_mb(self) -> float:
        return 0.0 if self._held_at_first_mb is None else max(0.0, self._own_mb() - self._held_at_first_mb)

    def _own_mb(self) -> float:
        """What the process shares with nobody."""
        return _kib_lines(self._proc / "self" / "status")["RssAnon"] / 1024


def _groups(root: Path) -> Iterator[Path]:
    """Folders of the control groups that limit this process's memory, the innermost first."""
    try:
        lines = (root / "proc" / "self" / "cgroup").read_text().splitlines()
    except OSError:
        return
    for line in lines:
        _number, controllers, path = line.split(":", 2)
        if controllers == "":  # version 2
            mount = root / "sys" / "fs" / "cgroup"
        elif "memory" in controllers.split(","):
            mount = root / "sys" / "fs" / "cgroup" / "memory"
        else:
            continue
        own = mount / path.strip("/")
        # A container may see its own group as the root, whatever the path says.
        yield from (folder for folder in (own, *own.parents) if folder.is_relative_to(mount) and folder.is_dir())


def _room_mb(group: Path) -> float | None:
    """What a control group's limit leaves; None if it has none."""
    for limit, usage, reclaimable in (
        ("memory.max", "memory.current", "inactive_file"),
        ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
    ):
        try:
            most = int((group / limit).read_text())
            used = int((group / usage).read_text())
            stat = dict(line.split(" ", 1) for line in (group / "memory.stat").read_text().splitlines())
            return (most - used + int(stat.get(reclaimable, 0))) / MIB
        except (OSError, ValueError):  # the other version's names, or "max": no limit
            continue
    return None


def _kib_lines(path: Path) -> dict[str, int]:
    """The lines ``Name:  123 kB`` of a file in /proc."""
    lines = (line.split(":", 1) for line in path.read_text().splitlines() if line.endswith(" kB"))
    return {name: int(value.split()[0]) for name, value in lines}
