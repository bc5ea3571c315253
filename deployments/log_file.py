"""``LOG_FILE``: the service's log once more, in one file that all its processes share.

Every process of a machine appends whole lines, each with one write to a file opened for appending; such writes do not
mix on a local disk. Who finds the file full renames it, under a lock; the others see by its inode that it was renamed
and open the new one, as they do after logrotate. A line is never lost by it; at most it lands in the older file.
"""

from __future__ import annotations

import fcntl
import io
import logging
import os
from logging.handlers import WatchedFileHandler
from pathlib import Path

from ray._common.formatters import JSONFormatter

MAX_BYTES = 10 * 1024 * 1024
OLDER_FILES = 5


class SharedLogFile(WatchedFileHandler):
    """A file that several processes write to and rotate.

    Args:
        path: The file; its folder is made if need be.
        max_bytes: A file this large becomes ``path.1``, that one ``path.2``, and so on.
        older_files: How many of these stay.
    """

    def __init__(self, path: Path, *, max_bytes: int = MAX_BYTES, older_files: int = OLDER_FILES) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._path = path
        self._max_bytes = max_bytes
        self._older_files = older_files
        super().__init__(path, encoding="utf-8")

    def emit(self, record: logging.LogRecord) -> None:
        """Appends the record."""
        try:
            self.reopenIfNeeded()
            if os.fstat(self._number).st_size >= self._max_bytes:
                self._rotate()
            line = (self.format(record) + self.terminator).encode("utf-8", "backslashreplace")
            os.write(self._number, line)
        except Exception:
            self.handleError(record)

    def _open(self) -> io.TextIOWrapper:
        number = os.open(self._path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o640)
        return os.fdopen(number, "a", encoding="utf-8")

    @property
    def _number(self) -> int:
        if self.stream is None:  # closed; logging opens it again
            self.stream = self._open()
        return self.stream.fileno()

    def _rotate(self) -> None:
        with open(f"{self._path}.lock", "a") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            self.reopenIfNeeded()
            if os.fstat(self._number).st_size < self._max_bytes:
                return  # another process was quicker
            for number in range(self._older_files - 1, 0, -1):
                older = Path(f"{self._path}.{number}")
                if older.exists():
                    older.replace(f"{self._path}.{number + 1}")
            self._path.replace(f"{self._path}.1")
            self.reopenIfNeeded()


def log_to_file(path: Path | None) -> None:
    """Lets this process write its log to ``path`` too. A file that cannot be written leaves the service as it is."""
    if path is None:
        return
    logger = logging.getLogger("ray.serve")
    if any(isinstance(handler, SharedLogFile) for handler in logger.handlers):
        return
    try:
        handler = SharedLogFile(path)
    except OSError as error:
        logger.error("LOG_FILE cannot be written: %s", error.strerror)
        return
    handler.setFormatter(JSONFormatter())
    logger.addHandler(handler)
