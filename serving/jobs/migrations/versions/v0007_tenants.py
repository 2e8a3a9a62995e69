"""Tenants, their keys, shared concepts, usage, erasures, and the audit log."""

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"

SQLITE_APPEND_ONLY = """
CREATE TRIGGER audit_log_no_{what} BEFORE {what} ON audit_log
BEGIN SELECT RAISE(ABORT, 'the audit log is append-only'); END
"""
POSTGRESQL_REFUSE = """
CREATE OR REPLACE FUNCTION audit_log_refuse() RETURNS trigger LANGUAGE plpgsql AS
$$ BEGIN RAISE EXCEPTION 'the audit log is append-only'; END $$
"""
POSTGRESQL_APPEND_ONLY = """
CREATE TRIGGER audit_log_append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON audit_log
FOR EACH STATEMENT EXECUTE FUNCTION audit_log_refuse()
"""


def create(name: str, *columns: sa.Column) -> bool:
    """Create a table; False if there is one of this name, which `differences` finds to be another program's."""
    if sa.inspect(op.get_bind()).has_table(name):
        return False
    op.create_table(name, *columns)
    return True


def upgrade() -> None:
    create(
        "tenants",
        sa.Column("name", sa.String(64), primary_key=True),
        sa.Column("id", sa.String(16), nullable=False, unique=True),
        sa.Column("created_at", sa.Float, nullable=False),
        sa.Column("erasing_at", sa.Float),
        sa.Column("storage_bytes", sa.BigInteger),
        sa.Column("videos_per_day", sa.Integer),
        sa.Column("trainings_per_day", sa.Integer),
        sa.Column("trainings_at_once", sa.Integer),
        sa.Column("max_priority", sa.Integer),
        sa.Column("requests_per_minute", sa.Float),
        sa.Column("concurrency", sa.Integer),
    )
    create(
        "api_keys",
        sa.Column("sha256", sa.String(64), primary_key=True),
        sa.Column("id", sa.String(64), nullable=False, unique=True),
        sa.Column("tenant", sa.String(64), nullable=False, index=True),
        sa.Column("name", sa.String(100), nullable=False),
        sa.Column("role", sa.String(16), nullable=False),
        sa.Column("created_at", sa.Float, nullable=False),
        sa.Column("expires_at", sa.Float),
        sa.Column("revoked_at", sa.Float),
    )
    create(
        "concept_shares",
        sa.Column("concept", sa.String(64), primary_key=True),
        sa.Column("shared_with", sa.String(64), primary_key=True, index=True),
        sa.Column("at", sa.Float, nullable=False),
    )
    create(
        "usage",
        sa.Column("job_id", sa.String(64), primary_key=True),
        sa.Column("tenant", sa.String(64), nullable=False, index=True),
        sa.Column("kind", sa.String(16), nullable=False),
        sa.Column("day", sa.String(10), nullable=False, index=True),
        sa.Column("model", sa.String(256), nullable=False),
        sa.Column("frames", sa.Integer, nullable=False),
        sa.Column("steps", sa.Integer, nullable=False),
        sa.Column("device_seconds", sa.Float),
        sa.Column("bytes", sa.BigInteger, nullable=False),
        sa.Column("at", sa.Float, nullable=False),
    )
    create(
        "erasures",
        sa.Column("concept", sa.String(64), primary_key=True),
        sa.Column("version", sa.Integer, primary_key=True),
        sa.Column("hashes", sa.JSON, nullable=False),
        sa.Column("asked_at", sa.Float, nullable=False),
    )
    is_new = create(
        "audit_log",
        sa.Column("number", sa.Integer, primary_key=True, autoincrement=True),
        sa.Column("at", sa.Float, nullable=False),
        sa.Column("actor", sa.String(64), nullable=False),
        sa.Column("action", sa.String(40), nullable=False),
        sa.Column("tenant", sa.String(16), nullable=False),
        sa.Column("subject", sa.String(100), nullable=False),
    )
    if is_new and op.get_bind().dialect.name == "sqlite":
        for what in ("UPDATE", "DELETE"):
            op.execute(SQLITE_APPEND_ONLY.format(what=what))
    elif is_new:
        op.execute(POSTGRESQL_REFUSE)
        op.execute(POSTGRESQL_APPEND_ONLY)
