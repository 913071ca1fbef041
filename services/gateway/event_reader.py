"""One client that follows events: its place among them, and what it may see."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime

from services.common.errors import HzelError, SlowReader, Unavailable
from services.gateway.authentication import Caller
from services.gateway.event_feed import RETRY_S, Feed
from services.gateway.event_frames import StreamFrame, gap_frame, position_frame
from services.gateway.event_positions import Gap, Position, Start
from services.gateway.event_window import Overtaken

KEEP_ALIVE_S = 15.0
# How long a client may take nothing.
TAKEN_WITHIN_S = 30.0
AT_ONCE = 128


class Reader:
    """First what has to be read from NATS, then the window, as it grows."""

    def __init__(self, feed: Feed, caller: Caller) -> None:
        self.caller = caller
        # Everything up to here was given out, as far as the caller may see it.
        self.position = feed.position
        self._feed = feed
        self._index = feed.window.end
        self._replay: Start | None = None
        self._segment = feed.window.segment
        # Below that number, within the segment, everything was given out by the replay.
        self._from_seq = 0
        self._news = asyncio.Event()
        self._is_waiting = False
        self._error: HzelError | None = None
        self._taking: asyncio.Timeout | None = None

    async def seek(self, position: Position) -> Gap | None:
        """Goes on behind it; returns what kind of gap there is, if any. Raises Unavailable."""
        segment = self._feed.window.segment
        start = await self._feed.start(position)
        self.position, self._segment = position, segment
        if isinstance(start, int):
            self._index = start
            return None
        self._replay = start
        return start.gap

    def end(self, error: HzelError) -> None:
        """Whoever reads gets the error, within moments."""
        self._error = error
        self._news.set()
        if self._taking is not None:
            self._taking.reschedule(0)

    def wake(self, since: int) -> None:
        if self._is_waiting and not self._news.is_set():
            self._index = max(self._index, since)
        self._news.set()

    async def next(self, within_s: float) -> list[StreamFrame]:
        """Frames for the caller; none where there were none in that time, or in a stretch of the past.

        Raises SlowReader, or what it was ended with.
        """
        give_up = time.monotonic() + within_s
        while True:
            if self._error is not None:
                raise self._error
            if self._replay is not None:
                replayed = await self._replayed(self._replay)
                if replayed is not None or time.monotonic() > give_up:
                    return replayed or []
                continue
            if found := self._taken():
                return found
            if self._index == self._feed.window.end and not await self._something_new(within_s):
                return []

    async def write(self, send: Callable[[bytes], Awaitable[None]], data: bytes) -> None:
        """Raises SlowReader where the client takes nothing, or what it was ended with meanwhile."""
        try:
            async with asyncio.timeout(TAKEN_WITHIN_S) as self._taking:
                await send(data)
        except TimeoutError as error:
            raise self._error or SlowReader() from error
        finally:
            self._taking = None

    def _taken(self) -> list[StreamFrame]:
        try:
            frames = self._feed.window.since(self._index, AT_ONCE)
        except Overtaken as error:
            raise SlowReader() from error
        self._index += len(frames)
        if frames:
            self.position = frames[-1].position
        found = []
        for frame in frames:
            if frame.is_for_all:
                # A gap: numbers begin anew.
                self._from_seq = 0
            if frame.position.seq >= self._from_seq and self._may_see(frame):
                found.append(frame)
        return found

    async def _something_new(self, within_s: float) -> bool:
        self._news.clear()
        self._is_waiting = True
        try:
            async with asyncio.timeout(within_s):
                await self._news.wait()
        except TimeoutError:
            pass
        finally:
            self._is_waiting = False
        if self._news.is_set():
            return True
        if self._index < self._feed.told_index:
            # Others' events, for which nobody woke us.
            self._index, self.position = self._feed.told_index, self._feed.told_position
        return False

    async def _replayed(self, start: Start) -> list[StreamFrame] | None:
        """A stretch of the past; None where there is no NATS to read it from, or none is left."""
        window = self._feed.window
        if window.segment != self._segment:
            # What we were reading is gone; the frame before the new segment says so.
            self._replay, self._index, self._segment = None, window.segment_start - 1, window.segment
            return None
        if start.seq is not None and (index := window.at(start.seq)) is not None:
            self._replay, self._index, self._from_seq = None, index, start.seq
            return None
        try:
            stretch = await self._feed.read(start)
        except Unavailable:
            await asyncio.sleep(RETRY_S)
            return None
        found = [frame for frame in stretch.frames if self._may_see(frame)]
        if start.seq is not None and stretch.first_seq not in (None, start.seq):
            found.insert(0, gap_frame(self.position, Gap.EXPIRED, datetime.now(UTC)))
        self.position = stretch.last
        self._replay = Start(stretch.last.seq + 1)
        return found

    def _may_see(self, frame: StreamFrame) -> bool:
        return frame.is_for_all or self.caller.is_admin or frame.owner == self.caller.user_id


async def deliver(
    reader: Reader,
    told: Position,
    encoded: Callable[[StreamFrame], bytes],
    send: Callable[[bytes], Awaitable[None]],
    when_silent: bytes,
) -> None:
    """Until it raises what has ended it. `told` is the place that the client knows of; `when_silent` is sent when
    there was nothing for `KEEP_ALIVE_S`."""
    while True:
        frames = await reader.next(KEEP_ALIVE_S)
        if not frames and reader.position != told:
            frames = [position_frame(reader.position, datetime.now(UTC))]
        if frames:
            told = frames[-1].position
        if data := b"".join(encoded(frame) for frame in frames) or when_silent:
            await reader.write(send, data)
