"""Ended commands are forgotten by age, and the oldest before that when their output takes too much room."""

import asyncio
from datetime import UTC, datetime, timedelta

import structlog

from services.common.errors import Unavailable
from services.exec.output import OutputFiles
from services.exec.store import Store

log = structlog.get_logger(__name__)

EVERY_S = 60.0
BATCH = 500


class Retention:
    """`kept_s` seconds after its end a command goes; all output together is held below `most_bytes`."""

    def __init__(self, store: Store, files: OutputFiles, kept_s: int, most_bytes: int) -> None:
        self._store = store
        self._files = files
        self._kept = timedelta(seconds=kept_s)
        self._most_bytes = most_bytes

    async def run(self) -> None:
        """Sweeps until cancelled."""
        while True:
            try:
                await self.sweep()
            except (Unavailable, OSError) as error:
                log.warning("retention_failed", error=type(error).__name__)
            await asyncio.sleep(EVERY_S)

    async def sweep(self) -> None:
        while old := await self._store.finished_before(datetime.now(UTC) - self._kept, BATCH):
            await self._remove(old)
        outputs = await self._store.finished_with_output()
        surplus = sum(kept for _, kept in outputs) - self._most_bytes
        doomed = []
        for command_id, kept in outputs:
            if surplus <= 0:
                break
            doomed.append(command_id)
            surplus -= kept
        await self._remove(doomed)

    async def _remove(self, command_ids: list[str]) -> None:
        for start in range(0, len(command_ids), BATCH):
            batch = command_ids[start : start + BATCH]
            # The rows first: a file without one is found by nobody, a row without its file would be a lie.
            await self._store.remove(batch)
            for command_id in batch:
                await asyncio.to_thread(self._files.remove, command_id)
