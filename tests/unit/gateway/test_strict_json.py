"""JSON that is let in, and JSON that is not."""

import pytest

from services.common.errors import InvalidRequest, ValidationFailed
from services.gateway.strict_json import MAX_DEPTH, canonical, parse


@pytest.mark.parametrize(
    ("text", "value"),
    [
        (b'{"a": [1, 2.5, "x", null, true]}', {"a": [1, 2.5, "x", None, True]}),
        ('"ü€😀"'.encode(), "ü€😀"),
        (b'"\\ud83d\\ude00"', "😀"),
        (b" 1 ", 1),
        (b"-0.0", -0.0),
    ],
)
def test_json_is_read(text: bytes, value: object) -> None:
    assert parse(text) == value


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"{",
        b"{'a': 1}",
        b"[1,]",
        b"{} {}",
        b"nonsense",
        b"NaN",
        b"[Infinity]",
        b"-Infinity",
        b"1e999",
        b'{"a": 1, "a": 1}',
        b'{"x": {"a": 1, "\\u0061": 2}}',
        b'"\\ud800"',
        b'{"\\udfff": 1}',
        b'"\xff"',
        b"\xef\xbb\xbf{}",
        b'"\xed\xa0\x80"',
        b'"\x01"',
        b"9" * 5000,
        b"[" * 100_000,
        b'{"a":' * 100_000,
    ],
)
def test_what_is_no_sound_json_is_refused(text: bytes) -> None:
    with pytest.raises(InvalidRequest) as refusal:
        parse(text)
    assert refusal.value.code == "BAD_REQUEST"


def test_nesting_is_refused_beyond_its_limit_and_not_before() -> None:
    parse(b"[" * MAX_DEPTH + b"]" * MAX_DEPTH)
    with pytest.raises(InvalidRequest):
        parse(b"[" * (MAX_DEPTH + 1) + b"]" * (MAX_DEPTH + 1))


def test_a_nul_character_is_refused_with_the_field_that_holds_it() -> None:
    with pytest.raises(ValidationFailed) as refusal:
        parse(b'{"command": ["a", "b\\u0000c"]}')
    assert [detail.field for detail in refusal.value.details] == ["command.1"]


def test_the_canonical_form_does_not_depend_on_order_and_spaces() -> None:
    assert canonical(parse(b'{"b": 1, "a": "\\u00fc"}')) == canonical(parse('{"a":"ü","b":1}'.encode()))
    assert canonical({"a": 1}) != canonical({"a": "1"})
