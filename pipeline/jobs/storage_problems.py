"""What storage can answer instead of a file, in the words of callers; what it really said goes to the log."""

from __future__ import annotations

import logging

from pipeline.errors import StorageError, StorageFull, StorageUnavailable

logger = logging.getLogger(__name__)

RETRY_AFTER_S = 5


class UnusableStorage(Exception):
    """``WORK_DIR`` does not work. For the operator: the text may hold paths and addresses."""


def full(reason: str) -> StorageFull:
    logger.error("The storage of WORK_DIR is full: %s", reason)
    return StorageFull("The server has no room for more files. Try again later.")


def unavailable(reason: str) -> StorageUnavailable:
    logger.warning("The storage of WORK_DIR does not answer: %s", reason)
    return StorageUnavailable("The server's storage does not answer. Try again.", retry_after=RETRY_AFTER_S)


def refused(reason: str) -> StorageError:
    logger.error("The storage of WORK_DIR refuses: %s", reason)
    return StorageError("The server's storage does not work.")


def replaced() -> StorageUnavailable:
    return StorageUnavailable("The file was replaced while it was read. Ask for it again.", retry_after=1)
