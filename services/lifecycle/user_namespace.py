"""User namespaces as file descriptors, for mounts whose owners are shifted."""

import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from services.common.containerd.spec import IDS_PER_CONTAINER

TIMEOUT_S = 10.0


@asynccontextmanager
async def user_namespace(id_base: int) -> AsyncIterator[int]:
    """Yields the descriptor of a user namespace that maps 0… to `id_base`….

    It is taken from a child that has entered a new one: the echo of a byte says that it has. A program is
    started for it because forking a process with running gRPC threads is not safe.
    """
    child = await asyncio.create_subprocess_exec(
        "unshare", "--user", "cat", stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE
    )
    if child.stdin is None or child.stdout is None:
        raise RuntimeError("no pipes to the child")
    try:
        async with asyncio.timeout(TIMEOUT_S):
            child.stdin.write(b".")
            await child.stdout.readexactly(1)
        process = Path("/proc", str(child.pid))
        for name in ("uid_map", "gid_map"):
            (process / name).write_text(f"0 {id_base} {IDS_PER_CONTAINER}")
        descriptor = os.open(process / "ns/user", os.O_RDONLY | os.O_CLOEXEC)
    finally:
        child.stdin.close()
        await child.wait()
    try:
        yield descriptor
    finally:
        os.close(descriptor)
