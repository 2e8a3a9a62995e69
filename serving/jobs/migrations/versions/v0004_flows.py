"""Fair shares by tenant and weight."""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"


def upgrade() -> None:
    op.create_table(
        "flows",
        sa.Column("tenant", sa.String(64), primary_key=True),
        sa.Column("weight", sa.Float, primary_key=True),
        sa.Column("served", sa.Float, nullable=False),
        if_not_exists=True,
    )
