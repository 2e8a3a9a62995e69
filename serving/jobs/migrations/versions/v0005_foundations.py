"""Jobs belong to a foundation. Older jobs name none, and any server may run them."""

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"


def upgrade() -> None:
    op.add_column("jobs", sa.Column("foundation", sa.String(64)))
    op.create_table(
        "servers",
        sa.Column("foundation", sa.String(64), primary_key=True),
        sa.Column("seen", sa.Float, nullable=False),
        if_not_exists=True,
    )
