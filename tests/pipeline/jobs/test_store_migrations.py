"""Versions of the database: an older one is brought along, a newer one is left alone."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import sqlalchemy as sa
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext

from pipeline.errors import JobNotFound, StorageError
from pipeline.jobs.records import JobObject
from pipeline.jobs.store import JobStore
from pipeline.jobs.tables import metadata
from pipeline.types import MaskQuality
from tests.pipeline.jobs.conftest import Clock
from tests.pipeline.jobs.jobs import OBJECTS, UPLOAD, process

Open = Callable[[], JobStore]
ROOT = Path(__file__).parents[3]

first = sa.MetaData()
first_jobs = sa.Table(  # as the release before versions made it
    "jobs",
    first,
    sa.Column("job_id", sa.String(32), primary_key=True),
    sa.Column("state", sa.String(16), nullable=False, index=True),
    sa.Column("stage", sa.String(32), nullable=False),
    sa.Column("progress", sa.Integer, nullable=False),
    sa.Column("width", sa.Integer, nullable=False),
    sa.Column("height", sa.Integer, nullable=False),
    sa.Column("objects", sa.Text, nullable=False),
    sa.Column("qualities", sa.Text, nullable=False),
    sa.Column("files", sa.Text, nullable=False),
    sa.Column("error", sa.Text, nullable=True),
    sa.Column("created_at", sa.Float, nullable=False),
    sa.Column("updated_at", sa.Float, nullable=False),
    sa.Column("expires_at", sa.Float, nullable=False, index=True),
)


def engine_of(url: str) -> sa.Engine:
    return sa.create_engine(url.replace("postgresql://", "postgresql+psycopg://"), poolclass=sa.NullPool)


def make_first_version(url: str, now: float) -> None:
    """The database that the release before versions left behind."""

    def job(job_id: str, state: str, **values: object) -> dict[str, object]:
        row: dict[str, object] = {
            "job_id": job_id,
            "state": state,
            "stage": "done",
            "progress": 100,
            "width": 7,
            "height": 5,
            "objects": json.dumps([[[[60.5, 45.0], [1.25, 2.0]], [1, 0]]]),
            "qualities": json.dumps([[0.25, 0.75]]),
            "files": json.dumps(["original.png", "mask_0.png"]),
            "error": None,
            "created_at": now - 50,
            "updated_at": now - 40,
            "expires_at": now + 3560,
        }
        return row | values

    engine = engine_of(url)
    first.create_all(engine)
    with engine.begin() as connection:
        connection.execute(
            sa.insert(first_jobs),
            [
                job("uploaded", "uploaded", objects="[]", qualities="[]", files='["original.png"]', progress=0),
                job("late", "processing", stage="inpainting", progress=60, updated_at=now - 10),
                job("early", "processing", stage="queued", progress=0, updated_at=now - 20),
                job("ready", "ready"),
                job("error", "error", error="It failed.", progress=40),
                job("expired", "ready", expires_at=now - 1),
            ],
        )


def test_jobs_from_before_versions_are_taken_over(url: str, open_store: Open, clock: Clock) -> None:
    make_first_version(url, clock.seconds)
    store = open_store()
    ready = store.get("ready")
    assert (ready.state, ready.progress, ready.width, ready.height) == ("ready", 100, 7, 5)
    assert ready.objects == (JobObject(((60.5, 45.0), (1.25, 2.0)), (1, 0)),)
    assert ready.qualities == (MaskQuality(0.25, 0.75),)
    assert ready.files == ("original.png", "mask_0.png")
    assert (ready.client, ready.run, ready.attempts, ready.deaths) == ("", 0, 0, 0)
    assert (ready.callback_url, ready.bytes_stored, ready.created_at) == (None, 0, clock.seconds - 50)
    assert store.get("error").error == "It failed."
    with pytest.raises(JobNotFound):
        store.get("expired")


def test_their_life_goes_on(url: str, open_store: Open, clock: Clock) -> None:
    make_first_version(url, clock.seconds)
    store = open_store()
    store.acquire_lease("this test", ttl_s=60)
    assert [record.job_id for record in store.unfinished()] == ["early", "late"]
    store.requeue("late", 0)
    store.begin("late", 0)
    assert store.advance("late", 0, progress=70, add_file="mask_1.png").files[1:] == ("mask_0.png", "mask_1.png")
    assert store.finish("late", 0).state == "ready"
    assert [event.name for event in store.events_after("late", 0)] == ["queued", "mask_1.png", "ready"]
    assert store.start("ready", OBJECTS, keep_files=UPLOAD)[0].run == 1
    assert store.start("uploaded", OBJECTS, keep_files=UPLOAD)[0].run == 1
    assert store.forget_expired() == ["expired"]


@pytest.mark.parametrize("old", [False, True], ids=["new", "taken over"])
def test_the_migrations_make_the_tables_of_the_code(url: str, open_store: Open, clock: Clock, old: bool) -> None:
    if old:
        make_first_version(url, clock.seconds)
    open_store()
    with engine_of(url).connect() as connection:
        assert compare_metadata(MigrationContext.configure(connection), metadata) == []


def test_an_opened_database_keeps_its_jobs(store: JobStore, open_store: Open) -> None:
    record = process(store)
    assert open_store().get("a") == record


def test_a_newer_database_is_refused_and_left_alone(url: str, store: JobStore, open_store: Open) -> None:
    process(store)
    engine = engine_of(url)
    with engine.begin() as connection:
        connection.execute(sa.text("UPDATE alembic_version SET version_num = '9999'"))
        before = connection.execute(sa.text("SELECT * FROM jobs")).all()
    with pytest.raises(StorageError, match="version 9999, which is newer"):
        open_store()
    with engine.connect() as connection:
        assert connection.execute(sa.text("SELECT * FROM jobs")).all() == before
        assert connection.scalar(sa.text("SELECT version_num FROM alembic_version")) == "9999"


def test_a_migration_that_fails_leaves_the_old_database(url: str, open_store: Open, clock: Clock) -> None:
    make_first_version(url, clock.seconds)
    engine = engine_of(url)
    with engine.begin() as connection:
        connection.execute(sa.text("CREATE TABLE lease (id INTEGER)"))  # in the way of the last step
    with pytest.raises(StorageError):
        open_store()
    assert not sa.inspect(engine).has_table("job_events")
    assert not sa.inspect(engine).has_table("alembic_version")
    with engine.begin() as connection:
        connection.execute(sa.text("DROP TABLE lease"))
    assert open_store().get("ready").state == "ready"


OPEN = """
import sys
from pipeline.jobs.store import JobStore
print("loaded", flush=True)
sys.stdin.readline()
store = JobStore(sys.argv[1], ttl_s=3600)
store.close()
print("open", flush=True)
"""


@pytest.mark.parametrize("old", [False, True], ids=["new", "taken over"])
def test_processes_that_open_it_at_once_find_it_whole(
    url: str, open_store: Open, clock: Clock, tmp_path: Path, old: bool
) -> None:
    if old:
        make_first_version(url, clock.seconds)
    openers = [
        subprocess.Popen(
            [sys.executable, "-c", OPEN, url],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            cwd=tmp_path,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
        )
        for _ in range(3)
    ]
    for opener in openers:
        assert opener.stdout is not None
        assert opener.stdout.readline() == "loaded\n"
    for opener in openers:
        assert opener.stdin is not None
        opener.stdin.write("\n")
        opener.stdin.flush()
    outputs = [opener.communicate(timeout=60) for opener in openers]
    assert outputs == [("open\n", "")] * 3
    store = open_store()
    store.acquire_lease("this test", ttl_s=60)
    assert [record.job_id for record in store.unfinished()] == (["early", "late"] if old else [])
