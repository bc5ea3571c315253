"""Versions of the jobs' database, and the way from an older one to the newest."""

from __future__ import annotations

import threading
from pathlib import Path

import sqlalchemy as sa
from alembic import command
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory

from pipeline.errors import StorageError

_FIRST = "0001"
_ADVISORY_LOCK = 0x636C6561726375  # any number, as long as nobody else locks it: "clearcu"
_one_thread = threading.Lock()  # Alembic keeps its context in globals


def upgrade(engine: sa.Engine) -> None:
    """Brings the database to the newest version, in one transaction; whoever opens it meanwhile waits.

    Raises:
        StorageError: It is of a version that this code does not know.
    """
    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent).replace("%", "%%"))
    script = ScriptDirectory.from_config(config)
    with _one_thread, engine.begin() as connection:  # SQLite: nobody else writes from here on
        if connection.dialect.name == "postgresql":
            connection.execute(sa.text("SET LOCAL lock_timeout = 0"))
            connection.execute(sa.text("SET LOCAL statement_timeout = 0"))
            connection.execute(sa.text("SELECT pg_advisory_xact_lock(:number)"), {"number": _ADVISORY_LOCK})
        config.attributes["connection"] = connection
        current = MigrationContext.configure(connection).get_current_revision()
        if current is None and sa.inspect(connection).has_table("jobs"):
            command.stamp(config, _FIRST)  # made before versions were counted
        elif current is not None and current not in {known.revision for known in script.walk_revisions()}:
            raise StorageError(
                f"The database of jobs has version {current}, which is newer than this Clearcut knows. "
                "Update Clearcut, or use another database."
            )
        command.upgrade(config, "head")
