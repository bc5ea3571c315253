"""API keys, the secret they are hashed with, and which key a job belongs to."""

import secrets

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    op.add_column("jobs", sa.Column("key_id", sa.String(32), nullable=True))
    op.create_table(
        "api_keys",
        sa.Column("prefix", sa.String(8), primary_key=True),
        sa.Column("digest", sa.String(64), nullable=False, unique=True),
        sa.Column("key_id", sa.String(32), nullable=False),
        sa.Column("name", sa.String(64), nullable=False),
        sa.Column("tier", sa.String(16), nullable=False),
        sa.Column("created_at", sa.Float, nullable=False),
        sa.Column("last_used_at", sa.Float, nullable=True),
        sa.Column("ends_at", sa.Float, nullable=True),
    )
    unended = sa.text("ends_at IS NULL")
    op.create_index(
        "ix_api_keys_one_per_name",
        "api_keys",
        ["name"],
        unique=True,
        sqlite_where=unended,
        postgresql_where=unended,
    )
    table = op.create_table(
        "secrets",
        sa.Column("name", sa.String(32), primary_key=True),
        sa.Column("value", sa.Text, nullable=False),
    )
    op.bulk_insert(table, [{"name": "api_keys", "value": secrets.token_hex(32)}])
