"""Where the jobs' database is."""

from __future__ import annotations

from pathlib import Path

import sqlalchemy as sa

from pipeline.config import Settings


def database_url(settings: Settings, *, relative_to: Path | None = None) -> str | sa.URL:
    """What ``DATABASE_URL`` names, else ``jobs.db`` in ``WORK_DIR``, which is made if needed.

    Args:
        settings: What the environment says.
        relative_to: The folder that a relative ``WORK_DIR`` is in; else the present one.

    Raises:
        ValueError: Only files are in object storage: jobs need a database that outlives this machine as well.
    """
    if settings.database_url:
        return settings.database_url
    if "://" in settings.work_dir:
        raise ValueError("WORK_DIR is object storage, which holds no database: set DATABASE_URL as well.")
    folder = (relative_to or Path()) / settings.work_dir
    folder.mkdir(parents=True, exist_ok=True)
    return sa.URL.create("sqlite", database=str(folder.resolve() / "jobs.db"))
