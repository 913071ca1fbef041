"""The FIFOs that containers write their output to, a folder for each container that runs."""

import contextlib
import fcntl
import os
import shutil
from pathlib import Path

from services.common.containerd.tasks import Output
from services.lifecycle.logs.segment import Stream

# What a process may write before it waits, while nobody reads.
FIFO_BYTES = 256 * 1024


class Fifos:
    """A folder is also the record that there is something to be read; the shim holds both ends of what is in it."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def make(self, container_id: str) -> Output:
        folder = self._folder / container_id
        folder.mkdir(mode=0o700, parents=True)
        for stream in Stream:
            os.mkfifo(folder / stream.name.lower(), 0o600)
        return Output(folder / "stdout", folder / "stderr")

    def open(self, container_id: str) -> dict[Stream, int]:
        """Descriptors that do not block; they see an end only after there has been a writer. Empty without FIFOs."""
        readers: dict[Stream, int] = {}
        for stream in Stream:
            path = self._folder / container_id / stream.name.lower()
            with contextlib.suppress(FileNotFoundError):
                readers[stream] = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
                with contextlib.suppress(PermissionError):
                    fcntl.fcntl(readers[stream], fcntl.F_SETPIPE_SZ, FIFO_BYTES)
        return readers

    def remove(self, container_id: str) -> None:
        shutil.rmtree(self._folder / container_id, ignore_errors=True)

    def container_ids(self) -> set[str]:
        return {entry.name for entry in self._folder.iterdir()} if self._folder.exists() else set()
