"""Recordings: asciicast version 2, a JSON header, then a JSON line per piece of output with its time.

https://docs.asciinema.org/manual/asciicast/v2/
"""

import asyncio
import codecs
import contextlib
import json
import os
import time
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

import structlog

from services.common.errors import NotFound
from services.common.ids import is_id
from services.terminal.shell import Size

log = structlog.get_logger(__name__)

# What is not written yet holds the shell, like a client that does not read.
WINDOW = 1024 * 1024
PIECE = 256 * 1024
MAX_HEADER = 64 * 1024
FULL = "\r\n[the recording is full and ends here]\r\n"


@dataclass(frozen=True)
class Origin:
    """Who recorded what; kept in the header, under `hzel`."""

    container_id: str
    requested_by: str


@dataclass(frozen=True)
class Ended:
    """A recording that nobody writes to any more."""

    path: Path
    ended_at: float  # seconds since the epoch
    size: int  # bytes


class Recorder:
    """Writes one recording, in a thread and in order; a disk that fails ends it, and not the session."""

    def __init__(
        self,
        path: Path,
        header: Mapping[str, object],
        most: int,
        on_written: Callable[[], None],
        on_end: Callable[[], None],
    ) -> None:
        """`most` bytes are written and no more; `on_written` is called whenever fewer wait. Raises OSError.

        `on_end` is called when nothing more will be written, which is when `run` ends.
        """
        self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        self._room = most
        self._on_written = on_written
        self._on_end = on_end
        self._started = time.monotonic()
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._waiting = [_line(header)]
        self._news = asyncio.Event()
        self._news.set()
        self._is_closed = False
        self.waiting_bytes = 0

    def on_output(self, data: bytes) -> None:
        if self._room and (text := self._decoder.decode(data)):
            self._add("o", text)

    def on_resize(self, size: Size) -> None:
        if self._room:
            self._add("r", f"{size.columns}x{size.rows}")

    def close(self) -> None:
        """`run` returns once everything is written."""
        if self._room and (text := self._decoder.decode(b"", final=True)):
            self._add("o", text)
        self._is_closed = True
        self._news.set()

    async def run(self) -> None:
        """Writes until it is closed."""
        try:
            while self._waiting or not self._is_closed:
                await self._news.wait()
                self._news.clear()
                lines, self._waiting, self.waiting_bytes = self._waiting, [], 0
                await asyncio.to_thread(_write, self._file, b"".join(lines))
                self._on_written()
        except OSError as error:
            log.warning("recording_failed", error=str(error))
            self._room = self.waiting_bytes = 0
            self._on_written()
        finally:
            os.close(self._file)
            self._on_end()

    def _add(self, kind: str, text: str) -> None:
        at = round(time.monotonic() - self._started, 6)
        line = _line([at, kind, text])
        if len(line) > self._room:
            self._room = 0
            line = _line([at, "o", FULL])
        else:
            self._room -= len(line)
        self.waiting_bytes += len(line)
        self._waiting.append(line)
        self._news.set()


class Recordings:
    """A file for each, named like the session."""

    def __init__(self, folder: Path, most: int) -> None:
        """`most` is the size at which a recording ends, bytes."""
        self._folder = folder
        self._most = most
        self._in_the_making: set[Path] = set()
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)

    def new(
        self, session_id: str, origin: Origin, size: Size, env: Mapping[str, str], on_written: Callable[[], None]
    ) -> Recorder:
        """Raises OSError."""
        header = {
            "version": 2,
            "width": size.columns,
            "height": size.rows,
            "timestamp": int(time.time()),
            "env": {name: env[name] for name in ("SHELL", "TERM") if name in env},
            "hzel": asdict(origin),
        }
        path = self._path(session_id)
        recorder = Recorder(path, header, self._most, on_written, lambda: self._in_the_making.discard(path))
        self._in_the_making.add(path)
        return recorder

    async def ended(self) -> list[Ended]:
        """Those that nobody writes to any more, the oldest first. Raises OSError."""
        found = await asyncio.to_thread(_look, self._folder)
        return sorted((one for one in found if one.path not in self._in_the_making), key=lambda one: one.ended_at)

    async def remove(self, recording: Ended) -> None:
        """Whoever reads it has it to its end. Raises OSError."""
        await asyncio.to_thread(recording.path.unlink, missing_ok=True)

    async def read(self, session_id: str) -> AsyncIterator[Origin | bytes]:
        """First who it is of, then its bytes. Raises NotFound."""
        try:
            file = await asyncio.to_thread(os.open, self._path(session_id), os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError as error:
            raise _no_recording() from error
        try:
            data = await asyncio.to_thread(os.read, file, PIECE)
            with contextlib.suppress(ValueError, KeyError, TypeError):
                yield Origin(**json.loads(data.split(b"\n", 1)[0])["hzel"])
                while data:
                    yield data
                    data = await asyncio.to_thread(os.read, file, PIECE)
                return
        finally:
            os.close(file)
        # It was cut off before it had a header.
        raise _no_recording()

    def _path(self, session_id: str) -> Path:
        if not is_id(session_id):
            raise _no_recording()
        return self._folder / f"{session_id}.cast"


def _no_recording() -> NotFound:
    return NotFound("there is no such recording")


def _look(folder: Path) -> list[Ended]:
    found = []
    for path in folder.glob("*.cast"):
        with contextlib.suppress(FileNotFoundError):
            status = path.stat()
            found.append(Ended(path, status.st_mtime, status.st_size))
    return found


def _line(value: object) -> bytes:
    return (json.dumps(value, ensure_ascii=False) + "\n").encode()


def _write(file: int, data: bytes) -> None:
    rest = memoryview(data)
    while rest:
        rest = rest[os.write(file, rest) :]
