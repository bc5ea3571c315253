"""The databases on which every test of the store runs: SQLite, and a real PostgreSQL server."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from pipeline.jobs.store import JobStore
from tests.servers import postgres

TTL_S = 3600.0


class Clock:
    """Time moved by hand."""

    def __init__(self) -> None:
        self.seconds = 1_000_000.25

    def __call__(self) -> float:
        return self.seconds


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[postgres.PostgresServer]:
    programs = postgres.programs()
    if programs is None:
        pytest.skip("PostgreSQL's server is not installed (Debian: apt-get install postgresql)")
    server = postgres.PostgresServer(programs)
    yield server
    server.remove()


@pytest.fixture
def postgres_url(postgres_server: postgres.PostgresServer) -> Iterator[str]:
    with postgres_server.database() as url:
        yield url


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """An empty database."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'jobs.db'}"
    found: str = request.getfixturevalue("postgres_url")
    return found


@pytest.fixture
def open_store(url: str, clock: Clock) -> Iterator[Callable[[], JobStore]]:
    """Opens the database once more: another process, as far as the store can tell."""
    opened: list[JobStore] = []

    def open_one() -> JobStore:
        opened.append(JobStore(url, ttl_s=TTL_S, now=clock))
        return opened[-1]

    yield open_one
    for store in opened:
        store.close()


@pytest.fixture
def store(open_store: Callable[[], JobStore]) -> JobStore:
    """A store that holds the lease."""
    opened = open_store()
    opened.acquire_lease("this test", ttl_s=60)
    return opened
