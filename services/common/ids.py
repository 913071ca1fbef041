"""Identifiers: UUIDs of version 7, which sort by the time they were made."""

import re

import uuid_utils

_UUID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}")
_REQUEST_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")


def new_id() -> str:
    return str(uuid_utils.uuid7())


def is_id(text: str) -> bool:
    """Whether `text` is a UUID in the one form that is stored: lower case with hyphens."""
    return _UUID.fullmatch(text) is not None


def sane_request_id(text: str | None) -> str:
    """The caller's request id if it is short and plain, else a new one."""
    return text if text and _REQUEST_ID.fullmatch(text) else new_id()
