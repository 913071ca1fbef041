"""Identifiers, and what is taken for one."""

import time
import uuid

import pytest

from services.common.ids import is_id, new_id, sane_request_id


def test_a_new_id_is_a_uuid_of_version_7() -> None:
    assert uuid.UUID(new_id()).version == 7
    assert is_id(new_id())


def test_ids_sort_by_the_time_they_were_made() -> None:
    made = []
    for _ in range(50):
        made += [new_id() for _ in range(20)]
        time.sleep(0.001)
    assert made == sorted(made)
    assert len(set(made)) == len(made)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "x",
        "0190A6B0-0000-7000-8000-000000000000",  # not the form that is stored
        "0190a6b0000070008000000000000000",
        "{0190a6b0-0000-7000-8000-000000000000}",
        "0190a6b0-0000-7000-8000-000000000000\n",
        "0190a6b0-0000-7000-8000-00000000000g",
        "../../../../../../../../../../etc/passwd",
    ],
)
def test_nothing_else_is_an_id(text: str) -> None:
    assert not is_id(text)


@pytest.mark.parametrize("text", ["a", "7", "req-1_2.3", "x" * 128])
def test_a_plain_request_id_is_kept(text: str) -> None:
    assert sane_request_id(text) == text


@pytest.mark.parametrize("text", [None, "", "x" * 129, "-x", "a b", "a\nb", "a\n", 'a"b', "ä", "a;b"])
def test_any_other_request_id_is_replaced(text: str | None) -> None:
    replaced = sane_request_id(text)
    assert replaced != text
    assert is_id(replaced)
