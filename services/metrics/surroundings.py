"""What belongs to a container and is not in its control group: its link and its disk."""

import os
import time
from collections.abc import Mapping
from pathlib import Path

from services.common import layout
from services.common.counters import Counters
from services.metrics import links
from services.metrics.disk import Disk
from services.metrics.links import NO_BYTES, LinkBytes
from services.metrics.sample import Reading

PIECE_BYTES = 64 * 1024


class Surroundings:
    """Of the containers of one instance. Close it at the end."""

    def __init__(self, instance: str, run_dir: Path) -> None:
        self._instance = instance
        self._run_dir = run_dir
        self._links = os.open("/proc/self/net/dev", os.O_RDONLY | os.O_CLOEXEC)

    def close(self) -> None:
        os.close(self._links)

    def links(self) -> Mapping[bytes, LinkBytes]:
        """Of the whole host, by name: one file has them all."""
        text = b""
        while piece := os.pread(self._links, PIECE_BYTES, len(text)):
            text += piece
        return links.parse(text)

    def disk(self, container_id: str) -> Disk:
        """Whoever opens it closes it."""
        return Disk(self._run_dir, container_id)

    def reading(
        self,
        container_id: str,
        counters: Counters,
        monotonic_ns: int,
        all_links: Mapping[bytes, LinkBytes],
        disk: Disk,
    ) -> Reading:
        """Puts together what belongs to one container; `monotonic_ns` is when its counters were read."""
        link = self._link_of(container_id, all_links)
        return Reading(
            unix_s=time.time(),
            monotonic_ns=monotonic_ns,
            counters=counters,
            network_received=link.received,
            network_sent=link.transmitted,
            disk=disk.use(),
            disk_io=disk.io(),
        )

    def _link_of(self, container_id: str, all_links: Mapping[bytes, LinkBytes]) -> LinkBytes:
        """As the container counts: what the host's end has sent, it has received. Zeros while it has no link."""
        name = layout.link_name(self._instance, container_id).encode()
        found = all_links.get(name, NO_BYTES)
        return LinkBytes(received=found.transmitted, transmitted=found.received)
