"""JSON as RFC 8259 and I-JSON mean it: what Python's parser lets through on top is refused.

Pure. The result holds only what a client can have meant: no duplicate names, no NaN or infinity, no lone
surrogates, no NUL characters, no nesting beyond `MAX_DEPTH`.
"""

import json
import math
from typing import Any, NoReturn

from services.common.errors import FieldError, InvalidRequest, ValidationFailed

MAX_DEPTH = 16

Json = None | bool | int | float | str | list["Json"] | dict[str, "Json"]


def parse(body: bytes) -> Json:
    """Raises InvalidRequest, or ValidationFailed where the text is sound JSON and a string in it is not."""
    try:
        value: Json = json.loads(
            body.decode("utf-8"),
            object_pairs_hook=_object,
            parse_constant=_refuse_constant,
            parse_float=_finite,
        )
    except UnicodeDecodeError as error:
        raise InvalidRequest("the body is not UTF-8") from error
    except json.JSONDecodeError as error:
        raise InvalidRequest(f"the body is not JSON: {error.msg} at character {error.pos}") from error
    except RecursionError as error:
        raise _too_deep() from error
    except ValueError as error:
        # Python refuses to read integers of thousands of digits.
        raise InvalidRequest("the body holds a number that is too large") from error
    _check(value)
    return value


def canonical(value: Json) -> bytes:
    """The same bytes for the same value, however it was written."""
    return json.dumps(value, sort_keys=True, separators=(",", ":")).encode()


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) != len(pairs):
        raise InvalidRequest("the body names a field twice in one object")
    return value


def _refuse_constant(name: str) -> NoReturn:
    raise InvalidRequest(f"the body is not JSON: {name} is no JSON value")


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise InvalidRequest("the body holds a number that is too large")
    return value


def _check(root: Json) -> None:
    waiting: list[tuple[Json, tuple[str | int, ...]]] = [(root, ())]
    while waiting:
        value, path = waiting.pop()
        if isinstance(value, str):
            _check_text(value, path)
        elif isinstance(value, dict | list):
            if len(path) >= MAX_DEPTH:
                raise _too_deep()
            if isinstance(value, dict):
                for key in value:
                    _check_text(key, path)
                waiting.extend((child, (*path, key)) for key, child in value.items())
            else:
                waiting.extend((child, (*path, index)) for index, child in enumerate(value))


def _check_text(text: str, path: tuple[str | int, ...]) -> None:
    if "\0" in text:
        field = ".".join(map(str, path)) or "body"
        raise ValidationFailed(
            "the body holds a NUL character", (FieldError(field[:128], "must not hold a NUL character"),)
        )
    if not text.isascii():
        try:
            text.encode()
        except UnicodeEncodeError as error:
            raise InvalidRequest("the body holds half of a surrogate pair") from error


def _too_deep() -> InvalidRequest:
    return InvalidRequest(f"the body is nested deeper than {MAX_DEPTH} levels")
