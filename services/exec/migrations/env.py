from services.common.migrations_env import run
from services.exec.tables import metadata

run(metadata)
