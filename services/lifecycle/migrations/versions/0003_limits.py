"""How long a container may stay: unused, and at all."""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    op.add_column("containers", sa.Column("auto_stop_s", sa.Integer))
    op.add_column("containers", sa.Column("idle_since", sa.Double))
    op.add_column("containers", sa.Column("expires_at", sa.DateTime(timezone=True)))
    op.add_column("containers", sa.Column("is_expiry_told", sa.Boolean, nullable=False, server_default=sa.false()))
    op.create_index("containers_auto_stop_s", "containers", ["auto_stop_s"])
    op.create_index("containers_expires_at", "containers", ["expires_at"])
