"""The frames of `/ws/terminal/{container_id}` (pure)."""

import base64
import binascii
import codecs
import json
from dataclasses import dataclass
from json.encoder import encode_basestring
from typing import Any

from services.gateway.terminal_client import Closed, Opened, Output, Size, Told

MAX_SIDE = 1000
# The backslash comes first: the others bring some in.
_ESCAPES = (
    (b"\\", b"\\\\"),
    (b'"', b'\\"'),
    (b"\n", b"\\n"),
    (b"\r", b"\\r"),
    (b"\t", b"\\t"),
    (b"\b", b"\\b"),
    (b"\x1b", b"\\u001b"),
)
_UNUSUAL = bytes(set(range(32)) - {ord(character) for character, _ in _ESCAPES})


class BadFrame(Exception):
    """The message is for the client."""


@dataclass(frozen=True)
class Input:
    data: bytes


@dataclass(frozen=True)
class Upload:
    """`data` is None where the client's was no base64."""

    path: str
    data: bytes | None


Heard = Input | Size | Upload


class TerminalFrames:
    """Turns what a session tells into frames: bytes as they are, or text in which no character is broken."""

    def __init__(self, container_id: str, is_binary: bool) -> None:
        self._container_id = container_id
        self._is_binary = is_binary
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")

    def of(self, told: Told) -> str | bytes | None:
        """None where a character is not whole yet."""
        match told:
            case Output(data):
                return data if self._is_binary else _output(self._decoder.decode(data))
            case Size(columns, rows):
                return _frame(type="resized", cols=columns, rows=rows)
            case Opened(session_id):
                return _frame(type="opened", container_id=self._container_id, session_id=session_id)
            case Closed(reason, exit_code):
                return closed_frame(reason, exit_code)

    def rest(self) -> str | None:
        """What is left of a character that the end has cut off."""
        return _output(self._decoder.decode(b"", final=True))


def parse(message: str | bytes) -> Heard:
    """Bytes are input as they are. Raises BadFrame."""
    if isinstance(message, bytes):
        return Input(message)
    try:
        frame = json.loads(message)
    except (ValueError, RecursionError) as error:
        raise BadFrame("a frame must be a JSON object") from error
    match frame:
        case {"type": "input", "data": str(data)}:
            return Input(_bytes(data))
        case {"type": "resize", "cols": columns, "rows": rows}:
            if not (_is_side(columns) and _is_side(rows)):
                raise BadFrame(f"cols and rows must be from 1 to {MAX_SIDE}")
            return Size(columns, rows)
        case {"type": "file_upload", "path": str(path), "data": str(data)}:
            _bytes(path)
            return Upload(path, _base64(data))
    raise BadFrame("a frame must be input with data, resize with cols and rows, or file_upload with path and data")


def error_frame(message: str) -> str:
    return _frame(type="error", message=message)


def closed_frame(reason: str, exit_code: int | None) -> str:
    return _frame(type="closed", reason=reason, exit_code=exit_code)


def uploaded_frame(path: str) -> str:
    return _frame(type="file_uploaded", path=path)


def upload_error_frame(path: str, message: str) -> str:
    return _frame(type="file_upload_error", path=path, message=message)


def _output(text: str) -> str | None:
    return f'{{"type":"output","data":{json_string(text)}}}' if text else None


def json_string(text: str) -> str:
    """As the encoder of the standard library writes it, ten times as fast where only usual characters need escaping."""
    data = text.encode()
    if len(data.translate(None, _UNUSUAL)) != len(data):
        return encode_basestring(text)
    for character, escaped in _ESCAPES:
        data = data.replace(character, escaped)
    return f'"{data.decode()}"'


def _frame(**fields: Any) -> str:
    return json.dumps(fields, ensure_ascii=False, separators=(",", ":"))


def _is_side(value: object) -> bool:
    return type(value) is int and 1 <= value <= MAX_SIDE


def _bytes(text: str) -> bytes:
    try:
        return text.encode()
    except UnicodeEncodeError as error:
        raise BadFrame("a frame holds half of a surrogate pair") from error


def _base64(text: str) -> bytes | None:
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        return None
