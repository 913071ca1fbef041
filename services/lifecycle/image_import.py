"""Makes an image from a root filesystem: `python -m services.lifecycle.image_import REF TAR --config JSON`.

`--config` is the `config` object of an OCI image configuration. An image of that name is replaced. Without
TAR it only says by its exit status whether there is such an image: 0, or 3 where there is none.
"""

import argparse
import asyncio
import json
from pathlib import Path

from services.common.containerd.connection import Connection
from services.common.containerd.images import Images, full_name
from services.common.settings import Settings

READY_WITHIN_S = 30.0


async def main(settings: Settings, arguments: argparse.Namespace) -> int:
    name = full_name(arguments.reference)
    connection = Connection(settings.containerd_socket, settings.instance)
    try:
        async with asyncio.timeout(READY_WITHIN_S):
            await connection.wait_until_ready()
        await connection.ensure_namespace()
        images = Images(connection)
        if arguments.tar is None:
            return 0 if await images.get(name) is not None else 3
        await images.import_rootfs(name, arguments.tar, json.loads(arguments.config))
    finally:
        await connection.close()
    return 0


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("reference", help="name of the image, such as hzel/debian:12")
    parser.add_argument("tar", type=Path, nargs="?", help="the root filesystem; without it: is there such an image?")
    parser.add_argument("--config", default="{}", help="JSON object")
    raise SystemExit(asyncio.run(main(Settings(), parser.parse_args())))
