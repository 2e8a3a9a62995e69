"""Uploaded files and trainings."""

import sqlalchemy as sa
from alembic import op

revision = "0008"
down_revision = "0007"


def upgrade() -> None:
    op.create_table(
        "files",
        sa.Column("number", sa.Integer, primary_key=True, autoincrement=True),
        sa.Column("id", sa.String(64), nullable=False, unique=True),
        sa.Column("tenant", sa.String(64), nullable=False, index=True),
        sa.Column("state", sa.String(16), nullable=False, index=True),
        sa.Column("filename", sa.String(255), nullable=False),
        sa.Column("purpose", sa.String(32), nullable=False),
        sa.Column("size", sa.BigInteger, nullable=False),
        sa.Column("sha256", sa.String(64)),
        sa.Column("created_at", sa.Float, nullable=False),
        sa.Column("expires_at", sa.Float, index=True),
        sa.Column("lifetime", sa.Float),
        if_not_exists=True,
    )
    op.create_table(
        "upload_parts",
        sa.Column("number", sa.Integer, primary_key=True, autoincrement=True),
        sa.Column("id", sa.String(64), nullable=False, unique=True),
        sa.Column("file", sa.String(64), nullable=False, index=True),
        sa.Column("place", sa.Integer),
        sa.Column("size", sa.BigInteger, nullable=False),
        sa.Column("sha256", sa.String(64), nullable=False),
        sa.Column("created_at", sa.Float, nullable=False),
        sa.UniqueConstraint("file", "place"),
        if_not_exists=True,
    )
    op.create_table(
        "trainings",
        sa.Column("number", sa.Integer, primary_key=True, autoincrement=True),
        sa.Column("id", sa.String(64), nullable=False, unique=True),
        sa.Column("tenant", sa.String(64), nullable=False, index=True),
        sa.Column("state", sa.String(24), nullable=False, index=True),
        sa.Column("concept", sa.String(64), nullable=False, index=True),
        sa.Column("foundation", sa.String(64), nullable=False),
        sa.Column("request", sa.JSON, nullable=False),
        sa.Column("work", sa.JSON),
        sa.Column("entered", sa.Boolean, nullable=False),
        sa.Column("settled", sa.Boolean, nullable=False, index=True),
        sa.Column("revision", sa.Integer, nullable=False),
        sa.Column("owner", sa.String(64)),
        sa.Column("lease_until", sa.Float),
        sa.Column("step", sa.Integer, nullable=False),
        sa.Column("steps", sa.Integer),
        sa.Column("loss", sa.Float),
        sa.Column("step_seconds", sa.Float),
        sa.Column("version", sa.String(128)),
        sa.Column("created_at", sa.Float, nullable=False),
        sa.Column("started_at", sa.Float),
        sa.Column("finished_at", sa.Float, index=True),
        sa.Column("error_code", sa.String(64)),
        sa.Column("error_message", sa.String(2000)),
        sa.Column("error_param", sa.String(64)),
        sa.Column("idempotency_key", sa.String(255)),
        sa.Column("body_sha256", sa.String(64)),
        sa.Column("webhook_url", sa.String(2000)),
        sa.UniqueConstraint("tenant", "idempotency_key"),
        if_not_exists=True,
    )
    op.create_table(
        "training_events",
        sa.Column("number", sa.Integer, primary_key=True, autoincrement=True),
        sa.Column("training", sa.String(64), nullable=False, index=True),
        sa.Column("place", sa.Integer, nullable=False),
        sa.Column("created_at", sa.Float, nullable=False),
        sa.Column("level", sa.String(8), nullable=False),
        sa.Column("kind", sa.String(8), nullable=False),
        sa.Column("message", sa.String(2000), nullable=False),
        sa.Column("data", sa.JSON, nullable=False),
        if_not_exists=True,
    )
