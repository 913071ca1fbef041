"""Alembic's entry: the schema is brought up to date on the connection the gateway opened."""

from services.common.migrations_env import run
from services.gateway.tables import metadata

run(metadata)
