"""What a terminal feels like: how soon a key is echoed, and how much output comes through, beside others.

    bench/terminal.py [--keys 500] [--megabytes 200] [--only "hzel, text" terminado]

Starts a stack of its own, and everything else that is compared, measures, and takes all of it down again. The
echo is measured alone, and while fifty other terminals are open and one of them floods.
`bench/run terminal` brings a Docker Engine along, whose terminals (an exec with a TTY, attached) are compared then. By
itself: PYTHONPATH=.:gen .venv/bin/python bench/terminal.py, with Docker where DOCKER_HOST names its unix socket.
terminado comes with `pip install -r bench/requirements.txt`; what is not there is left out.
"""

import argparse
import asyncio
import importlib.util
import json
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

from websockets.asyncio.client import ClientConnection, connect

from bench.side_by_side.docker import TERMINAL_PIECE, Docker
from tests.stack import ROOT, Stack, remove_folder

BUSYBOX = ROOT / "deploy/local/images/busybox.sh"
COLUMNS, ROWS = 80, 24
OTHERS = 50
ANSWER_WITHIN_S = 20.0
# Printable, and in lines like a program's: 1 MB that a shell makes and repeats.
FLOOD = (
    "head -c 750000 /dev/urandom | base64 > /tmp/flood; stty -echo; echo rea''dy; while :; do cat /tmp/flood; done\n"
)
WARM_UP_BYTES = 4_000_000


class Terminal:
    """One open terminal, whatever is behind it."""

    async def type(self, text: str) -> None:
        raise NotImplementedError

    async def hear(self) -> int:
        """Waits for output; returns how many bytes it was."""
        raise NotImplementedError


class WebSocketTerminal(Terminal):
    def __init__(self, connection: ClientConnection) -> None:
        self.connection = connection


class HzelTerminal(WebSocketTerminal):
    async def type(self, text: str) -> None:
        await self.connection.send(json.dumps({"type": "input", "data": text}))

    async def hear(self) -> int:
        message = await self.connection.recv()
        if isinstance(message, bytes):
            return len(message)
        frame = json.loads(message)
        return len(frame["data"].encode()) if frame["type"] == "output" else 0


class TerminadoTerminal(WebSocketTerminal):
    async def type(self, text: str) -> None:
        await self.connection.send(json.dumps(["stdin", text]))

    async def hear(self) -> int:
        kind, *rest = json.loads(await self.connection.recv())
        return len(rest[0].encode()) if kind == "stdout" else 0


class DockerTerminal(Terminal):
    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    async def type(self, text: str) -> None:
        self.writer.write(text.encode())
        await self.writer.drain()

    async def hear(self) -> int:
        data = await self.reader.read(TERMINAL_PIECE)
        if not data:
            raise EOFError
        return len(data)


@dataclass(frozen=True)
class Contestant:
    """Plain enough to be handed to another process. `pids` are of the processes whose work is counted."""

    kind: str
    address: str
    headers: dict[str, str]
    pids: dict[str, int]
    container_id: str = ""

    @asynccontextmanager
    async def open(self) -> AsyncIterator[Terminal]:
        """A terminal at its prompt."""
        async with OPENERS[self.kind](self) as terminal:
            yield await at_prompt(terminal)


@asynccontextmanager
async def hzel_terminal(contestant: Contestant) -> AsyncIterator[Terminal]:
    async with web_socket(contestant) as connection:
        yield HzelTerminal(connection)


@asynccontextmanager
async def terminado_terminal(contestant: Contestant) -> AsyncIterator[Terminal]:
    async with web_socket(contestant) as connection:
        yield TerminadoTerminal(connection)


@asynccontextmanager
async def docker_terminal(contestant: Contestant) -> AsyncIterator[Terminal]:
    engine = Docker(Path(contestant.address))
    try:
        async with engine.terminal(contestant.container_id, COLUMNS, ROWS) as (reader, writer):
            yield DockerTerminal(reader, writer)
    finally:
        await engine.close()


