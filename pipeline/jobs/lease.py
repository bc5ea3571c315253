"""The right to write, which one process has at a time: a row that says whose it is and for how long.

A lease that ran out still holds until another takes it: every write asks for the token, not for the time. So an owner
that slept too long is refused from the moment on that there is a new one, and not before.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable

import sqlalchemy as sa

from pipeline.errors import LeaseLost
from pipeline.jobs import tables

_HEAL_AFTER_S = 5


class LeaseHeld(Exception):
    """Another process holds the lease.

    Attributes:
        retry_after_s: Seconds until it runs out, unless it is renewed.
    """

    def __init__(self, owner: str, retry_after_s: float) -> None:
        super().__init__(f"{owner} holds the lease for another {retry_after_s:.1f} s")
        self.retry_after_s = retry_after_s

    def __reduce__(self) -> tuple[object, ...]:
        return _again, (str(self), self.retry_after_s)


def _again(text: str, retry_after_s: float) -> LeaseHeld:
    error = LeaseHeld("", retry_after_s)
    error.args = (text,)
    return error


class Lease:
    """This process's side of the lease. Every method works in the caller's transaction.

    Args:
        now: The clock where the database has none of its own (SQLite); PostgreSQL's counts otherwise.
    """

    def __init__(self, now: Callable[[], float]) -> None:
        self._now = now
        self._token: str | None = None
        self._ttl_s = 0.0

    def acquire(self, connection: sa.Connection, owner: str, ttl_s: float) -> str:
        """A new token, to be adopted once the transaction is committed. Raises ``LeaseHeld``."""
        row = connection.execute(sa.select(tables.lease).with_for_update()).one()
        now = self._time(connection)
        if row.token not in (None, self._token) and row.expires_at > now:
            raise LeaseHeld(row.owner, row.expires_at - now)
        token = uuid.uuid4().hex
        connection.execute(sa.update(tables.lease).values(owner=owner, token=token, expires_at=now + ttl_s))
        return token

    def adopt(self, token: str | None, ttl_s: float = 0.0) -> None:
        """Holds ``token`` from now on; None holds nothing."""
        self._token, self._ttl_s = token, ttl_s

    def renew(self, connection: sa.Connection) -> None:
        """Begins its time anew. Raises ``LeaseLost``."""
        self.check(connection)
        connection.execute(sa.update(tables.lease).values(expires_at=self._time(connection) + self._ttl_s))

    def release(self, connection: sa.Connection) -> None:
        """Lets the next one in at once; does nothing if the lease is another's."""
        if self._token is not None:
            ours = tables.lease.c.token == self._token
            connection.execute(sa.update(tables.lease).where(ours).values(token=None, expires_at=0.0))

    def check(self, connection: sa.Connection) -> None:
        """Returns if the lease is ours, and keeps it so until the transaction ends. Raises ``LeaseLost``.

        The row stays locked, which also puts all writes of this process in a line.
        """
        token = connection.scalar(sa.select(tables.lease.c.token).with_for_update())
        if token is None or token != self._token:
            raise LeaseLost("The service is restarting. Try again in a few seconds.", retry_after=_HEAL_AFTER_S)

    def _time(self, connection: sa.Connection) -> float:
        if connection.dialect.name == "sqlite":
            return self._now()
        return float(connection.execute(sa.text("SELECT extract(epoch FROM clock_timestamp())")).scalar_one())
