"""Recordings are forgotten by age, and the oldest before that when all together take too much room."""

import asyncio
import time

import structlog

from services.terminal.recording import Recordings

log = structlog.get_logger(__name__)

EVERY_S = 60.0


class Retention:
    """`kept_s` seconds after its end a recording goes; all ended ones together are held below `most_bytes`."""

    def __init__(self, recordings: Recordings, kept_s: int, most_bytes: int) -> None:
        self._recordings = recordings
        self._kept_s = kept_s
        self._most_bytes = most_bytes

    async def run(self) -> None:
        """Sweeps until cancelled."""
        while True:
            try:
                await self.sweep()
            except OSError as error:
                log.warning("retention_failed", error=type(error).__name__)
            await asyncio.sleep(EVERY_S)

    async def sweep(self) -> None:
        """Raises OSError."""
        ended = await self._recordings.ended()
        surplus = sum(one.size for one in ended) - self._most_bytes
        oldest_end = time.time() - self._kept_s
        for one in ended:
            if surplus <= 0 and one.ended_at >= oldest_end:
                return
            await self._recordings.remove(one)
            surplus -= one.size
