"""The frames of `/ws/terminal/{container_id}` (pure)."""

import base64
import binascii
import codecs
import json
from collections.abc import Iterator
from dataclasses import dataclass
from json.encoder import encode_basestring
from typing import Any

from services.gateway.terminal_client import Closed, Opened, Output, Size, Told

MAX_SIDE = 1000
# From this size on an upload is not parsed like other messages, but piece by piece: see `Upload`.
LARGE = 64 * 1024
BASE64_PIECE = 256 * 1024
STAND_IN = "what stands here instead"
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
    """`base64` from `start` to `end` is the content, encoded, in a text that may have more around it."""

    path: str
    base64: str
    start: int
    end: int

    def content(self) -> Iterator[bytes]:
        """Piece by piece, since all at once would take long. Raises ValueError where it is no base64."""
        for at in range(self.start, self.end, BASE64_PIECE):
            piece = self.base64[at : min(at + BASE64_PIECE, self.end)]
            decoded = base64.b64decode(piece, validate=True)
            if at + BASE64_PIECE < self.end and len(decoded) != BASE64_PIECE // 4 * 3:
                raise binascii.Error("padding is no end")
            yield decoded


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
    return _large_upload(message) or _parse(message)


def _large_upload(message: str) -> Upload | None:
    """None where it is anything else, or written in a way that takes a parser.

    Most of such a message is one long text without a quote. It is left where it is, and what is around it is parsed
    with something short in its place.
    """
    if len(message) < LARGE:
        return None
    middle = len(message) // 2
    start, end = message.rfind('"', 0, middle) + 1, message.find('"', middle)
    if end < 0 or message.find("\\") >= 0:
        return None
    around = message[:start] + STAND_IN + message[end:]
    if around.count(STAND_IN) != 1:
        return None
    try:
        frame = _frame_of(around)
    except BadFrame:
        return None
    match frame:
        case {"type": "file_upload", "path": str(path), "data": str(data)} if data == STAND_IN:
            _bytes(path)
            return Upload(path, message, start, end)
    return None


def _parse(message: str) -> Heard:
    match _frame_of(message):
        case {"type": "input", "data": str(data)}:
            return Input(_bytes(data))
        case {"type": "resize", "cols": columns, "rows": rows}:
            if not (_is_side(columns) and _is_side(rows)):
                raise BadFrame(f"cols and rows must be from 1 to {MAX_SIDE}")
            return Size(columns, rows)
        case {"type": "file_upload", "path": str(path), "data": str(data)}:
            _bytes(path)
            return Upload(path, data, 0, len(data))
    raise BadFrame("a frame must be input with data, resize with cols and rows, or file_upload with path and data")


def error_frame(message: str) -> str:
    return _frame(type="error", message=message)


def closed_frame(reason: str, exit_code: int | None) -> str:
    return _frame(type="closed", reason=reason, exit_code=exit_code)


def uploaded_frame(path: str) -> str:
    return _frame(type="file_uploaded", path=path)


def upload_error_frame(path: str, message: str) -> str:
    return _frame(type="file_upload_error", path=path, message=message)


def _frame_of(message: str) -> Any:
    try:
        return json.loads(message)
    except (ValueError, RecursionError) as error:
        raise BadFrame("a frame must be a JSON object") from error


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
