"""Adds users from the command line: `python -m services.gateway.users add EMAIL [--role admin]`.

Prints the new user's personal access token, which is shown nowhere else.
"""

import argparse
import asyncio
import re
import sys
from collections.abc import Sequence

from services.common import logging
from services.common.database import Database
from services.common.errors import HzelError
from services.common.settings import Settings
from services.gateway.accounts import Role, add_token, add_user
from services.gateway.audit_chain import extend
from services.gateway.audit_entry import user_created
from services.gateway.tables import MIGRATIONS

_EMAIL = re.compile(r"[!-?A-~]{1,64}@[A-Za-z0-9.-]{1,189}")


def email_address(text: str) -> str:
    """Lower case; raises ValueError when it is none."""
    if not _EMAIL.fullmatch(text):
        raise ValueError(f"{text} is no e-mail address")
    return text.lower()


async def add(settings: Settings, email: str, role: Role) -> str:
    """Returns the token. Raises Conflict when the address is taken."""
    database = Database(settings.database("gateway"), "gateway")
    try:
        await database.open(MIGRATIONS)
        async with database.transaction() as connection:
            user = await add_user(connection, email, role)
            token, _ = await add_token(connection, user.id, "command line", None)
            await extend(connection, [user_created(user.id, user.email, user.role, "command line")])
    finally:
        await database.close()
    return token


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m services.gateway.users", description="Users of this hzel.")
    commands = parser.add_subparsers(required=True)
    adding = commands.add_parser("add", help="add a user and print a personal access token")
    adding.add_argument("email", type=email_address)
    adding.add_argument("--role", type=Role, choices=list(Role), default=Role.USER)
    wanted = parser.parse_args(arguments)
    settings = Settings()
    logging.configure("gateway-users", settings.log_format, "warning")
    try:
        token = asyncio.run(add(settings, wanted.email, wanted.role))
    except HzelError as error:
        sys.stderr.write(f"{error.message}\n")
        return 1
    sys.stdout.write(f"{token}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
