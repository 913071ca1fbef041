from services.common.migrations_env import run
from services.lifecycle.tables import metadata

run(metadata)
