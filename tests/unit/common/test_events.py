"""Events as they go over the wire."""

import json
from datetime import UTC, datetime, timedelta

from services.common import context
from services.common.events import command_event, container_event, terminal_event
from services.common.ids import is_id


def test_a_container_event_has_the_state_in_its_subject_and_plain_json_in_its_body() -> None:
    event = container_event("c-1", "running", "node-a", {"state": "running", "exit_code": None, "n": 3})
    assert event.subject == "hzel.container.c-1.running"
    body = json.loads(event.body)
    assert is_id(event.id)
    assert body["id"] == event.id
    assert body["type"] == "container.state_changed"
    assert body["container_id"] == "c-1"
    assert body["node_name"] == "node-a"
    assert body["data"] == {"state": "running", "exit_code": None, "n": 3.0}
    age = datetime.now(UTC) - datetime.fromisoformat(body["time"])
    assert timedelta() <= age < timedelta(minutes=1)


def test_the_end_of_a_container_is_an_event_of_its_own() -> None:
    event = container_event("c-1", "deleted", "node-a", {})
    assert event.subject == "hzel.container.c-1.deleted"
    assert json.loads(event.body)["type"] == "container.deleted"


def test_what_is_no_change_of_state_is_an_event_of_its_own_kind() -> None:
    for what in ("updated", "expiring"):
        event = container_event("c-1", what, "node-a", {})
        assert event.subject == f"hzel.container.c-1.{what}"
        assert json.loads(event.body)["type"] == f"container.{what}"


def test_a_command_event_names_command_and_container() -> None:
    event = command_event("m-1", "c-1", "succeeded", "node-a", {"exit_code": 0})
    assert event.subject == "hzel.command.m-1.succeeded"
    body = json.loads(event.body)
    assert (body["type"], body["container_id"]) == ("command.status_changed", "c-1")
    assert body["data"] == {"command_id": "m-1", "exit_code": 0}


def test_a_terminal_event_says_what_happened() -> None:
    event = terminal_event("s-1", "c-1", "opened", "node-a", {})
    assert event.subject == "hzel.terminal.s-1.opened"
    assert json.loads(event.body)["type"] == "terminal.opened"


async def test_the_request_that_caused_it_is_named() -> None:
    assert "request_id" not in json.loads(container_event("c", "running", "n", {}).body)
    context.enter_request("req-1")
    assert json.loads(container_event("c", "running", "n", {}).body)["request_id"] == "req-1"


def test_later_events_have_later_ids() -> None:
    events = [container_event("c", "running", "n", {}) for _ in range(100)]
    assert [event.id for event in events] == sorted(event.id for event in events)
