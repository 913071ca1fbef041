"""All events of the installation, read from NATS once and kept for a while, for all who follow them.

The gateway has one connection and one ordered consumer. What it has read last is where it goes on when NATS is back;
if NATS does not have that place any more, every reader is told of a gap.
"""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Protocol

import structlog

from services.common.errors import Unavailable
from services.gateway.event_frames import StreamFrame, event_frame, gap_frame, parse_event
from services.gateway.event_owners import Owners
from services.gateway.event_positions import BEGINNING, Kept, Position, Start, start_after
from services.gateway.event_source import EventSource, StoredMessage, connected
from services.gateway.event_window import Window

log = structlog.get_logger(__name__)

# At least so many of the latest events are kept, and no reader may be further behind.
KEPT_EVENTS = 4096
READ_AT_ONCE = 256
REPLAYS_AT_ONCE = 8
# Events of one moment go out to a reader in one write.
COLLECTED_FOR_S = 0.02
SILENT_FOR_S = 5.0
NOT_NOW = "events are not available now, try again"
RETRY_S = 0.25
MAX_RETRY_S = 2.0


@dataclass(frozen=True)
class Stretch:
    """`first_seq` is the number of its first message, None where there is none; `last` is the place behind it."""

    frames: Sequence[StreamFrame]
    first_seq: int | None
    last: Position


class Follower(Protocol):
    def wake(self, since: int) -> None:
        """There are frames for it, none before the index `since` unless it was woken already."""


class _OutOfStep(Exception):
    """The stream is not where the consumer is: look again."""


class Feed:
    """`run` is the owner of the connection. `source` is there while the stream is the one that `window` is of."""

    def __init__(self, nats_url: str, owners: Owners) -> None:
        self._nats_url = nats_url
        self._owners = owners
        self._source: EventSource | None = None
        self._created_us = 0
        self._replays = asyncio.Semaphore(REPLAYS_AT_ONCE)
        self._followers: dict[str | None, set[Follower]] = {}
        self._due: set[str | None] = set()
        self._is_due_for_all = False
        self._waking: asyncio.TimerHandle | None = None
        self.window = Window(KEPT_EVENTS)
        # Behind the last message that was read; before the first connection the place is unknown.
        self.position = BEGINNING
        # As of the last time that followers were woken.
        self.told_index = 0
        self.told_position = BEGINNING
        # Set while everything is read that there is.
        self.ready = asyncio.Event()

    def add(self, follower: Follower, user_id: str | None) -> None:
        """It is woken for that user's events, or for everyone's."""
        self._followers.setdefault(user_id, set()).add(follower)

    def remove(self, follower: Follower, user_id: str | None) -> None:
        followers = self._followers[user_id]
        followers.discard(follower)
        if not followers:
            del self._followers[user_id]

    async def run(self) -> None:
        """Until cancelled; NATS may come and go meanwhile."""
        backoff = RETRY_S
        while True:
            try:
                async with connected(self._nats_url) as source:
                    await self._follow(source)
            except _OutOfStep:
                log.warning("events_out_of_step", seq=self.position.seq)
            except Unavailable as error:
                log.warning("nats_unavailable", error=type(error.__cause__).__name__)
            finally:
                backoff = RETRY_S if self.ready.is_set() else min(2 * backoff, MAX_RETRY_S)
                self._source = None
                self.ready.clear()
            await asyncio.sleep(backoff)

    async def start(self, position: Position) -> int | Start:
        """Where to go on after it: an index of the window, or what is to be read from NATS before. Raises
        Unavailable."""
        index = self.window.end if position == self.position else self.window.after(position)
        if index is not None:
            return index
        source = self._source
        if source is None:
            raise Unavailable(NOT_NOW)
        async with self._replays:
            kept = await source.kept()
            return start_after(position, kept, await _stored_at(source, position, kept))

    async def read(self, start: Start) -> Stretch:
        """The first events from there on, of those that NATS has. Raises Unavailable."""
        source = self._source
        if source is None:
            raise Unavailable(NOT_NOW)
        async with self._replays:
            messages = await source.read(start, READ_AT_ONCE)
            frames = [await self._frame(message, source) for message in messages]
        if not messages:
            return Stretch([], None, self.position)
        first, last = messages[0].position, messages[-1].position
        return Stretch([frame for frame in frames if frame is not None], first.seq, last)

    async def _follow(self, source: EventSource) -> None:
        kept = await source.kept()
        seq = await self._seek(source, kept)
        self._source = source
        log.info("events_followed", seq=seq)
        async with source.following(seq) as following:
            is_behind = False
            while True:
                if self.position.seq >= kept.last_seq:
                    self.ready.set()
                message = await following.next(SILENT_FOR_S)
                if message is not None:
                    await self._take(message, source)
                    continue
                was_behind, kept = is_behind, await source.kept()
                is_behind = kept.last_seq != self.position.seq
                # The first time, something may have been stored while we asked.
                if kept.created_us != self._created_us or (is_behind and was_behind):
                    raise _OutOfStep

    async def _seek(self, source: EventSource, kept: Kept) -> int:
        """The number of the message to go on with."""
        self._created_us = kept.created_us
        if self.window.segment:
            start = start_after(self.position, kept, await _stored_at(source, self.position, kept))
            if start.gap is None and start.seq is not None:
                return start.seq
            gap = start.gap
        else:
            gap = None
        first = max(kept.first_seq, kept.last_seq - KEPT_EVENTS + 1)
        told = gap_frame(self.position, gap, datetime.now(UTC)) if gap is not None else None
        self.window.begin(first, told)
        self.position = Position(first - 1, kept.created_us)
        if told is not None:
            self._is_due_for_all = True
        self._wake_soon()
        return first

    async def _take(self, message: StoredMessage, source: EventSource) -> None:
        seq = message.position.seq
        if seq <= self.position.seq:
            return  # the consumer was made anew, and began too early
        if seq != self.position.seq + 1:
            raise _OutOfStep
        frame = await self._frame(message, source)
        self.position = message.position
        if frame is not None:
            self.window.append(frame)
            self._due.add(frame.owner)
        self._wake_soon()

    async def _frame(self, message: StoredMessage, source: EventSource) -> StreamFrame | None:
        event = parse_event(message.subject, message.body)
        if event is None:
            log.warning("no_event", subject=message.subject)
            return None
        return event_frame(message.position, event, await self._owners.of(event, source))

    def _wake_soon(self) -> None:
        if self._waking is None:
            self._waking = asyncio.get_running_loop().call_later(COLLECTED_FOR_S, self._wake)

    def _wake(self) -> None:
        self._waking = None
        due = set(self._followers) if self._is_due_for_all else self._due
        if self._due:
            due = due | {None}
        for user_id in due:
            for follower in self._followers.get(user_id, ()):
                follower.wake(self.told_index)
        self._due, self._is_due_for_all = set(), False
        self.told_index, self.told_position = self.window.end, self.position


async def _stored_at(source: EventSource, position: Position, kept: Kept) -> int | None:
    if kept.first_seq <= position.seq <= kept.last_seq:
        return await source.stored_at(position.seq)
    return None
