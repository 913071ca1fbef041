"""Terminals: who may have them, and the conversation of a client with its session."""

import asyncio
import contextlib
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace

from services.common.errors import ContainerNotFound, Forbidden, HzelError
from services.gateway import audit_draft
from services.gateway.audit_entry import Action, Outcome
from services.gateway.authentication import Caller
from services.gateway.containers import Containers
from services.gateway.terminal_client import Closed, Link, Recording, Size, TerminalClient, TerminalOrder
from services.gateway.terminal_frames import (
    BadFrame,
    Input,
    TerminalFrames,
    Upload,
    closed_frame,
    error_frame,
    parse,
    upload_error_frame,
    uploaded_frame,
)

FIRST_SIZE_WITHIN_S = 0.1
DEFAULT_SIZE = Size(80, 24)
END_HEARD_WITHIN_S = 2.0
# The client's own words: it has closed, with or without a code. All else is a connection that broke.
MEANT_TO_CLOSE = frozenset({1000, 1005})
NO_BASE64 = "data must be base64"


@dataclass(frozen=True)
class Attachment:
    """To a session that there is already."""

    container_id: str
    session_id: str
    watch: bool


class Conversation:
    """A client and its link; `say` sends a frame beside those of `frames`."""

    def __init__(
        self,
        client: TerminalClient,
        link: Link,
        frames: TerminalFrames,
        wanted: TerminalOrder | Attachment,
        say: Callable[[str], Awaitable[None]],
    ) -> None:
        self._client = client
        self._link = link
        self._frames = frames
        self._needs_size = isinstance(wanted, TerminalOrder) and wanted.size is None
        self._is_watching = isinstance(wanted, Attachment) and wanted.watch
        self._say = say
        self._heard_something = asyncio.Event()
        self._is_over = asyncio.Event()

    async def frames(self) -> AsyncGenerator[str | bytes, None]:
        """Until the session has ended; raises the HzelError that ended it, after a frame that says so."""
        try:
            if self._needs_size:
                await self._wait_for_size()
            async for told in self._link.told():
                if isinstance(told, Closed) and (rest := self._frames.rest()):
                    yield rest  # of a character
                if frame := self._frames.of(told):
                    yield frame
        except HzelError as error:
            yield error_frame(error.message)
            yield closed_frame(error.code.lower(), None)
            raise
        finally:
            self._is_over.set()

    async def hear(self, message: str | bytes) -> None:
        try:
            heard = parse(message)
        except BadFrame as error:
            await self._say(error_frame(str(error)))
            return
        if self._is_watching:
            await self._say(error_frame("this is a session to watch: nothing can be done in it"))
        elif isinstance(heard, Input):
            self._heard_something.set()
            await self._link.type(heard.data)
        elif isinstance(heard, Upload):
            await self._upload(heard)
        else:
            self._needs_size = False
            await self._link.resize(heard)
            self._heard_something.set()

    async def left(self, code: int) -> None:
        """A client that closes ends its session; one whose connection breaks may come back."""
        if code in MEANT_TO_CLOSE:
            await self._link.end()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(END_HEARD_WITHIN_S):
                    await self._is_over.wait()

    async def _wait_for_size(self) -> None:
        """The first message should be the size; a client that says something else, or nothing, gets the default."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(FIRST_SIZE_WITHIN_S):
                await self._heard_something.wait()
        if self._needs_size:
            await self._link.resize(DEFAULT_SIZE)

    async def _upload(self, upload: Upload) -> None:
        try:
            try:
                content = await _decoded(upload)
            except ValueError:
                await self._say(upload_error_frame(upload.path, NO_BASE64))
                return
            try:
                await self._client.upload(self._link.session_id, upload.path, content)
            except HzelError as error:
                await self._record(upload, content, Outcome.FAILURE, error.code)
                raise
            except asyncio.CancelledError:
                # The client has gone or the session has ended: whether the file is there nobody knows.
                with contextlib.suppress(HzelError):
                    await self._record(upload, content, Outcome.FAILURE, "CANCELLED")
                raise
            await self._record(upload, content, Outcome.SUCCESS)
        except HzelError as error:
            await self._say(upload_error_frame(upload.path, error.message))
        else:
            await self._say(uploaded_frame(upload.path))

    async def _record(self, upload: Upload, content: list[bytes], outcome: Outcome, code: str | None = None) -> None:
        size = sum(map(len, content))
        await audit_draft.record(Action.TERMINAL_UPLOAD, outcome, path=upload.path, bytes=size, code=code)


class Terminals:
    """Every method raises Forbidden for another's container and ContainerNotFound for none."""

    def __init__(self, client: TerminalClient, containers: Containers, largest_upload: int) -> None:
        """`largest_upload` is in bytes."""
        self._client = client
        self._containers = containers
        # In base64, with the rest of its frame.
        self.largest_message = largest_upload * 4 // 3 + 16 * 1024

    @asynccontextmanager
    async def conversation(
        self,
        caller: Caller,
        wanted: TerminalOrder | Attachment,
        is_binary: bool,
        say: Callable[[str], Awaitable[None]],
    ) -> AsyncIterator[Conversation]:
        """Accepted by the service; it ends with the block."""
        container = await self._containers.get(caller, wanted.container_id)
        wanted = replace(wanted, container_id=container.id)
        if isinstance(wanted, TerminalOrder):
            linked = self._client.open(wanted)
        else:
            linked = self._client.attach(wanted.container_id, wanted.session_id, wanted.watch)
        async with linked as link:
            audit_draft.note(session_id=link.session_id, joins=_joins(wanted))
            yield Conversation(self._client, link, TerminalFrames(container.id, is_binary), wanted, say)

    async def recording(self, caller: Caller, recording_id: str) -> AsyncGenerator[bytes, None]:
        """Its bytes, for who made it and for who may use the container. Raises NotFound."""
        parts = self._client.recording(recording_id)
        first = await anext(parts)
        if isinstance(first, Recording) and first.requested_by != caller.user_id and not caller.is_admin:
            try:
                await self._containers.get(caller, first.container_id)
            except ContainerNotFound as error:
                raise Forbidden("this recording belongs to someone else") from error
        return _content(parts)

    async def check(self) -> None:
        await self._client.check()


async def _decoded(upload: Upload) -> list[bytes]:
    """Lets others have their turn in between. Raises ValueError."""
    pieces = []
    for piece in upload.content():
        pieces.append(piece)
        await asyncio.sleep(0)
    return pieces


def _joins(wanted: TerminalOrder | Attachment) -> str | None:
    """How the client came to a session that there was already."""
    if isinstance(wanted, TerminalOrder):
        return None
    return "watch" if wanted.watch else "session"


async def _content(parts: AsyncIterator[Recording | bytes]) -> AsyncGenerator[bytes, None]:
    async for part in parts:
        if isinstance(part, bytes):
            yield part
