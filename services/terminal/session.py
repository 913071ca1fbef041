"""One session: a shell, who is attached to it, and how it ends.

              a stream breaks (resume_s > 0)
         +--------------------------------------+
         |                                      v
opened: attached                             detached
         ^                                      |
         +--------------------------------------+
                         attach
From either, by the end of the shell, its client, too long a silence or the end of the service: ending, gone.
"""

import asyncio
import signal
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime

import structlog

from services.common.containerd.errors import ContainerdError
from services.common.errors import Conflict, HzelError, NotFound, RateLimited, Unavailable
from services.common.quiet import ended_or_quiet
from services.terminal.attachment import WINDOW, Attachment, CloseReason, Opened, Resized
from services.terminal.input_writer import InputWriter
from services.terminal.login import Login
from services.terminal.output_reader import OutputReader
from services.terminal.recording import WINDOW as RECORDER_WINDOW
from services.terminal.recording import Recorder
from services.terminal.scrollback import Scrollback
from services.terminal.shell import Shell, ShellGone, Size

log = structlog.get_logger(__name__)

FIRST_SIZE_WITHIN_S = 10.0
# After the end of everything in the session: its terminal, the runtime and the FIFO together hold less than this.
# Only who was handed the terminal from outside could add to it.
LEFT_BYTES = 1024 * 1024
QUIET_S = 5.0
DRAINED_WITHIN_S = 30.0
CLEAN_UP_RETRY_S = 1.0


@dataclass(frozen=True)
class Order:
    """What a session was opened with; `resume_s` is how long it outlives a broken stream."""

    container_id: str
    requested_by: str
    user: str
    resume_s: int


