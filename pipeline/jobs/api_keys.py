"""API keys: who may come in, and as what. Only hashes are kept.

They lie in the jobs' database but outside its lease: ``scripts/api_keys.py`` writes while JobManager runs.
"""

from __future__ import annotations

import hashlib
import hmac
import re
import secrets
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias, cast, get_args

import sqlalchemy as sa

from pipeline.errors import StorageError
from pipeline.jobs.database import Database
from pipeline.jobs.tables import api_keys as rows
from pipeline.jobs.tables import secrets as secret_rows

Tier: TypeAlias = Literal["free", "basic", "pro"]
TIERS: tuple[Tier, ...] = get_args(Tier)

_KEY = re.compile(r"cc_[0-9a-f]{8}_[0-9a-f]{40}")
_PREFIX = re.compile(r"(?:cc_)?([0-9a-f]{8})(?:_[0-9a-f]{40})?")
_UNKNOWN = "No key in use has that name or prefix."
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9 ._@-]{0,63}")


class KeyProblem(Exception):
    """A key cannot be made or found as asked; the text is for the operator."""


@dataclass(frozen=True)
class ApiKey:
    """A key as it is kept. Times are seconds since the epoch, UTC.

    Attributes:
        prefix: The part of the key that may be shown.
        key_id: Whose it is. A key and those that replace it share one, and so what was made with them.
        last_used_at: To the minute; None if it never was.
        ends_at: From when on it is refused; None while nobody ended it.
    """

    prefix: str
    key_id: str
    name: str
    tier: Tier
    created_at: float
    last_used_at: float | None
    ends_at: float | None


def fingerprint(key: str) -> str | None:
    """What stands for a key on the way to its owner, so that the key itself stays where it came in.

    None if it cannot be one of ours.
    """
    return _hash(key) if _KEY.fullmatch(key) else None


class ApiKeys:
    """The keys in the jobs' database. Every method may raise ``StorageError``.

    Args:
        url: SQLAlchemy URL of that database, as for ``JobStore``.
        secret: What to hash with, instead of the secret in the database. Keys made under another one are unknown.
        now: The clock, for tests.
    """

    def __init__(self, url: str | sa.URL, *, secret: str | None = None, now: Callable[[], float] = time.time) -> None:
        self._database = Database(url)
        self._now = now
        self._secret = (secret or self._kept_secret()).encode()

    def close(self) -> None:
        """Gives the connections back."""
        self._database.close()

    def create(self, name: str, tier: Tier) -> tuple[ApiKey, str]:
        """A new key and its text, which is nowhere else.

        Raises:
            KeyProblem: The name is in use, or cannot be one.
        """
        if not _NAME.fullmatch(name) or _PREFIX.fullmatch(name):
            raise KeyProblem(
                "A name is 1 to 64 letters, digits, spaces or ._@-, begins with a letter or a digit, "
                "and does not look like a key."
            )
        try:
            with self._database.writing() as connection:
                return self._insert(connection, name=name, tier=tier, key_id=secrets.token_hex(16))
        except StorageError as error:
            if isinstance(error.__cause__, sa.exc.IntegrityError):  # of a name, one key is in use
                raise KeyProblem(f"There is a key named {name!r}. Rotate or revoke it, or take another name.") from None
            raise

    def all(self) -> list[ApiKey]:
        """Every key, ended ones too, the oldest first."""
        with self._database.reading() as connection:
            found = connection.execute(sa.select(rows).order_by(rows.c.created_at, rows.c.prefix))
            return [_to_key(row) for row in found]

    def find(self, fingerprint: str) -> ApiKey | None:
        """The key with this fingerprint, unless it has ended."""
        with self._database.reading() as connection:
            row = connection.execute(sa.select(rows).where(rows.c.digest == self._digest(fingerprint))).first()
        if row is None or (row.ends_at is not None and row.ends_at <= self._now()):
            return None
        return _to_key(row)

    def revoke(self, name_or_prefix: str) -> list[ApiKey]:
        """Ends a key now, by its prefix; or by name, with those of that name that are still in their grace time.

        Raises:
            KeyProblem: No such key is in use.
        """
        now = self._now()
        in_use = sa.or_(rows.c.ends_at.is_(None), rows.c.ends_at > now)
        with self._database.writing() as connection:
            query = sa.select(rows).where(_is_called(name_or_prefix), in_use)
            ended = [_to_key(row) for row in connection.execute(query)]
            if not ended:
                raise KeyProblem(_UNKNOWN)
            prefixes = [key.prefix for key in ended]
            connection.execute(sa.update(rows).where(rows.c.prefix.in_(prefixes)).values(ends_at=now))
        return ended

    def rotate(self, name_or_prefix: str, *, grace_s: float = 0.0) -> tuple[ApiKey, str]:
        """A new key in place of one that goes on for ``grace_s`` seconds, and the new one's text.

        Raises:
            KeyProblem: No such key is in use, or it was replaced already.
        """
        now = self._now()
        with self._database.writing() as connection:
            query = sa.select(rows).where(_is_called(name_or_prefix), rows.c.ends_at.is_(None))
            old = connection.execute(query.with_for_update()).first()
            if old is None:
                raise KeyProblem(_UNKNOWN)
            connection.execute(sa.update(rows).where(rows.c.prefix == old.prefix).values(ends_at=now + grace_s))
            return self._insert(connection, name=old.name, tier=old.tier, key_id=old.key_id)

    def used(self, times: Mapping[str, float]) -> None:
        """Records when keys were last used, by prefix."""
        with self._database.writing() as connection:
            for prefix, at in sorted(times.items()):  # in one order, so that two writers cannot wait for each other
                connection.execute(sa.update(rows).where(rows.c.prefix == prefix).values(last_used_at=at))

    def _insert(self, connection: sa.Connection, *, name: str, tier: str, key_id: str) -> tuple[ApiKey, str]:
        prefix = secrets.token_hex(4)
        text = f"cc_{prefix}_{secrets.token_hex(20)}"
        key = ApiKey(prefix, key_id, name, cast(Tier, tier), self._now(), last_used_at=None, ends_at=None)
        connection.execute(sa.insert(rows).values(**vars(key), digest=self._digest(_hash(text))))
        return key, text

    def _digest(self, fingerprint: str) -> str:
        return hmac.new(self._secret, fingerprint.encode(), hashlib.sha256).hexdigest()

    def _kept_secret(self) -> str:
        with self._database.reading() as connection:
            query = sa.select(secret_rows.c.value).where(secret_rows.c.name == "api_keys")
            return str(connection.execute(query).scalar_one())


def _hash(key: str) -> str:
    return hashlib.sha256(key.encode()).hexdigest()


def _is_called(name_or_prefix: str) -> sa.ColumnElement[bool]:
    """Names and prefixes never look alike.

    An operator may have copied ``1a2b3c4d``, ``cc_1a2b3c4d`` or the whole key.
    """
    prefix = _PREFIX.fullmatch(name_or_prefix)
    return rows.c.prefix == prefix[1] if prefix else rows.c.name == name_or_prefix


def _to_key(row: sa.Row[Any]) -> ApiKey:
    return ApiKey(row.prefix, row.key_id, row.name, row.tier, row.created_at, row.last_used_at, row.ends_at)
