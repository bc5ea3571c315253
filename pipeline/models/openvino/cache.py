"""Compiled models on disk, each with the facts it holds for and with what its verification said.

An entry is two files: the compiled model, and a small JSON file that names its hash; the second is written last. An
entry with other facts, or whose bytes are not the recorded ones, does not exist.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

from pipeline.models.files import part_of, publish, write_whole

MAX_ENTRIES: Final = 12
MAX_BYTES: Final = 8 * 2**30
"""What is kept, the last used first. An entry is little larger than its network's float32 weights."""


@dataclass(frozen=True)
class Verification:
    """How far the compiled network is from PyTorch, on one picture.

    Attributes:
        error: Root mean square of the difference, as a share of PyTorch's own root mean square.
        largest: Largest difference of one value.
        tolerance: The largest ``error`` it may have.
    """

    error: float
    largest: float
    tolerance: float

    @property
    def passed(self) -> bool:
        return self.error <= self.tolerance


@dataclass(frozen=True)
class Entry:
    """A compiled model, whole.

    Attributes:
        data: As compiled; empty if the verification failed.
        verification: Against PyTorch, when it was made.
    """

    data: bytes
    verification: Verification


class CompiledModels:
    """The entries of one folder.

    Args:
        folder: It is made with the first entry.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def find(self, name: str, facts: Mapping[str, str]) -> Entry | None:
        """The entry of model ``name`` for exactly these facts, or None."""
        record = self._record(name, facts)
        try:
            told = json.loads(record.read_text())
            verification = Verification(**told["verification"])
            data = _compiled(record).read_bytes() if verification.passed else b""
            if told["facts"] != dict(facts) or told["sha256"] != hashlib.sha256(data).hexdigest():
                return None
        except (OSError, ValueError, KeyError, TypeError):
            return None
        with contextlib.suppress(OSError):  # a folder that can only be read
            os.utime(record)
        return Entry(data, verification)

    def add(self, name: str, facts: Mapping[str, str], entry: Entry) -> None:
        """Writes an entry, over a broken one too, and removes those not used for longest. Raises ``OSError``."""
        record = self._record(name, facts)
        told = {
            "facts": dict(facts),
            "sha256": hashlib.sha256(entry.data).hexdigest(),
            "verification": asdict(entry.verification),
        }
        self._folder.mkdir(parents=True, exist_ok=True)
        part = part_of(_compiled(record))
        part.write_bytes(entry.data)
        publish(part, _compiled(record))
        write_whole(record, json.dumps(told, indent=1).encode())
        self._remove_old(keep=record)

    @contextlib.contextmanager
    def only_builder(self) -> Iterator[None]:
        """Waits until no other process builds here: two at once would need twice the memory, and no less time."""
        self._folder.mkdir(parents=True, exist_ok=True)
        with (self._folder / ".lock").open("ab") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield

    def _record(self, name: str, facts: Mapping[str, str]) -> Path:
        key = hashlib.sha256(json.dumps(dict(facts), sort_keys=True).encode()).hexdigest()[:16]
        return self._folder / f"{name}-{key}.json"

    def _remove_old(self, *, keep: Path) -> None:
        for unfinished in self._folder.glob("*.part"):
            unfinished.unlink(missing_ok=True)  # of a build that was ended
        records = sorted(self._folder.glob("*.json"), key=lambda path: path.stat().st_mtime, reverse=True)
        records.sort(key=lambda path: path != keep)
        total = 0
        for i, record in enumerate(records):
            compiled = _compiled(record)
            total += compiled.stat().st_size if compiled.exists() else 0
            if i and (i >= MAX_ENTRIES or total > MAX_BYTES):
                record.unlink(missing_ok=True)
                compiled.unlink(missing_ok=True)
        known = {_compiled(record) for record in records}
        for compiled in set(self._folder.glob("*.blob")) - known:
            compiled.unlink(missing_ok=True)


def _compiled(record: Path) -> Path:
    return record.with_suffix(".blob")


def folders(models_dir: Path) -> tuple[Path, Path]:
    """Where compiled models may lie: beside the weights, and in the user's cache."""
    user = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    return models_dir / ".compiled", Path(user) / "clearcut" / "compiled"


@contextlib.contextmanager
def first_writable(places: Iterable[Path]) -> Iterator[Path]:
    """The first folder that can be written to; where none can, one that ends with this block."""
    for folder in places:
        if _is_writable(folder):
            yield folder
            return
    with tempfile.TemporaryDirectory(prefix="clearcut-compiled-") as temporary:
        yield Path(temporary)


def _is_writable(folder: Path) -> bool:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            return True
    except OSError:
        return False
