"""Runs, events, idempotency keys, the outbox of callbacks and the lease.

A job from before stays at run 0, whose files have no prefix.
"""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    for column in (
        sa.Column("client", sa.Text, nullable=False, server_default=""),
        sa.Column("run", sa.Integer, nullable=False, server_default="0"),
        sa.Column("attempts", sa.Integer, nullable=False, server_default="0"),
        sa.Column("deaths", sa.Integer, nullable=False, server_default="0"),
        sa.Column("callback_url", sa.Text, nullable=True),
        sa.Column("bytes_stored", sa.BigInteger, nullable=False, server_default="0"),
        sa.Column("sizes", sa.Text, nullable=False, server_default="{}"),
        sa.Column("queued_at", sa.Float, nullable=False, server_default="0"),
        sa.Column("last_event", sa.Integer, nullable=False, server_default="0"),
    ):
        op.add_column("jobs", column)
    op.execute("UPDATE jobs SET queued_at = updated_at")

    op.create_table(
        "job_events",
        sa.Column("job_id", sa.String(32), primary_key=True),
        sa.Column("number", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("run", sa.Integer, nullable=False),
        sa.Column("kind", sa.String(16), nullable=False),
        sa.Column("name", sa.Text, nullable=False),
        sa.Column("record", sa.Text, nullable=False),
    )
    op.create_table(
        "idempotency_keys",
        sa.Column("digest", sa.String(64), primary_key=True),
        sa.Column("fingerprint", sa.String(64), nullable=False),
        sa.Column("job_id", sa.String(32), nullable=False, index=True),
    )
    op.create_table(
        "doomed_jobs",
        sa.Column("job_id", sa.String(32), primary_key=True),
        sa.Column("bytes_stored", sa.BigInteger, nullable=False),
    )
    op.create_table(
        "deliveries",
        sa.Column("delivery_id", sa.String(32), primary_key=True),
        sa.Column("job_id", sa.String(32), nullable=False),
        sa.Column("url", sa.Text, nullable=False),
        sa.Column("record", sa.Text, nullable=False),
        sa.Column("attempts", sa.Integer, nullable=False),
        sa.Column("due_at", sa.Float, nullable=False, index=True),
    )
    op.create_table(
        "lease",
        sa.Column("id", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("owner", sa.Text, nullable=False),
        sa.Column("token", sa.String(32), nullable=True),
        sa.Column("expires_at", sa.Float, nullable=False),
    )
    op.execute("INSERT INTO lease (id, owner, token, expires_at) VALUES (1, '', NULL, 0)")
