"""A service's processes, found in /proc by who started them and by the titles Ray gives them; and their end."""

from __future__ import annotations

import contextlib
import ctypes
import os
import re
import signal
import time
from collections.abc import Iterable
from pathlib import Path

PR_SET_PDEATHSIG = 1
PR_SET_CHILD_SUBREAPER = 36
_LIBC = ctypes.CDLL(None)
_ENDED = "ZX"


def adopt_orphans() -> None:
    """Makes whatever our descendants leave behind our own children: none of it gets out of sight."""
    _LIBC.prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def stop_with_parent() -> None:
    """Has the calling process interrupted when its parent ends; for a child between fork and exec."""
    _LIBC.prctl(PR_SET_PDEATHSIG, signal.SIGINT)


def below(root_pid: int, proc: Path = Path("/proc")) -> dict[int, str]:
    """Title by id of every living process below ``root_pid``."""
    parents: dict[int, int] = {}
    for entry in proc.iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError):  # gone meanwhile
                state, parent = (entry / "stat").read_text(errors="replace").rpartition(")")[2].split()[:2]
                if state not in _ENDED:
                    parents[int(entry.name)] = int(parent)
    found = {root_pid}
    while more := {pid for pid, parent in parents.items() if parent in found} - found:
        found |= more
    return {pid: _title(proc / str(pid)) for pid in sorted(found - {root_pid})}


def titled(processes: dict[int, str], pattern: str) -> list[int]:
    """Ids of those whose title begins with the regular expression ``pattern``, as a whole word."""
    return [pid for pid, title in processes.items() if re.match(rf"{pattern}(?!\w)", title)]


def kill(pids: Iterable[int]) -> None:
    """``kill -9``, all at once."""
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def end_all_below(root_pid: int, *, patience_s: float = 10) -> None:
    """Kills everything below ``root_pid``, and what that starts meanwhile, until nothing is left.

    Raises:
        TimeoutError: Something still lives after ``patience_s``.
    """
    deadline = time.monotonic() + patience_s
    while left := below(root_pid):
        kill(left)
        for pid in left:
            with contextlib.suppress(ChildProcessError):  # not ours to bury
                os.waitpid(pid, os.WNOHANG)
        if time.monotonic() > deadline:
            raise TimeoutError(f"{len(left)} processes do not end: {', '.join(map(str, left))}")
        time.sleep(0.05)


def _title(folder: Path) -> str:
    try:
        return (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()
    except OSError:
        return ""
