"""A schema brought up to date by Alembic, in one transaction."""

from pathlib import Path

import alembic.command
import alembic.config
from sqlalchemy import Connection

# How long a service that starts waits for another one that migrates the same tables.
LOCK_WAIT_S = 30


def upgrade(connection: Connection, migrations: Path) -> None:
    config = alembic.config.Config()
    config.set_main_option("script_location", str(migrations).replace("%", "%%"))
    config.attributes["connection"] = connection
    alembic.command.upgrade(config, "head")
