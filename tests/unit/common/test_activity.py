"""When something last went on, and how it is told over gRPC."""

import asyncio
from collections.abc import Sequence
from pathlib import Path

import grpc
import pytest

from services.common import activity
from services.common.activity import Activity, LastActive, boot_time_s
from services.common.errors import Unavailable
from services.common.rpc.activity import ActivityClient, serve_activity
from services.common.rpc.channel import open_channel
from services.common.rpc.server import serving


def test_the_latest_time_is_remembered_of_as_many_as_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(activity, "MAX_REMEMBERED", 2)
    last, before = LastActive(), boot_time_s()
    for container_id in ("a", "b", "a", "c"):
        last.touch(container_id)
    known = {one.container_id: one for one in last.activities(["a", "b", "c", "d"], {"c", "d"})}
    assert {name for name, one in known.items() if one.last_active_s is not None} == {"a", "c"}
    assert {name for name, one in known.items() if one.is_active} == {"c", "d"}
    assert before <= (known["a"].last_active_s or 0) <= (known["c"].last_active_s or 0) <= boot_time_s()


async def test_what_is_known_is_told_and_a_refusal_too(tmp_path: Path) -> None:
    async def source(container_ids: Sequence[str]) -> list[Activity]:
        if "?" in container_ids:
            raise Unavailable("not yet")
        return [Activity("a", True, None), Activity("b", False, 12.5), Activity("c", False, None)]

    def register(server: grpc.aio.Server) -> None:
        serve_activity(server, source)

    async with serving(tmp_path / "s", register, []), open_channel(tmp_path / "s") as channel, asyncio.timeout(10):
        client = ActivityClient(channel)
        assert await client.get(["a", "b", "c"]) == [Activity("a", True, 0), Activity("b", False, 12.5)]
        with pytest.raises(Unavailable):
            await client.get(["?"])
