"""The tables lifecycle owns. A row belongs to its node: only that node's service changes it."""

from sqlalchemy import (
    JSON,
    BigInteger,
    Boolean,
    Column,
    Double,
    Index,
    Integer,
    MetaData,
    Table,
    Text,
    UniqueConstraint,
    false,
)

from services.common.columns import UtcDateTime
from services.common.outbox import outbox_table

metadata = MetaData()

containers = Table(
    "containers",
    metadata,
    Column("id", Text, primary_key=True),
    Column("node_name", Text, nullable=False),
    Column("user_id", Text, nullable=False),
    Column("number", Integer, nullable=False),
    Column("name", Text, nullable=False),
    Column("image", Text, nullable=False),
    Column("resolved_image", JSON),
    Column("command", JSON, nullable=False),
    Column("env", JSON, nullable=False),
    Column("labels", JSON, nullable=False),
    Column("cpu_cores", Integer, nullable=False),
    Column("memory_mb", Integer, nullable=False),
    Column("disk_gb", Integer, nullable=False),
    Column("runtime", Text, nullable=False),
    Column("id_base", BigInteger, nullable=False),
    Column("ip_address", Text, nullable=False),
    Column("state", Text, nullable=False),
    Column("desired", Text, nullable=False),
    Column("state_reason", Text, nullable=False),
    Column("exit_code", Integer),
    Column("created_at", UtcDateTime, nullable=False),
    Column("started_at", UtcDateTime),
    Column("finished_at", UtcDateTime),
    Column("restart_policy", Text, nullable=False, server_default="no"),
    Column("restart_count", Integer, nullable=False, server_default="0"),
    Column("restart_delay_ms", Integer, nullable=False, server_default="0"),
    Column("restart_at", UtcDateTime),
    Column("auto_stop_s", Integer),
    # Seconds since the machine's boot; of the run that goes on.
    Column("idle_since", Double),
    Column("expires_at", UtcDateTime),
    Column("is_expiry_told", Boolean, nullable=False, server_default=false()),
    UniqueConstraint("user_id", "name", name="containers_user_id_name"),
    UniqueConstraint("node_name", "number", name="containers_node_name_number"),
    Index("containers_auto_stop_s", "auto_stop_s"),
    Index("containers_expires_at", "expires_at"),
)

# A create that is repeated after its container was deleted must not make a second one.
deleted_containers = Table(
    "deleted_containers",
    metadata,
    Column("id", Text, primary_key=True),
    Column("deleted_at", UtcDateTime, nullable=False),
    Index("deleted_containers_deleted_at", "deleted_at"),
)

# What a node has chosen once and keeps: its subnet.
node_choices = Table(
    "node_choices",
    metadata,
    Column("node_name", Text, primary_key=True),
    Column("subnet", Text, nullable=False),
    Column("id_base", BigInteger, nullable=False),
)

outbox = outbox_table(metadata)
