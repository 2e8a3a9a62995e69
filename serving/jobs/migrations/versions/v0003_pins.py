"""Pinned adapters."""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    op.create_table(
        "pins",
        sa.Column("foundation", sa.String(64), primary_key=True),
        sa.Column("path", sa.String(16), primary_key=True),
        sa.Column("sha256", sa.String(64), primary_key=True),
        sa.Column("concept", sa.String(64), nullable=False),
        sa.Column("version", sa.Integer, nullable=False),
        sa.Column("pinned", sa.Boolean, nullable=False),
        sa.Column("revision", sa.Integer, nullable=False),
        if_not_exists=True,  # `differences` finds another program's table of this name
    )
