"""Files that a session's client puts into its container."""

import asyncio
from collections.abc import AsyncIterator, Callable

from services.common.containerd.running import RunningContainer
from services.common.errors import InvalidRequest, PayloadTooLarge
from services.common.inside import opened_root
from services.common.new_file import NewFile, Owner
from services.terminal.session import Session
from services.terminal.sessions import Sessions

MAX_PATH = 4096


class Uploads:
    def __init__(self, sessions: Sessions, most: int, on_uploaded: Callable[[Session, str, int], None]) -> None:
        """`most` is the size of the largest file, bytes."""
        self._sessions = sessions
        self._most = most
        self._on_uploaded = on_uploaded

    async def put(self, session: Session, path: str, content: AsyncIterator[bytes]) -> int:
        """As the session's user; returns the size. Raises HzelError, whose message is for that user."""
        if not path or "\0" in path or len(path.encode()) > MAX_PATH:
            raise InvalidRequest(f"the path must have 1 to {MAX_PATH} bytes and no NUL")
        full_path = path if path.startswith("/") else f"{session.login.working_dir}/{path}"
        container = await self._sessions.running(session.order.container_id)
        try:
            size = await self._put(container, session, full_path, content)
        except (OSError, PayloadTooLarge) as error:
            # A client that is still sending would not hear of it.
            async for _ in content:
                pass
            if isinstance(error, PayloadTooLarge):
                raise
            raise InvalidRequest(f"the file could not be written: {error.strerror or 'unknown error'}") from error
        self._on_uploaded(session, path, size)
        return size

    async def _put(
        self, container: RunningContainer, session: Session, path: str, content: AsyncIterator[bytes]
    ) -> int:
        file = await asyncio.to_thread(_create, container, session, path)
        size = 0
        try:
            async for piece in content:
                size += len(piece)
                if size > self._most:
                    raise PayloadTooLarge(f"a file may have {self._most} bytes at most")
                await asyncio.to_thread(file.write, piece)
            await asyncio.to_thread(file.commit)
        finally:
            await asyncio.to_thread(file.abandon)
        return size


def _create(container: RunningContainer, session: Session, path: str) -> NewFile:
    owner = Owner.of(container.pid, session.login.account.user)
    with opened_root(container.root) as root:
        return NewFile(root, path, owner)
