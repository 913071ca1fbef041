"""The node itself: its load, its memory and disk, its way out, and the processes of hzel on it."""

import asyncio
import os
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import psutil

from services.common.settings import Settings

EVERY_S = 1.0
PROCESSES_LOOKED_FOR_EVERY_S = 10.0
ROUTES = Path("/proc/net/route")


@dataclass(frozen=True)
class ServiceUsage:
    name: str
    pid: int
    cpu_usage_s: float
    memory_bytes: int
    started_unix_s: float


@dataclass(frozen=True)
class NodeUsage:
    """`cpu_usage_s` is of all cores since boot, without idling and waiting; network bytes are of the links that lead
    elsewhere, since boot; the disk is the one with the state folder."""

    unix_s: float
    booted_unix_s: float
    cpu_cores: int
    cpu_percent: float
    cpu_usage_s: float
    load: tuple[float, float, float]
    memory_total_bytes: int
    memory_available_bytes: int
    disk_total_bytes: int
    disk_free_bytes: int
    network_rx_bytes: int
    network_tx_bytes: int
    services: tuple[ServiceUsage, ...]


class Node:
    def __init__(self, settings: Settings) -> None:
        self._state_dir = settings.state_dir
        self._run_dir = settings.run_dir
        self._cpu_usage_s = _cpu_usage_s()
        self._cpu_seen_at = time.monotonic()
        self._cpu_percent = 0.0
        self._services: dict[str, psutil.Process] = {}

    async def run(self) -> None:
        """Until cancelled: what is told of the last second has to be looked at every second."""
        processes_at = float("-inf")
        while True:
            if time.monotonic() - processes_at > PROCESSES_LOOKED_FOR_EVERY_S:
                self._services = await asyncio.to_thread(_services, self._run_dir)
                processes_at = time.monotonic()
            await asyncio.sleep(EVERY_S)
            self._look_at_cpu()

    def usage(self) -> NodeUsage:
        memory = psutil.virtual_memory()
        disk = psutil.disk_usage(str(self._state_dir))
        links = psutil.net_io_counters(pernic=True)
        outward = [links[name] for name in outward_links(ROUTES.read_text()) if name in links]
        return NodeUsage(
            unix_s=time.time(),
            booted_unix_s=psutil.boot_time(),
            cpu_cores=os.cpu_count() or 1,
            cpu_percent=self._cpu_percent,
            cpu_usage_s=_cpu_usage_s(),
            load=psutil.getloadavg(),
            memory_total_bytes=memory.total,
            memory_available_bytes=memory.available,
            disk_total_bytes=disk.total,
            disk_free_bytes=disk.free,
            network_rx_bytes=sum(link.bytes_recv for link in outward),
            network_tx_bytes=sum(link.bytes_sent for link in outward),
            services=tuple(self._service_usages()),
        )

    def _look_at_cpu(self) -> None:
        used_s, at = _cpu_usage_s(), time.monotonic()
        available_s = (at - self._cpu_seen_at) * (os.cpu_count() or 1)
        self._cpu_percent = min(100.0, max(0.0, 100.0 * (used_s - self._cpu_usage_s) / available_s))
        self._cpu_usage_s, self._cpu_seen_at = used_s, at

    def _service_usages(self) -> Iterator[ServiceUsage]:
        for name, process in self._services.items():
            with suppress(psutil.NoSuchProcess), process.oneshot():
                times = process.cpu_times()
                yield ServiceUsage(
                    name, process.pid, times.user + times.system, process.memory_info().rss, process.create_time()
                )


def outward_links(routes: str) -> set[str]:
    """The links with a default route, from the text of /proc/net/route: link, destination, …, the mask eighth."""
    rows = [line.split() for line in routes.splitlines()[1:]]
    return {row[0] for row in rows if len(row) > 7 and int(row[1], 16) == 0 and int(row[7], 16) == 0}


def service_of(command: list[str], run_dir: Path) -> str | None:
    """Which program of a stack a command line is; for our own services, of any stack."""
    if "-m" in command[:-1] and (module := command[command.index("-m") + 1]).startswith("services."):
        return module.removeprefix("services.")
    for name, file in (("containerd", "containerd.toml"), ("nats", "nats.conf")):
        if str(run_dir / "config" / file) in command[1:]:
            return name
    return None


def _services(run_dir: Path) -> dict[str, psutil.Process]:
    """The processes of the stack with this run folder, by name."""
    found: dict[str, psutil.Process] = {}
    for folder in sorted(Path("/proc").glob("[0-9]*"), key=lambda folder: int(folder.name)):
        # Processes come and go while they are looked at.
        with suppress(OSError, psutil.NoSuchProcess):
            command = (folder / "cmdline").read_bytes().decode(errors="replace").split("\0")
            name = service_of(command, run_dir)
            if name is not None and (name in ("containerd", "nats") or _run_dir_of(folder) == str(run_dir)):
                # Helpers that a service has forked look like it, and came later.
                found.setdefault(name, psutil.Process(int(folder.name)))
    return found


def _run_dir_of(folder: Path) -> str:
    for entry in (folder / "environ").read_bytes().split(b"\0"):
        if entry.startswith(b"HZEL_RUN_DIR="):
            return entry.partition(b"=")[2].decode(errors="replace")
    return str(Settings.model_fields["run_dir"].default)


def _cpu_usage_s() -> float:
    times = psutil.cpu_times()
    # A guest's time is part of user and nice already.
    return float(times.user + times.nice + times.system + times.irq + times.softirq + times.steal)