def web_socket(contestant: Contestant) -> AbstractAsyncContextManager[ClientConnection]:
    return connect(contestant.address, additional_headers=contestant.headers, compression=None, max_size=None)


OPENERS: dict[str, Callable[[Contestant], AbstractAsyncContextManager[Terminal]]] = {
    "hzel": hzel_terminal,
    "terminado": terminado_terminal,
    "docker": docker_terminal,
}


@asynccontextmanager
async def hzel(query: str) -> AsyncIterator[Contestant]:
    folder = Path(tempfile.mkdtemp(prefix="hzel-bench-", dir="/var/tmp"))
    folder.chmod(0o711)  # containers' roots are below it
    stack = Stack.settings(folder, "bench")
    try:
        await asyncio.to_thread(stack.up)
        admin = stack.client()
        record = admin.create(memory_mb=512)
        url = f"{stack.url.replace('http', 'ws', 1)}/ws/terminal/{record['id']}?cols={COLUMNS}&rows={ROWS}{query}"
        headers = {"Authorization": admin.http.headers["Authorization"]}
        yield Contestant("hzel", url, headers, {name: stack.pid_of(name) for name in ("terminal", "gateway")})
    finally:
        await asyncio.to_thread(stack.down, "--purge")
        remove_folder(folder)


TERMINADO_SERVER = """
import asyncio, sys, tornado.web
from terminado import TermSocket, UniqueTermManager
async def serve():
    manager = UniqueTermManager(shell_command=["sh"])
    tornado.web.Application([("/ws", TermSocket, {"term_manager": manager})]).listen(int(sys.argv[1]), "127.0.0.1")
    await asyncio.Event().wait()
asyncio.run(serve())
"""


@asynccontextmanager
async def terminado() -> AsyncIterator[Contestant]:
    if importlib.util.find_spec("terminado") is None:
        raise NotInstalled("bench/requirements.txt")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    server = await asyncio.create_subprocess_exec(sys.executable, "-c", TERMINADO_SERVER, str(port))
    try:
        while True:
            try:
                socket.create_connection(("127.0.0.1", port)).close()
                break
            except ConnectionRefusedError:
                await asyncio.sleep(0.05)
        yield Contestant("terminado", f"ws://127.0.0.1:{port}/ws", {}, {"terminado": server.pid})
    finally:
        server.terminate()
        await server.wait()


@asynccontextmanager
async def docker() -> AsyncIterator[Contestant]:
    """In a container of the same image as hzel's."""
    host = os.environ.get("DOCKER_HOST", "")
    if not host.startswith("unix://"):
        raise NotInstalled("bench/run")
    address = Path(host.removeprefix("unix://"))
    engine = Docker(address)
    try:
        with tempfile.TemporaryDirectory(dir="/var/tmp") as folder:
            tar = Path(folder) / "busybox.tar"
            await asyncio.to_thread(subprocess.run, [BUSYBOX, tar], check=True)
            await engine.import_image(tar)
        container_id = await engine.create()
        try:
            pids = {"dockerd": int((address.parent / "pid").read_text())}
            yield Contestant("docker", str(address), {}, pids, container_id)
        finally:
            await engine.delete(container_id)
    finally:
        await engine.close()


class NotInstalled(Exception):
    """The message says what brings it."""


CONTESTANTS: dict[str, Callable[[], AbstractAsyncContextManager[Contestant]]] = {
    "hzel, binary": lambda: hzel("&binary=1"),
    "hzel, text": lambda: hzel(""),
    "docker": docker,
    "terminado": terminado,
}


async def at_prompt(terminal: Terminal) -> Terminal:
    """Returns once it has said something and is silent."""
    heard = 0
    while True:
        try:
            async with asyncio.timeout(0.3 if heard else 30):
                heard += await terminal.hear()
        except TimeoutError:
            return terminal