class Session:
    """`run` owns its shell from the start to the end; everything else only asks."""

    def __init__(
        self,
        session_id: str,
        order: Order,
        login: Login,
        shell: Shell,
        kept: int,
        on_opened: Callable[["Session"], None],
    ) -> None:
        """`kept` is how many bytes of output a client that attaches later gets.

        `closed_for` says why it ended, once it has and if its shell ever ran.
        """
        self.id = session_id
        self.order = order
        self.login = login
        self.size = Size(0, 0)
        self.opened_at = datetime.now(UTC)
        self.bytes_in = 0
        self.closed_for: CloseReason | None = None
        self._shell = shell
        self._on_opened = on_opened
        self._loop = asyncio.get_running_loop()
        self._scrollback = Scrollback(kept)
        self._controller: Attachment | None = Attachment(self._scrollback)
        self._watchers: set[Attachment] = set()
        self._reader: OutputReader | None = None
        self._writer: InputWriter | None = None
        self._early_input: list[bytes] = []
        self._recorder: Recorder | None = None
        self._asked_size: Size | None = None
        self._size_asked = asyncio.Event()
        self._end_asked: asyncio.Future[CloseReason] = self._loop.create_future()
        self._expiry: asyncio.TimerHandle | None = None
        self._output_ended = asyncio.Event()
        # Behind all output, once that is read whoever waits for it.
        self._drain_to: int | None = None
        self._last_activity = self._loop.time()

    @property
    def bytes_out(self) -> int:
        return self._scrollback.end

    @property
    def is_attached(self) -> bool:
        return self._controller is not None

    @property
    def watchers(self) -> int:
        return len(self._watchers)

    @property
    def idle_s(self) -> float:
        """Since something was typed or printed."""
        return self._loop.time() - self._last_activity

    @property
    def age_s(self) -> float:
        return (datetime.now(UTC) - self.opened_at).total_seconds()

    @property
    def first_attachment(self) -> Attachment:
        if self._controller is None:
            raise Conflict("the session has lost its client")
        return self._controller

    def attach(self, watch: bool) -> Attachment:
        """Raises NotFound where the session is ending."""
        if self._end_asked.done() or self._shell.ended.is_set():
            raise NotFound("the session has ended")
        attachment = Attachment(self._scrollback)
        if watch:
            self._watchers.add(attachment)
        else:
            self._cancel_expiry()
            if self._controller is not None:
                self._controller.close(CloseReason.TAKEN_OVER)
            self._controller = attachment
        if self._reader is not None:
            attachment.tell(Opened())
            attachment.tell(Resized(self.size))
        return attachment

    def leave(self, attachment: Attachment, for_good: bool) -> None:
        """The client is gone: `for_good` where it said so, else its stream broke."""
        self._watchers.discard(attachment)
        if attachment is not self._controller:
            return
        self._controller = None
        if for_good or not self.order.resume_s:
            self.ask_end(CloseReason.CLIENT)
        else:
            self._expiry = self._loop.call_later(self.order.resume_s, self.ask_end, CloseReason.CLIENT)
        self.update_reading()

    def write(self, attachment: Attachment, data: bytes) -> None:
        """From the one client that may. Raises RateLimited where it goes on beyond the window."""
        if attachment is not self._controller or not data:
            return
        self.bytes_in += len(data)
        self._last_activity = self._loop.time()
        waiting = self._writer.waiting_bytes if self._writer is not None else sum(map(len, self._early_input))
        if waiting > 2 * WINDOW:
            raise RateLimited("the input goes on beyond what was taken")
        if self._writer is None:
            self._early_input.append(data)
        else:
            self._writer.write(data)

    def resize(self, attachment: Attachment, size: Size) -> None:
        """The last one counts; the first starts the shell."""
        if attachment is self._controller:
            self._asked_size = size
            self._size_asked.set()

    def signal(self, attachment: Attachment, number: signal.Signals) -> None:
        if attachment is self._controller and self._reader is not None:
            self._shell.signal_foreground(number)

    def acknowledge(self, attachment: Attachment, total: int) -> None:
        attachment.acknowledge(total)
        self.update_reading()

    def ask_end(self, reason: CloseReason) -> None:
        """The first reason counts."""
        if not self._end_asked.done():
            self._end_asked.set_result(reason)

    def fail(self, error: HzelError) -> None:
        """Whoever is attached gets the error in the end."""
        for attachment in self._attachments():
            attachment.fail(error)

    async def run(self, new_recorder: Callable[[], Recorder] | None) -> None:
        """Until nothing of it is left on the node; records where it is told how."""
        reason, exit_code = CloseReason.CLIENT, None
        try:
            async with asyncio.timeout(FIRST_SIZE_WITHIN_S):
                await self._wait(self._size_asked)
            if self._asked_size is not None and not self._end_asked.done():
                reason = await self._live(self._asked_size, new_recorder)
                exit_code = await self._shell.exit_code() if reason is CloseReason.EXITED else None
        except TimeoutError:
            self.fail(Conflict("the session was given no size"))
        except HzelError as error:
            self.fail(error)
        for attachment in self._attachments():
            attachment.close(reason, exit_code)
        await self._clean_up()

    async def _live(self, size: Size, new_recorder: Callable[[], Recorder] | None) -> CloseReason:
        """From the start of the shell to the end of everything in the session; returns why."""
        self.size = size
        self._size_asked.clear()
        try:
            if new_recorder is not None:
                self._recorder = new_recorder()
            await self._start()
        except (ContainerdError, ShellGone, OSError) as error:
            log.warning("session_not_started", session_id=self.id, error=str(error))
            await self._shell.end()
            raise Unavailable("the shell could not be started; does the container still run?") from error
        finally:
            if self._reader is None and self._recorder is not None:
                self._recorder.close()
                await self._recorder.run()
        async with asyncio.TaskGroup() as group:
            resizing = group.create_task(self._follow_size())
            if self._recorder is not None:
                group.create_task(self._recorder.run())
            await self._wait(self._shell.ended)
            reason = self._end_asked.result() if self._end_asked.done() else CloseReason.EXITED
            self.ask_end(reason)
            self.closed_for = reason
            resizing.cancel()
            await self._shell.end()
            await self._drain()
            if self._recorder is not None:
                self._recorder.close()
        return reason

    async def _start(self) -> None:
        await self._shell.start(self.login, self.size)
        self._writer = InputWriter(self._shell.input, self._on_input_taken)
        self._reader = OutputReader(self._shell.output, self._on_output, self._output_ended.set)
        for attachment in self._attachments():
            attachment.tell(Opened())
            attachment.tell(Resized(self.size))
        self._on_opened(self)
        for data in self._early_input:
            self._writer.write(data)
        self._early_input.clear()
        self.update_reading()

    async def _drain(self) -> None:
        """What is left is little, and nobody adds to it: read it whoever waits for it."""
        self._drain_to = self._scrollback.end + LEFT_BYTES
        self.update_reading()
        await ended_or_quiet(self._output_ended, lambda: self._scrollback.end, QUIET_S, DRAINED_WITHIN_S)
        if self._reader is not None:
            self._reader.close()
        if self._writer is not None:
            self._writer.close()

    async def _clean_up(self) -> None:
        self._cancel_expiry()
        while True:
            try:
                await self._shell.clean_up()
            except ContainerdError as error:
                # containerd restarts.
                log.debug("clean_up_failed", session_id=self.id, error=str(error))
                await asyncio.sleep(CLEAN_UP_RETRY_S)
            else:
                return

    async def _follow_size(self) -> None:
        """Of the sizes asked for while one is being set, only the last is."""
        while True:
            await self._size_asked.wait()
            self._size_asked.clear()
            if self._asked_size is None:
                continue
            size = self._asked_size
            if size != self.size:
                try:
                    await self._shell.resize(size)
                except ContainerdError as error:
                    log.debug("resize_failed", session_id=self.id, error=str(error))
                    continue
                self.size = size
                if self._recorder is not None:
                    self._recorder.on_resize(size)
            for attachment in self._attachments():
                attachment.tell(Resized(size))

    async def _wait(self, event: asyncio.Event) -> None:
        """For the event, or for somebody to ask for the end."""
        waiting = asyncio.create_task(event.wait())
        try:
            await asyncio.wait((waiting, self._end_asked), return_when=asyncio.FIRST_COMPLETED)
        finally:
            waiting.cancel()

    def _attachments(self) -> list[Attachment]:
        return [*self._watchers, *((self._controller,) if self._controller is not None else ())]

    def _on_output(self, data: bytes) -> None:
        self._scrollback.append(data)
        self._last_activity = self._loop.time()
        if self._recorder is not None:
            self._recorder.on_output(data)
        for watcher in self._watchers:
            watcher.on_output()
        if self._controller is not None:
            self._controller.on_output()
        self.update_reading()

    def _on_input_taken(self, count: int) -> None:
        if self._controller is not None:
            self._controller.on_input_taken(count)

    def update_reading(self) -> None:
        """The shell is held by its client and by its recorder, never by those who watch."""
        needed = self._controller.taken if self._controller is not None else self._scrollback.end
        self._scrollback.trim(needed)
        if self._reader is None:
            return
        unwritten = self._recorder.waiting_bytes if self._recorder is not None else 0
        is_behind = self._scrollback.end - needed >= WINDOW or unwritten >= RECORDER_WINDOW
        if self._drain_to is not None:
            if self._scrollback.end >= self._drain_to:
                self._output_ended.set()
            is_behind = self._output_ended.is_set()
        if is_behind:
            self._reader.pause()
        else:
            self._reader.resume()

    def _cancel_expiry(self) -> None:
        if self._expiry is not None:
            self._expiry.cancel()
            self._expiry = None
