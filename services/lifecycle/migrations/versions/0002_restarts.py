"""Restart policies, and how a container's restarts stand."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    op.add_column("containers", sa.Column("restart_policy", sa.Text, nullable=False, server_default="no"))
    op.add_column("containers", sa.Column("restart_count", sa.Integer, nullable=False, server_default="0"))
    op.add_column("containers", sa.Column("restart_delay_ms", sa.Integer, nullable=False, server_default="0"))
    op.add_column("containers", sa.Column("restart_at", sa.DateTime(timezone=True)))
