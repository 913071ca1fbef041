"""The gateway's tables."""

from pathlib import Path

from sqlalchemy import BigInteger, CheckConstraint, Column, ForeignKey, Index, Integer, MetaData, Table, Text

from services.common.columns import UtcDateTime

MIGRATIONS = Path(__file__).parent / "migrations"

metadata = MetaData()

users = Table(
    "users",
    metadata,
    Column("id", Text, primary_key=True),
    Column("email", Text, nullable=False, unique=True),  # lower case
    Column("role", Text, CheckConstraint("role IN ('admin', 'user')"), nullable=False),
    Column("created_at", UtcDateTime, nullable=False),
)

tokens = Table(
    "tokens",
    metadata,
    Column("id", Text, primary_key=True),
    Column("user_id", Text, ForeignKey("users.id"), nullable=False),
    Column("name", Text, nullable=False),
    Column("prefix", Text, nullable=False),  # what people tell tokens apart by
    Column("sha256", Text, nullable=False, unique=True),  # hexadecimal, of the whole token
    Column("created_at", UtcDateTime, nullable=False),
    Column("expires_at", UtcDateTime),
    Column("last_used_at", UtcDateTime),  # to the minute
    Column("revoked_at", UtcDateTime),
    Index("tokens_user_id", "user_id"),
)

idempotency_keys = Table(
    "idempotency_keys",
    metadata,
    Column("user_id", Text, ForeignKey("users.id"), primary_key=True),
    Column("key", Text, primary_key=True),
    Column("request_sha256", Text, nullable=False),
    Column("resource_id", Text, nullable=False),  # chosen before the first attempt, the same in each
    Column("status", Integer),  # null until the answer is known
    Column("body", Text),
    Column("created_at", UtcDateTime, nullable=False),
    Index("idempotency_keys_created_at", "created_at"),
)

# Only ever added to, by audit_chain: triggers refuse everything else.
audit_log = Table(
    "audit_log",
    metadata,
    Column("seq", BigInteger, primary_key=True, autoincrement=False),  # from 1 on, without a gap
    Column("id", Text, nullable=False, unique=True),
    Column("user_id", Text),  # no foreign key: the entry outlives the user
    Column("container_id", Text),
    Column("action", Text, nullable=False),
    Column("outcome", Text, CheckConstraint("outcome IN ('success', 'failure')"), nullable=False),
    Column("metadata", Text, nullable=False),  # JSON, exactly as it was hashed
    Column("created_at", UtcDateTime, nullable=False),
    Column("previous_hash", Text, nullable=False),
    Column("hash", Text, nullable=False),
    Index("audit_log_user_id", "user_id", "seq"),
    Index("audit_log_container_id", "container_id", "seq"),
    Index("audit_log_action", "action", "seq"),
    Index("audit_log_created_at", "created_at"),
)
