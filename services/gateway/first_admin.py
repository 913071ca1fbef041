"""The first admin: made at the first start, its token left in a file."""

import asyncio
import os
from pathlib import Path

import structlog

from services.common.database import Database
from services.common.errors import Conflict
from services.gateway.accounts import Role, add_token, add_user, no_user_yet
from services.gateway.audit_chain import extend
from services.gateway.audit_entry import user_created

log = structlog.get_logger(__name__)

EMAIL = "admin@localhost"


async def ensure_first_admin(database: Database, token_file: Path) -> None:
    """Does nothing once there is a user.

    The file is in place before the commit: a crash in between leaves a token that nobody knows, and the
    next start, still without a user, replaces it. Of two gateways that start at the same time the user's
    address, unique, lets only one get as far as the file.
    """
    try:
        async with database.transaction() as connection:
            if not await no_user_yet(connection):
                return
            user = await add_user(connection, EMAIL, Role.ADMIN)
            token, _ = await add_token(connection, user.id, "first admin", None)
            await extend(connection, [user_created(user.id, user.email, user.role, "first start")])
            await asyncio.to_thread(write_secret, token_file, token + "\n")
    except Conflict:
        return
    log.info("first_admin_created", email=EMAIL, token_file=str(token_file))


def write_secret(path: Path, text: str) -> None:
    """Replaces the file in one step, readable by its owner alone, and on the disk when this returns."""
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f".{path.name}.new")
    unfinished.unlink(missing_ok=True)
    descriptor = os.open(unfinished, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
    with os.fdopen(descriptor, "w") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    unfinished.replace(path)
    folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