async def echo(contestant: Contestant, keys: int) -> tuple[float, float]:
    """Milliseconds from a key to its echo: the median and the 99th percentile."""
    taken = []
    async with contestant.open() as terminal:
        for number in range(1, keys + 1):
            begun = time.perf_counter()
            await terminal.type("a" if number % 60 else "\x15")
            async with asyncio.timeout(ANSWER_WITHIN_S):
                await terminal.hear()
            taken.append((time.perf_counter() - begun) * 1000)
            await asyncio.sleep(0.002)
    return statistics.median(taken), statistics.quantiles(taken, n=100)[98]


async def throughput(contestant: Contestant, megabytes: int) -> tuple[float, dict[str, float]]:
    """Megabytes a second, and the milliseconds of CPU that each process used for one."""
    async with contestant.open() as terminal:
        await terminal.type(FLOOD)
        await heard(terminal, WARM_UP_BYTES)
        before, begun = cpu_seconds(contestant), time.perf_counter()
        count = await heard(terminal, megabytes * 1_000_000)
        seconds, after = time.perf_counter() - begun, cpu_seconds(contestant)
    return count / seconds / 1e6, {name: (after[name] - before[name]) / count * 1e9 for name in after}


async def heard(terminal: Terminal, least: int) -> int:
    count = 0
    while count < least:
        async with asyncio.timeout(ANSWER_WITHIN_S):
            count += await terminal.hear()
    return count


def cpu_seconds(contestant: Contestant) -> dict[str, float]:
    ticks = os.sysconf("SC_CLK_TCK")
    used = {}
    for name, pid in contestant.pids.items():
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        used[name] = (int(fields[11]) + int(fields[12])) / ticks
    return used


async def crowd(contestant: Contestant) -> None:
    """Holds fifty terminals open, floods one more, says so, and goes on until it is killed."""

    async def idle() -> None:
        async with contestant.open() as terminal:
            while True:
                await terminal.hear()

    async with asyncio.TaskGroup() as group:
        for _ in range(OTHERS):
            group.create_task(idle())
        async with contestant.open() as terminal:
            await terminal.type(FLOOD)
            await heard(terminal, WARM_UP_BYTES)
            sys.stdout.write("flooding\n")
            sys.stdout.flush()
            while True:
                await terminal.hear()


async def echo_in_a_crowd(contestant: Contestant, keys: int) -> tuple[float, float]:
    """As `echo`; the crowd is a process of its own, so that only what serves both is shared."""
    command = [sys.executable, __file__, "--crowd", json.dumps(asdict(contestant))]
    process = await asyncio.create_subprocess_exec(*command, stdout=subprocess.PIPE)
    try:
        if process.stdout is None or not await process.stdout.readline():
            raise RuntimeError("the crowd has gone")
        return await echo(contestant, keys)
    finally:
        process.kill()
        await process.wait()


async def measure(name: str, keys: int, megabytes: int) -> None:
    try:
        async with CONTESTANTS[name]() as contestant:
            alone = await echo(contestant, keys)
            rate, cpu = await throughput(contestant, megabytes)
            crowded = await echo_in_a_crowd(contestant, keys)
    except NotInstalled as missing:
        print(f"{name:14} left out: it comes with {missing}")
        return
    used = ", ".join(f"{process} {milliseconds:.1f}" for process, milliseconds in cpu.items())
    print(
        f"{name:14} echo {alone[0]:.2f} ms (p99 {alone[1]:.2f})   in a crowd {crowded[0]:.2f} ms (p99 {crowded[1]:.2f})"
        f"   output {rate:.0f} MB/s   CPU ms per MB: {used}"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--keys", type=int, default=500)
    parser.add_argument("--megabytes", type=int, default=200)
    parser.add_argument("--only", nargs="+", choices=CONTESTANTS, default=list(CONTESTANTS))
    parser.add_argument("--crowd", help=argparse.SUPPRESS)
    wanted = parser.parse_args()
    if wanted.crowd:
        asyncio.run(crowd(Contestant(**json.loads(wanted.crowd))))
        return
    for name in wanted.only:
        asyncio.run(measure(name, wanted.keys, wanted.megabytes))


if __name__ == "__main__":
    main()
