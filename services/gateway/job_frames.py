"""The frames of `/ws/jobs/{id}` (pure)."""

import base64
import json
from collections.abc import Iterator
from typing import Any

from services.gateway.exec_client import Command, CommandStatus, Output, StreamName

_STREAMS: tuple[StreamName, ...] = ("stdout", "stderr")


class JobFrames:
    """Turns events of a command into frames: text in which no character is broken, or base64 for bytes.

    The offset and the length of a frame are bytes; the next connection goes on at their sum. Bytes of a
    character that has not come whole are held back, and lie before that sum only if the other stream wrote
    in between: whoever connects there gets them again, as `is_before`.
    """

    def __init__(self, as_base64: bool) -> None:
        self._as_base64 = as_base64
        self._held: dict[StreamName, bytes] = dict.fromkeys(_STREAMS, b"")

    def of(self, event: CommandStatus | Output | Command) -> Iterator[str]:
        match event:
            case CommandStatus():
                yield _frame(type="status", status=event.value)
            case Output():
                yield from self._output(event)
            case Command():
                yield from self._end(event)

    def _output(self, output: Output) -> Iterator[str]:
        if self._as_base64:
            if not output.is_before:
                text = base64.b64encode(output.data).decode()
                yield _output_frame(output.stream, output.offset, len(output.data), text)
            return
        if output.is_before:
            self._held[output.stream] = output.data[whole_characters(output.data) :]
            return
        data = self._held[output.stream] + output.data
        whole = whole_characters(data)
        self._held[output.stream] = data[whole:]
        if whole:
            end = output.offset + len(output.data) - len(self._held[output.stream])
            yield _output_frame(output.stream, end - whole, whole, data[:whole].decode("utf-8", "replace"))

    def _end(self, command: Command) -> Iterator[str]:
        end = command.stdout_bytes + command.stderr_bytes
        for stream, held in self._held.items():
            if held:
                # Nothing completes them any more.
                yield _output_frame(stream, end - len(held), len(held), held.decode("utf-8", "replace"))
        yield _frame(
            type="exit",
            status=command.status.value,
            exit_code=command.exit_code,
            signal=command.signal,
            timed_out=command.timed_out,
            error=command.error,
            truncated=command.truncated,
        )


def error_frame(message: str) -> str:
    return _frame(type="error", message=message)


def whole_characters(data: bytes) -> int:
    """How many bytes at the front end with a whole UTF-8 character, or with what can't become one."""
    for back in range(1, min(3, len(data)) + 1):
        byte = data[-back]
        if byte & 0xC0 == 0x80:
            continue
        length = 2 if byte & 0xE0 == 0xC0 else 3 if byte & 0xF0 == 0xE0 else 4 if byte & 0xF8 == 0xF0 else 1
        return len(data) - back if length > back else len(data)
    return len(data)


def _output_frame(stream: StreamName, offset: int, length: int, data: str) -> str:
    return _frame(type="output", stream=stream, offset=offset, length=length, data=data)


def _frame(**fields: Any) -> str:
    return json.dumps(fields, ensure_ascii=False, separators=(",", ":"))
