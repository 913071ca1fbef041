"""Proves the audit log from the command line: `python -m services.gateway.audit_verify`.

Prints how many entries are sound and the hash of the last; ends with 1 if one is not, and with 2 if that can't be told.
"""

import asyncio
import sys

from services.common import logging
from services.common.database import Database
from services.common.errors import HzelError
from services.common.settings import Settings
from services.gateway.audit_chain import Verification, verify
from services.gateway.tables import MIGRATIONS


async def verify_log(settings: Settings) -> Verification:
    database = Database(settings.database("gateway"), "gateway")
    try:
        await database.open(MIGRATIONS)
        return await verify(database)
    finally:
        await database.close()


def main() -> int:
    settings = Settings()
    logging.configure("gateway-audit", settings.log_format, "warning")
    try:
        found = asyncio.run(verify_log(settings))
    except HzelError as error:
        sys.stderr.write(f"{error.message}\n")
        return 2
    sys.stdout.write(f"{found.entries} entries are sound, head {found.head}\n")
    if not found.valid:
        sys.stderr.write(f"the first bad entry is {found.first_bad_id}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
