"""The stream of events in NATS JetStream, as the gateway reads it. Raises Unavailable where NATS does not answer."""

from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime

import nats.errors
import nats.js.errors
from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.js import JetStreamContext
from nats.js.api import AckPolicy, ConsumerConfig, DeliverPolicy

from services.common.errors import Unavailable
from services.common.events import STREAM, STREAM_SUBJECTS
from services.common.outbox import ensure_stream
from services.gateway.event_positions import Kept, Position, Start

TIMEOUT_S = 5.0
# A consumer that nobody asks any more, since we died, is forgotten by NATS after that.
ABANDONED_AFTER_S = 30.0


@dataclass(frozen=True)
class StoredMessage:
    position: Position
    subject: str
    body: bytes


class EventSource:
    """One connection; when it is lost, so is this."""

    def __init__(self, client: Client, jetstream: JetStreamContext) -> None:
        self._client = client
        self._jetstream = jetstream

    async def kept(self) -> Kept:
        with _nats_errors():
            info = await self._jetstream.stream_info(STREAM)
        created_us = _microseconds(info.created) if info.created is not None else 0
        state = info.state
        return Kept(created_us, state.first_seq if state.messages else state.last_seq + 1, state.last_seq)

    async def stored_at(self, seq: int) -> int | None:
        """When the message was stored that has this number, microseconds; None where there is none."""
        found = await self.read(Start(seq), 1)
        return found[0].position.time_us if found and found[0].position.seq == seq else None

    async def read(self, start: Start, limit: int) -> list[StoredMessage]:
        """The first ones from there on, of those that are stored now."""
        with _nats_errors():
            made = await self._jetstream.add_consumer(STREAM, _from(start, inactive_threshold=ABANDONED_AFTER_S))
            try:
                count = min(limit, made.num_pending or 0)
                if count == 0:
                    return []
                subscription = await self._jetstream.pull_subscribe_bind(made.name, STREAM)
                try:
                    return [_stored(message) for message in await subscription.fetch(count, TIMEOUT_S)]
                finally:
                    await subscription.unsubscribe()
            finally:
                with suppress(nats.js.errors.NotFoundError):
                    await self._jetstream.delete_consumer(STREAM, made.name)

    async def latest_of(self, subjects: str) -> bytes | None:
        """The body of the latest message with one of these subjects, None where there is none."""
        with _nats_errors():
            try:
                return (await self._jetstream.get_last_msg(STREAM, subjects)).data
            except nats.js.errors.NotFoundError:
                return None

    @asynccontextmanager
    async def following(self, seq: int) -> AsyncIterator["Following"]:
        """Every message from that number on, in order, as it is stored."""
        with _nats_errors():
            subscription = await self._jetstream.subscribe(
                STREAM_SUBJECTS[0], stream=STREAM, config=_from(Start(seq)), ordered_consumer=True
            )
        try:
            yield Following(self._client, subscription)
        finally:
            with suppress(nats.errors.Error, OSError):
                await subscription.unsubscribe()


class Following:
    def __init__(self, client: Client, subscription: JetStreamContext.PushSubscription) -> None:
        self._client = client
        self._subscription = subscription

    async def next(self, within_s: float) -> StoredMessage | None:
        """None where there is none in that time. Raises Unavailable when the connection is lost."""
        with _nats_errors():
            try:
                return _stored(await self._subscription.next_msg(within_s))
            except nats.errors.TimeoutError:
                if not self._client.is_connected:
                    raise
                return None


@asynccontextmanager
async def connected(nats_url: str) -> AsyncIterator[EventSource]:
    client = Client()
    try:
        with _nats_errors():
            await client.connect(
                nats_url,
                allow_reconnect=False,
                max_reconnect_attempts=1,
                reconnect_time_wait=0,
                connect_timeout=5,
                ping_interval=10,
                error_cb=_quiet,
            )
            jetstream = client.jetstream(timeout=TIMEOUT_S)
            await ensure_stream(jetstream)
        yield EventSource(client, jetstream)
    finally:
        with suppress(nats.errors.Error, OSError):
            await client.close()


def _from(start: Start, inactive_threshold: float | None = None) -> ConsumerConfig:
    config = ConsumerConfig(ack_policy=AckPolicy.NONE, mem_storage=True, inactive_threshold=inactive_threshold)
    if start.seq is not None:
        # Numbers begin with 1; NATS refuses 0.
        config.deliver_policy, config.opt_start_seq = DeliverPolicy.BY_START_SEQUENCE, max(1, start.seq)
    else:
        config.deliver_policy = DeliverPolicy.BY_START_TIME
        config.opt_start_time = datetime.fromtimestamp(start.time_us / 1_000_000, UTC)
    return config


def _stored(message: Msg) -> StoredMessage:
    about = message.metadata
    return StoredMessage(Position(about.sequence.stream, _microseconds(about.timestamp)), message.subject, message.data)


def _microseconds(moment: datetime) -> int:
    return round(moment.timestamp() * 1_000_000)


@contextmanager
def _nats_errors() -> Iterator[None]:
    try:
        yield
    except (nats.errors.Error, nats.js.errors.Error, OSError, TimeoutError) as error:
        raise Unavailable("events are not available now, try again") from error


async def _quiet(_error: Exception) -> None:
    """The client logs every failed attempt; whoever connects says it once."""
