"""Cursors and the Link header."""

from urllib.parse import parse_qsl, urlsplit

import pytest

from services.common.errors import ValidationFailed
from services.common.ids import new_id
from services.gateway.pagination import decode_cursor, encode_cursor, next_link

SOME_ID = "01930000-0000-7000-8000-000000000000"


def test_a_cursor_leads_back_to_its_id() -> None:
    identifier = new_id()
    assert decode_cursor(encode_cursor(identifier)) == identifier


@pytest.mark.parametrize("cursor", ["", "x", "!!!!", "ä", encode_cursor("not-an-id"), SOME_ID, "A" * 255])
def test_an_invented_cursor_is_refused(cursor: str) -> None:
    with pytest.raises(ValidationFailed) as refusal:
        decode_cursor(cursor)
    assert refusal.value.details[0].field == "cursor"


def test_the_next_link_keeps_the_other_parameters_and_replaces_the_cursor() -> None:
    identifier = new_id()
    asked = [("label", "a=b&c"), ("label", "ü=1"), ("cursor", "old"), ("limit", "2")]
    link = next_link("/api/v1/containers", asked, identifier)
    target, relation = link.split("; ")
    assert relation == 'rel="next"'
    assert link.isascii()
    parameters = parse_qsl(urlsplit(target[1:-1]).query)
    assert parameters == [("label", "a=b&c"), ("label", "ü=1"), ("limit", "2"), ("cursor", encode_cursor(identifier))]
