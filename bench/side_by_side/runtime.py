"""The parts below us, alone: the stack's own containerd with crun, and a commit to a database.

Containers have the specification that hzel gave one of its own, but a plain folder for a root file system and
nothing in their network namespace. They are in a namespace of containerd of their own.
"""

import asyncio
import contextlib
import json
import os
import signal
import sqlite3
import subprocess
import uuid
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from containerd.services.namespaces.v1 import namespaces_pb2, namespaces_pb2_grpc

from services.common.containerd.connection import Connection
from services.common.containerd.containers import ContainerRecord, Containers
from services.common.containerd.errors import ContainerdError
from services.common.containerd.processes import Processes, Streams
from services.common.containerd.tasks import Output, Tasks
from tests.stack import Stack

NAMESPACE = "side-by-side"
CGROUP = "hzel-bench-parts"
CGROUPS = Path("/sys/fs/cgroup")
NAMESPACE_EMPTY_WITHIN_S = 10.0


class Runtime:
    """Containers of one specification, made and ended through containerd with no one between."""

    def __init__(self, connection: Connection, runtime_root: Path, spec: Mapping[str, Any], fifos: Path) -> None:
        self._containers = Containers(connection)
        self._tasks = Tasks(connection, runtime_root)
        self._processes = Processes(connection)
        self._spec = spec
        self._fifos = fifos
        self._present: set[str] = set()

    async def create(self) -> str:
        container_id = uuid.uuid4().hex
        self._present.add(container_id)
        linux = self._spec["linux"] | {"cgroupsPath": f"/{CGROUP}/{container_id}"}
        await self._containers.put(ContainerRecord(container_id, "", "", {**self._spec, "linux": linux}, {}))
        # What is no FIFO is opened as a file.
        await self._tasks.create(container_id, "crun", Output(Path("/dev/null"), Path("/dev/null")), (0, 0))
        await self._tasks.start(container_id)
        return container_id

    async def delete(self, container_id: str) -> None:
        await self._tasks.kill(container_id, signal.SIGKILL, everything=True)
        await self._tasks.wait(container_id)
        await self._tasks.delete(container_id)
        await self._containers.delete(container_id)
        self._present.discard(container_id)

    async def delete_all(self) -> None:
        for container_id in list(self._present):
            with contextlib.suppress(ContainerdError):
                await self.delete(container_id)

    @asynccontextmanager
    async def output_fifos(self) -> AsyncIterator[Streams]:
        """For one command: with a reader each, as it needs."""
        name = uuid.uuid4().hex
        stdout, stderr = fifos = self._fifos / f"{name}.stdout", self._fifos / f"{name}.stderr"
        for fifo in fifos:
            os.mkfifo(fifo, 0o600)
        readers = [os.open(fifo, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC) for fifo in fifos]
        try:
            yield Streams(None, stdout, stderr)
        finally:
            for fifo, reader in zip(fifos, readers, strict=True):
                os.close(reader)
                fifo.unlink()

    async def command(self, container_id: str, exec_id: str, streams: Streams) -> None:
        """Exec, Start and Wait of /bin/true."""
        process = self._spec["process"] | {"args": ["/bin/true"]}
        await self._processes.add(container_id, exec_id, streams, process)
        await self._processes.start(container_id, exec_id)
        ended = await self._processes.wait(container_id, exec_id)
        if ended.status != 0:
            raise RuntimeError(f"the command exited with {ended.status}")

    async def forget_command(self, container_id: str, exec_id: str) -> None:
        await self._processes.delete(container_id, exec_id)


@asynccontextmanager
async def opened_runtime(stack: Stack, pattern_id: str, root_tar: Path, folder: Path) -> AsyncIterator[Runtime]:
    """`pattern_id` is a running container of hzel's whose specification is taken; `folder` is empty."""
    socket = stack.run_dir / "containerd/containerd.sock"
    theirs, ours = Connection(socket, stack.instance), Connection(socket, NAMESPACE)
    try:
        spec = json.loads(await Containers(theirs).specification(pattern_id))
        root, fifos = folder / "root", folder / "fifos"
        fifos.mkdir()
        await asyncio.to_thread(_unpack, root_tar, root, spec["linux"]["uidMappings"][0]["hostID"])
        await ours.ensure_namespace()
        runtime = Runtime(ours, stack.run_dir / "runtime", _with_root(spec, root), fifos)
        try:
            yield runtime
        finally:
            await runtime.delete_all()
            await _remove_namespace(ours)
            _remove_cgroups()
    finally:
        await theirs.close()
        await ours.close()


class CommitLog:
    """A SQLite database as the services have theirs."""

    def __init__(self, file: Path) -> None:
        self._connection = sqlite3.connect(file, isolation_level=None)
        self._connection.execute("PRAGMA journal_mode = WAL")
        self._connection.execute("PRAGMA synchronous = FULL")
        self._connection.execute("CREATE TABLE log (text TEXT)")

    async def commit(self) -> None:
        self._connection.execute("INSERT INTO log VALUES (?)", ("x" * 500,))

    def close(self) -> None:
        self._connection.close()


def _with_root(spec: Mapping[str, Any], root: Path) -> dict[str, Any]:
    """The same container, without the files that are its own."""
    mounts = [mount for mount in spec["mounts"] if not mount["destination"].startswith("/etc/")]
    return {**spec, "root": {"path": str(root), "readonly": False}, "mounts": mounts}


def _unpack(tar: Path, root: Path, owner: int) -> None:
    root.mkdir()
    subprocess.run(["tar", "-C", str(root), "-xf", str(tar)], check=True)
    subprocess.run(["chown", "-R", "-h", f"{owner}:{owner}", str(root)], check=True)


async def _remove_namespace(connection: Connection) -> None:
    """containerd lets a namespace go only when all in it is gone, which takes it a moment."""
    stub = namespaces_pb2_grpc.NamespacesStub(connection.channel)
    request = namespaces_pb2.DeleteNamespaceRequest(name=NAMESPACE)
    async with asyncio.timeout(NAMESPACE_EMPTY_WITHIN_S):
        while True:
            try:
                await connection.call("delete namespace", NAMESPACE, stub.Delete, request)
            except ContainerdError:
                await asyncio.sleep(0.1)
            else:
                return


def _remove_cgroups() -> None:
    for tree in (CGROUPS, *(entry for entry in CGROUPS.iterdir() if entry.is_dir())):
        for folder, _, _ in os.walk(tree / CGROUP, topdown=False):
            Path(folder).rmdir()
