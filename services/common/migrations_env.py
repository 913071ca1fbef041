"""What every service's Alembic `env.py` does: run on the connection that `Database.open` holds."""

from alembic import context
from sqlalchemy import MetaData


def run(metadata: MetaData) -> None:
    context.configure(connection=context.config.attributes["connection"], target_metadata=metadata)
    with context.begin_transaction():
        context.run_migrations()
