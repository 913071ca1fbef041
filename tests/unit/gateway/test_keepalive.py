"""When the other end of a connection is given up, and when its silence has an excuse."""

import asyncio
import contextlib
import socket
from collections.abc import Callable

import pytest

from services.gateway.keepalive import STALLED_S, Keepalive, Look
from services.gateway.tcp_info import TcpInfo

SILENT_S = 30.0


def look(
    at: float, *, unanswered: int = 0, answered_s: float = 0.0, acknowledged: int = 0, buffered: int = 0,
    not_sent: int = 0, is_read: bool = True,
) -> Look:  # fmt: skip
    return Look(at, TcpInfo(unanswered, answered_s, acknowledged, not_sent), buffered, is_read)


def test_a_peer_is_given_up_thirty_seconds_after_it_was_last_heard() -> None:
    peer = Keepalive(SILENT_S, 0.0)
    peer.heard(12.0)
    assert peer.silent_in(15.0) == 27.0
    assert peer.is_there(look(41.9))
    assert not peer.is_there(look(42.0))


def test_a_kernel_that_answers_for_a_program_that_does_not_is_no_excuse() -> None:
    peer = Keepalive(SILENT_S, 0.0)
    # What trickles arrives there, and is acknowledged.
    for at in range(30):
        assert peer.is_there(look(float(at), acknowledged=at * 1000))
    assert not peer.is_there(look(30.0, acknowledged=30_000))


@pytest.mark.parametrize("held", [{"buffered": 1}, {"not_sent": 1}])
def test_a_peer_that_takes_nothing_may_stop_for_a_minute_and_not_for_ever(held: dict[str, int]) -> None:
    peer = Keepalive(SILENT_S, 0.0)
    for at in range(int(STALLED_S)):
        assert peer.is_there(look(float(at), **held)), at
    assert not peer.is_there(look(STALLED_S, **held))


def test_a_peer_that_takes_a_little_now_and_then_reads() -> None:
    peer = Keepalive(SILENT_S, 0.0)
    for at in range(0, 3600, 60):
        assert peer.is_there(look(float(at), acknowledged=at * 10 + 10, buffered=1000)), at


@pytest.mark.parametrize("why", [{"buffered": 1}, {"is_read": False}])
def test_no_excuse_holds_for_a_kernel_that_does_not_answer(why: dict[str, int]) -> None:
    peer = Keepalive(SILENT_S, 0.0)
    assert peer.is_there(look(30.0, unanswered=5, answered_s=29.0, **why))
    # Between two probes there is nothing to be answered.
    assert peer.is_there(look(31.0, unanswered=0, answered_s=31.0, **why))
    assert not peer.is_there(look(32.0, unanswered=1, answered_s=30.0, **why))


def test_answers_may_lie_among_what_is_not_read() -> None:
    peer = Keepalive(SILENT_S, 0.0)
    assert peer.is_there(look(10_000.0, is_read=False))


async def test_the_kernel_says_what_a_peer_has_taken_and_what_waits_for_it() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        ours = socket.create_connection(server.getsockname())
        theirs, _ = server.accept()
    with ours, theirs:
        ours.sendall(b"x" * 1000)
        await until(lambda: TcpInfo.of(ours).acknowledged in (1000, 1001))
        assert TcpInfo.of(ours).not_sent == 0
        assert TcpInfo.of(ours).answered_s < 60
        ours.setblocking(False)
        with contextlib.suppress(BlockingIOError):
            while True:
                ours.send(b"x" * 100_000)
        await until(lambda: TcpInfo.of(ours).not_sent > 0)


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(5):
        while not condition():
            await asyncio.sleep(0.01)
