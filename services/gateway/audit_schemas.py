"""The bodies of the audit log's routes."""

import json
from datetime import datetime
from typing import Any, Self

from pydantic import BaseModel, Field

from services.gateway.audit_chain import Verification
from services.gateway.audit_entry import Link, Outcome


class AuditRecord(BaseModel):
    id: str
    user_id: str | None = Field(description="who did it; null where nobody was known")
    container_id: str | None
    action: str = Field(examples=["container.start"])
    outcome: Outcome
    metadata: dict[str, Any] = Field(description="names, ids, sizes, the address and the request's id")
    created_at: datetime
    seq: int = Field(description="its place in the chain, from 1 on")
    hash: str = Field(description="SHA-256 over the entry and the hash of the one before it")

    @classmethod
    def of(cls, link: Link) -> Self:
        entry = link.entry
        return cls(
            id=entry.id,
            user_id=entry.user_id,
            container_id=entry.container_id,
            action=entry.action,
            outcome=Outcome(entry.outcome),
            metadata=json.loads(entry.metadata),
            created_at=entry.created_at,
            seq=link.seq,
            hash=link.hash,
        )


class AuditVerification(BaseModel):
    valid: bool
    entries: int = Field(description="found sound, up to the first bad one")
    first_bad_id: str | None
    head: str = Field(
        description="hash of the last sound one: who keeps it can tell later whether entries were cut off the end"
    )

    @classmethod
    def of(cls, found: Verification) -> Self:
        return cls(valid=found.valid, entries=found.entries, first_bad_id=found.first_bad_id, head=found.head)
