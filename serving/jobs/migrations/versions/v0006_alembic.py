"""Alembic's table now holds the version; drop the table that held it before."""

from alembic import op

revision = "0006"
down_revision = "0005"


def upgrade() -> None:
    op.drop_table("schema_version", if_exists=True)
