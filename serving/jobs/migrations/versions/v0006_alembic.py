"""Alembic's table has the version; the table that had it before goes."""

from alembic import op

revision = "0006"
down_revision = "0005"


def upgrade() -> None:
    op.drop_table("schema_version", if_exists=True)
