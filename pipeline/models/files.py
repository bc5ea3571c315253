"""Large files that appear under their name whole or not at all."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
from collections.abc import Iterator
from pathlib import Path


def sha256_of(path: Path) -> str:
    """The file's SHA-256, lower case hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def part_of(path: Path) -> Path:
    """Where the bytes of ``path`` gather before it is whole."""
    return path.with_name(f"{path.name}.part")


def publish(part: Path, path: Path) -> None:
    """Gives ``part`` its final name once its bytes are on disk; a power cut leaves the old state or the new."""
    with part.open("rb") as file:
        os.fsync(file.fileno())
    part.replace(path)
    descriptor = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_whole(path: Path, data: bytes) -> None:
    """Writes a small file in one step."""
    part = part_of(path)
    part.write_bytes(data)
    publish(part, path)


@contextlib.contextmanager
def only_writer(folder: Path) -> Iterator[bool]:
    """Makes ``folder`` and holds its lock; yields False if another process holds it. It ends with its process."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / ".lock").open("ab") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
        else:
            yield True
