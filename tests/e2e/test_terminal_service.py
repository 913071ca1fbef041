"""The terminal service as the gateway has it: its gRPC API on the node's socket, with what no client of REST can do."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from typing import Any

import grpc
import pytest
from hzel.terminal.v1 import terminal_pb2 as pb
from hzel.terminal.v1 import terminal_pb2_grpc

from tests.e2e.test_terminal import gone
from tests.stack import Stack

WINDOW = 256 * 1024
WITHIN_S = 15.0
SIZE = pb.Size(columns=80, rows=24)


@pytest.fixture(scope="module")
def container(stack: Stack) -> Iterator[dict[str, Any]]:
    with stack.client().container(memory_mb=64) as record:
        yield record


@pytest.fixture
async def stub(stack: Stack) -> AsyncIterator[terminal_pb2_grpc.TerminalServiceStub]:
    async with grpc.aio.insecure_channel(f"unix:{stack.run_dir / 'terminal.sock'}") as channel:
        yield terminal_pb2_grpc.TerminalServiceStub(channel)


class Session:
    """One stream, which acknowledges nothing by itself."""

    def __init__(self, call: Any, request: Any) -> None:
        self.call = call
        self.request = request
        self.output = bytearray()

    async def say(self, **message: Any) -> None:
        await self.call.write(self.request(**message))

    async def hear(self, kind: str) -> Any:
        """The next message of the kind."""
        async with asyncio.timeout(WITHIN_S):
            while True:
                message = await self.call.read()
                assert message is not grpc.aio.EOF, kind
                if message.WhichOneof("message") == "output":
                    self.output += message.output
                if message.WhichOneof("message") == kind:
                    return getattr(message, kind)

    async def shows(self, text: bytes) -> None:
        while text not in self.output:
            await self.hear("output")
        del self.output[: self.output.index(text) + len(text)]


@asynccontextmanager
async def opened(stub: Any, container_id: str, **more: Any) -> AsyncIterator[Session]:
    call = stub.OpenSession()
    session = Session(call, pb.OpenSessionRequest)
    await session.say(open=pb.Open(**({"container_id": container_id, "requested_by": "somebody", "size": SIZE} | more)))
    try:
        yield session
    finally:
        call.cancel()


async def code(call: Any) -> str:
    """Of the REST contract, with which the call fails."""
    async with asyncio.timeout(WITHIN_S):
        with contextlib.suppress(grpc.aio.AioRpcError):
            while await call.read() is not grpc.aio.EOF:
                pass
        return dict(await call.trailing_metadata())["hzel-error-code"]


async def listed(stub: Any, container_id: str) -> list[pb.Session]:
    """Of one container, or of all."""
    return list((await stub.ListSessions(pb.ListSessionsRequest(container_id=container_id))).sessions)


async def test_a_signal_reaches_the_programs_that_keys_would_reach(
    stack: Stack, stub: Any, container: dict[str, Any]
) -> None:
    async with opened(stub, container["id"]) as session:
        await session.hear("opened")
        await session.say(input=b"trap 'echo sh''ell' USR1; sleep 6001 & sh -c 'trap \"echo he''ard; exit 5\" USR1; "
                                b"echo re''ady; while :; do sleep 0.1; done'; echo \"code $?\"; jobs\n")  # fmt: skip
        await session.shows(b"ready")
        await session.say(signal=10)
        await session.shows(b"heard")
        await session.shows(b"code 5")
        await session.shows(b"sleep 6001")
        assert b"shell" not in session.output
        await session.say(signal=9)
        assert (await session.hear("closed")).exit_code == 137
    await gone(stack, container["id"])


async def test_sessions_are_listed_with_who_is_attached(stack: Stack, stub: Any, container: dict[str, Any]) -> None:
    async with opened(stub, container["id"], resume_s=30, user="root") as first, opened(stub, container["id"]) as other:
        ids = [(await session.hear("accepted")).session_id for session in (first, other)]
        await first.hear("opened")
        await other.hear("opened")
        watching = Session(stub.AttachSession(), pb.AttachSessionRequest)
        await watching.say(attach=pb.Attach(session_id=ids[0], container_id=container["id"], watch=True))
        await watching.hear("accepted")
        found = await listed(stub, container["id"])
        assert [session.id for session in found] == ids
        assert [(one.user, one.is_attached, one.watchers) for one in found] == [("root", True, 1), ("", True, 0)]
        assert {(one.requested_by, one.size.columns, one.size.rows) for one in found} == {("somebody", 80, 24)}
        assert set(ids) <= {session.id for session in await listed(stub, "")}
        first.call.cancel()
        async with asyncio.timeout(WITHIN_S):
            while (await listed(stub, container["id"]))[0].is_attached:
                await asyncio.sleep(0.02)
        again = Session(stub.AttachSession(), pb.AttachSessionRequest)
        await again.say(attach=pb.Attach(session_id=ids[0], container_id=container["id"]))
        await again.hear("opened")
        await watching.hear("opened")
        await again.say(end=pb.End())
        assert (await watching.hear("closed")).reason == pb.CLOSE_REASON_CLIENT
        again.call.cancel()
    await gone(stack, container["id"])


async def test_no_more_output_is_sent_than_was_acknowledged(stub: Any, container: dict[str, Any]) -> None:
    async with opened(stub, container["id"]) as session:
        await session.hear("opened")
        await session.say(input=b"stty -echo; yes\n")
        while len(session.output) < WINDOW:
            await session.hear("output")
        assert len(session.output) == WINDOW
        reading = asyncio.create_task(session.hear("output"))
        await asyncio.sleep(1)
        assert not reading.done()
        await session.say(output_taken=WINDOW)
        await reading
        while len(session.output) < 2 * WINDOW:
            await session.hear("output")
        assert len(session.output) == 2 * WINDOW


async def test_who_acknowledges_after_the_end_has_the_last_output_all_the_same(
    stack: Stack, stub: Any, container: dict[str, Any]
) -> None:
    async with opened(stub, container["id"]) as session:
        await session.hear("opened")
        await session.say(input=b"stty -echo; echo be''gin; seq 1 30000; exit 7\n")
        await gone(stack, container["id"], within_s=WITHIN_S)
        await session.shows(b"begin\r\n")
        await session.say(output_taken=len(session.output))
        assert (await session.hear("closed")).exit_code == 7
        assert session.output.split() == [b"%d" % number for number in range(1, 30_001)]
        await session.say(input=b"too late")
        await session.call.done_writing()
        assert await session.call.code() == grpc.StatusCode.OK


async def test_input_beyond_what_was_taken_ends_the_stream(stub: Any, container: dict[str, Any]) -> None:
    async with opened(stub, container["id"]) as session:
        await session.hear("opened")
        await session.say(input=b"stty raw; echo re''ady; sleep 6002\n")
        await session.shows(b"ready")
        await session.say(input=b"x" * 4 * WINDOW)
        await session.say(input=b"y")
        assert await code(session.call) == "RATE_LIMITED"


@pytest.mark.parametrize(
    ("message", "expected"),
    [
        ({"input": b"x"}, "BAD_REQUEST"),
        ({"open": pb.Open(container_id="../..")}, "CONTAINER_NOT_FOUND"),
        ({"open": pb.Open(size=pb.Size(columns=0, rows=1))}, "VALIDATION_FAILED"),
        ({"open": pb.Open(resume_s=-1)}, "VALIDATION_FAILED"),
        ({"open": pb.Open(user="a\0b")}, "VALIDATION_FAILED"),
        ({"open": pb.Open(shell="x" * 5000)}, "VALIDATION_FAILED"),
    ],
)
async def test_what_cannot_be_opened_is_refused(
    stack: Stack, stub: Any, container: dict[str, Any], message: dict[str, Any], expected: str
) -> None:
    if "open" in message and not message["open"].container_id:
        message["open"].container_id = container["id"]
    call = stub.OpenSession()
    await call.write(pb.OpenSessionRequest(**message))
    assert await code(call) == expected
    await gone(stack, container["id"])


async def test_nonsense_in_a_session_ends_it(stack: Stack, stub: Any, container: dict[str, Any]) -> None:
    for message in ({"signal": 19 + 100}, {"signal": 11}, {"resize": pb.Size(columns=80, rows=1001)}):
        async with opened(stub, container["id"]) as session:
            await session.hear("opened")
            await session.say(**message)
            assert await code(session.call) == "VALIDATION_FAILED"
    await gone(stack, container["id"])


async def test_a_session_is_found_in_its_own_container_only(stack: Stack, stub: Any, container: dict[str, Any]) -> None:
    with stack.client().container() as other:
        async with opened(stub, container["id"]) as session:
            session_id = (await session.hear("accepted")).session_id
            attaching = stub.AttachSession()
            attach = pb.Attach(session_id=session_id, container_id=other["id"])
            await attaching.write(pb.AttachSessionRequest(attach=attach))
            assert await code(attaching) == "NOT_FOUND"


async def test_a_session_that_is_given_no_size_is_not_kept(stack: Stack, stub: Any, container: dict[str, Any]) -> None:
    async with opened(stub, container["id"], size=None) as session:
        await session.hear("accepted")
        assert await code(session.call) == "CONFLICT"
    await gone(stack, container["id"])
