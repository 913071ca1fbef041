"""The tables exec owns; output is in files."""

from sqlalchemy import (
    JSON,
    BigInteger,
    Boolean,
    Column,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    Table,
    Text,
)

from services.common.columns import UtcDateTime
from services.common.outbox import outbox_table

metadata = MetaData()

commands = Table(
    "commands",
    metadata,
    Column("id", Text, primary_key=True),
    Column("seq", BigInteger, nullable=False),
    Column("node_name", Text, nullable=False),
    Column("container_id", Text, nullable=False),
    Column("requested_by", Text, nullable=False),
    Column("program", Text, nullable=False),
    Column("args", JSON, nullable=False),
    Column("command", Text, nullable=False),
    Column("env", JSON, nullable=False),
    Column("cwd", Text, nullable=False),
    Column("user", Text, nullable=False),
    Column("stdin", LargeBinary),
    Column("stdin_open", Boolean, nullable=False),
    Column("timeout_s", Integer),
    Column("max_output_bytes", BigInteger, nullable=False),
    Column("status", Text, nullable=False),
    Column("exit_code", Integer),
    Column("signal", Text, nullable=False),
    Column("timed_out", Boolean, nullable=False),
    Column("error", Text, nullable=False),
    Column("stdout_bytes", BigInteger, nullable=False),
    Column("stderr_bytes", BigInteger, nullable=False),
    Column("truncated", Boolean, nullable=False),
    Column("created_at", UtcDateTime, nullable=False),
    Column("started_at", UtcDateTime),
    Column("finished_at", UtcDateTime),
    Index("commands_container_id", "container_id", "id"),
    Index("commands_status", "node_name", "status"),
    Index("commands_finished_at", "finished_at"),
)

outbox = outbox_table(metadata)
