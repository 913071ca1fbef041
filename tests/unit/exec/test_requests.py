"""Requests over gRPC: what is refused before anything is done."""

import signal
from typing import Any

import pytest
from hzel.exec.v1 import exec_pb2 as pb

from services.common.errors import CommandNotFound, ValidationFailed
from services.exec import requests
from services.exec.command import Status
from services.exec.output import Stream
from services.exec.requests import DEFAULT_OUTPUT_BYTES, MAX_OUTPUT_BYTES, MAX_TEXT_BYTES


def refused(**fields: Any) -> str:
    with pytest.raises(ValidationFailed) as caught:
        requests.spec(pb.CommandSpec(**fields))
    (detail,) = caught.value.details
    return detail.field


def test_a_program_runs_as_it_is_and_shell_text_in_a_shell() -> None:
    assert requests.spec(pb.CommandSpec(program="ls", args=["-l", "a b;c"])).arguments == ("ls", "-l", "a b;c")
    assert requests.spec(pb.CommandSpec(command="a | b")).arguments == ("/bin/sh", "-c", "a | b")


def test_what_is_left_out_has_its_default() -> None:
    spec = requests.spec(pb.CommandSpec(program="ls"))
    assert (spec.stdin, spec.timeout_s, spec.max_output_bytes) == (None, None, DEFAULT_OUTPUT_BYTES)


def test_an_empty_stdin_is_one() -> None:
    assert requests.spec(pb.CommandSpec(program="cat", stdin=b"")).stdin == b""


@pytest.mark.parametrize("fields", [{}, {"program": "a", "command": "b"}, {"args": ["a"]}])
def test_either_a_program_or_shell_text_is_needed(fields: dict[str, Any]) -> None:
    assert refused(**fields) == "program"


def test_arguments_go_with_a_program() -> None:
    assert refused(command="a", args=["b"]) == "args"


@pytest.mark.parametrize(
    "fields",
    [
        {"program": "a\0"},
        {"program": "a", "args": ["\0"]},
        {"command": "\0"},
        {"program": "a", "env": {"A": "\0"}},
        {"program": "a", "cwd": "/\0"},
        {"program": "a", "user": "\0"},
        {"program": "x" * MAX_TEXT_BYTES},
        {"program": "a", "args": ["x" * 1000] * 132},
        {"program": "a", "args": [""] * (MAX_TEXT_BYTES + 1)},
    ],
)
def test_texts_have_no_nul_and_a_bound(fields: dict[str, Any]) -> None:
    assert refused(**fields) == "args"


@pytest.mark.parametrize("name", ["", "1A", "A-B", "A=B", " A"])
def test_a_variables_name_is_one(name: str) -> None:
    assert refused(program="a", env={name: "x"}) == "env"


@pytest.mark.parametrize("cwd", ["a", "./a", "~", "../"])
def test_a_working_folder_is_absolute(cwd: str) -> None:
    assert refused(program="a", cwd=cwd) == "cwd"


def test_numbers_have_bounds() -> None:
    for timeout_s in (0, -1, 7 * 24 * 3600 + 1):
        assert refused(program="a", timeout_s=timeout_s) == "timeout_s"
    for most in (-1, MAX_OUTPUT_BYTES + 1):
        assert refused(program="a", max_output_bytes=most) == "max_output_bytes"
    assert refused(program="a", stdin=bytes(1024 * 1024 + 1)) == "stdin"


@pytest.mark.parametrize("seconds", [-0.1, 60.1, float("nan"), float("inf")])
def test_nobody_waits_longer_than_a_minute(seconds: float) -> None:
    with pytest.raises(ValidationFailed):
        requests.wait(seconds)
    assert requests.wait(60) == 60


def test_offsets_pages_and_streams() -> None:
    for wrong in (0, 501, -1):
        with pytest.raises(ValidationFailed):
            requests.page_limit(wrong)
    with pytest.raises(ValidationFailed):
        requests.offset(-1)
    with pytest.raises(ValidationFailed):
        requests.stream(0)
    for stream, number in requests.STREAMS.items():
        assert requests.stream(number) is stream
    assert set(requests.STREAMS) == set(Stream)


@pytest.mark.parametrize("name", ["TERM", "term", "SIGTERM"])
def test_a_signal_goes_by_its_name(name: str) -> None:
    assert requests.signal_number(name) is signal.SIGTERM


@pytest.mark.parametrize("name", ["", "NOPE", "15", "_IGN", "SIG"])
def test_what_is_no_signals_name_is_refused(name: str) -> None:
    with pytest.raises(ValidationFailed):
        requests.signal_number(name)


def test_input_has_a_bound_and_what_is_no_id_names_no_command() -> None:
    with pytest.raises(ValidationFailed):
        requests.input_data(bytes(1024 * 1024 + 1))
    for text in ("", "x", "../x"):
        with pytest.raises(CommandNotFound):
            requests.command_id(text)
        with pytest.raises(ValidationFailed):
            requests.new_id("id", text)


def test_the_drawing_of_states_names_each_and_three_are_final() -> None:
    assert all(status.name in (Status.__doc__ or "") for status in Status)
    assert {status for status in Status if status.is_final} == {Status.SUCCEEDED, Status.FAILED, Status.CANCELLED}
