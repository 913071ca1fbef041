"""Pages of a list: an opaque cursor, and the Link header that carries the next one. Pure."""

import base64
import binascii
from collections.abc import Iterable
from urllib.parse import urlencode

from services.common.errors import FieldError, ValidationFailed
from services.common.ids import is_id

_VERSION = "1:"


def encode_cursor(after_id: str) -> str:
    return base64.urlsafe_b64encode(f"{_VERSION}{after_id}".encode()).decode().rstrip("=")


def decode_cursor(cursor: str) -> str:
    """The id behind which the page begins. Raises ValidationFailed."""
    try:
        padded = cursor.encode("ascii") + b"=" * (-len(cursor) % 4)
        text = base64.b64decode(padded, altchars=b"-_", validate=True).decode("ascii")
    except (UnicodeError, binascii.Error) as error:
        raise _invalid() from error
    after_id = text.removeprefix(_VERSION)
    if after_id == text or not is_id(after_id):
        raise _invalid()
    return after_id


def next_link(path: str, parameters: Iterable[tuple[str, str]], after_id: str) -> str:
    """The value of a Link header: the same request, one page on."""
    kept = [(name, value) for name, value in parameters if name != "cursor"]
    return f'<{path}?{urlencode([*kept, ("cursor", encode_cursor(after_id))])}>; rel="next"'


def _invalid() -> ValidationFailed:
    return ValidationFailed("the cursor is not valid", (FieldError("cursor", "must come from a Link header"),))
