"""One door to the jobs' database: SQLite or PostgreSQL, durable, with its errors turned into ours."""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Iterator
from typing import Any

import sqlalchemy as sa
from sqlalchemy import event

from pipeline.errors import StorageError, StorageFull, StorageUnavailable
from pipeline.jobs.migrations import upgrade

RETRY_AFTER_S = 5

_CONNECT_ARGS = {  # of libpq: a server that is gone is noticed within seconds, not after the kernel's minutes
    "connect_timeout": "5",
    "keepalives_idle": "10",
    "keepalives_interval": "5",
    "keepalives_count": "3",
    "tcp_user_timeout": "15000",
}
# The last one frees the rows of a client that vanished in mid-transaction without a word.
_SESSION = (
    "SET lock_timeout = '10s'",
    "SET statement_timeout = '30s'",
    "SET idle_in_transaction_session_timeout = '30s'",
)
_READ = {"sqlite_begin": "BEGIN"}


class Database:
    """Opens the database and brings its tables up to date.

    SQLite runs in WAL mode with ``synchronous=FULL``: a power cut loses nothing that was committed.

    Args:
        url: SQLAlchemy URL; ``postgres://`` and ``postgresql://`` mean the driver psycopg.

    Raises:
        StorageUnavailable: It cannot be reached.
        StorageError: It is of a version newer than this code, or neither SQLite nor PostgreSQL.
    """

    def __init__(self, url: str | sa.URL) -> None:
        try:
            self._engine = _create_engine(sa.make_url(url))
        except sa.exc.ArgumentError:
            raise StorageError("DATABASE_URL is not a URL that SQLAlchemy understands.") from None
        try:
            with _named_errors():
                upgrade(self._engine)
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Gives the connections back."""
        self._engine.dispose()

    @contextlib.contextmanager
    def reading(self) -> Iterator[sa.Connection]:
        """A transaction that only reads."""
        with _named_errors(), self._engine.connect().execution_options(**_READ) as connection:
            yield connection

    @contextlib.contextmanager
    def writing(self) -> Iterator[sa.Connection]:
        """A transaction, committed when the block ends well. On SQLite it is the only one that writes."""
        with _named_errors(), self._engine.begin() as connection:
            yield connection


def _create_engine(url: sa.URL) -> sa.Engine:
    if url.drivername in ("postgres", "postgresql"):
        url = url.set(drivername="postgresql+psycopg")
    if url.get_backend_name() == "sqlite":
        engine = sa.create_engine(url)
        event.listen(engine, "connect", _make_durable)
        event.listen(engine, "begin", _begin)
        return engine
    if url.get_backend_name() == "postgresql":
        arguments = {name: value for name, value in _CONNECT_ARGS.items() if name not in url.query}
        engine = sa.create_engine(url, pool_pre_ping=True, connect_args=arguments)
        event.listen(engine, "connect", _bound_waits)
        return engine
    raise StorageError("DATABASE_URL must name SQLite or PostgreSQL.")


def _make_durable(connection: sqlite3.Connection, _record: Any) -> None:
    connection.isolation_level = None  # the driver's own transactions begin too late, see _begin
    for pragma in ("busy_timeout=10000", "journal_mode=WAL", "synchronous=FULL"):
        connection.execute(f"PRAGMA {pragma}")


def _begin(connection: sa.Connection) -> None:
    # A transaction that reads first and then writes fails if another wrote in between; IMMEDIATE waits at its begin.
    connection.exec_driver_sql(connection.get_execution_options().get("sqlite_begin", "BEGIN IMMEDIATE"))


def _bound_waits(connection: Any, _record: Any) -> None:
    with connection.cursor() as cursor:
        for statement in _SESSION:
            cursor.execute(statement)
    connection.commit()


@contextlib.contextmanager
def _named_errors() -> Iterator[None]:
    try:
        yield
    except sa.exc.SQLAlchemyError as error:
        raise _named(error) from error


def _named(error: sa.exc.SQLAlchemyError) -> StorageError:
    cause = getattr(error, "orig", None)
    if getattr(cause, "sqlite_errorcode", None) == sqlite3.SQLITE_FULL or getattr(cause, "sqlstate", None) == "53100":
        return StorageFull("The server has no room for more jobs. Try again later.")
    if isinstance(error, sa.exc.OperationalError | sa.exc.InterfaceError | sa.exc.TimeoutError) or (
        isinstance(error, sa.exc.DBAPIError) and error.connection_invalidated
    ):
        return StorageUnavailable(
            "The database of jobs does not answer. Try again in a few seconds.", retry_after=RETRY_AFTER_S
        )
    return StorageError("The database of jobs cannot be used.")
