"""What is done in turn by hzel, by Docker, and by the parts alone."""

import asyncio
import statistics
import time
import uuid
from collections.abc import Awaitable, Callable, Mapping
from functools import partial

from bench.side_by_side.contender import Contender
from bench.side_by_side.docker import Docker
from bench.side_by_side.hzel import Hzel
from bench.side_by_side.measure import Samples, Step, milliseconds, per_second
from bench.side_by_side.rows import COMMANDS_AT_A_TIME, CREATES_AT_A_TIME, OUTPUT_MB
from bench.side_by_side.runtime import CommitLog, Runtime
from tests.stack import Stack

HZEL, DOCKER, PARTS = "hzel", "docker", "parts"
WARM_UP = 3
LIVES = 40
COMMANDS = 100
OUTPUTS = 7
MANY_ROUNDS = 3
MANY_CREATES = 100
MANY_COMMANDS = 400
UPS = 3
OUTPUT_BYTES = OUTPUT_MB * 1_000_000


class Comparison:
    def __init__(self, stack: Stack, hzel: Hzel, docker: Docker, runtime: Runtime, log: CommitLog) -> None:
        self._stack = stack
        self._hzel = hzel
        self._docker = docker
        self._runtime = runtime
        self._log = log
        self._makers: Mapping[str, Contender | Runtime] = {HZEL: hzel, DOCKER: docker, PARTS: runtime}
        self.samples = Samples()
        self.groups: Mapping[str, Callable[[], Awaitable[None]]] = {
            "containers": self._containers,
            "commands": self._commands,
            "output": self._output,
            "batch": self._batch,
            "start": self._start,
        }

    async def _containers(self) -> None:
        kept = await self._one_each()
        await self.samples.alternate(
            LIVES,
            WARM_UP,
            {
                HZEL: partial(_life, self._hzel, kept[HZEL]),
                DOCKER: partial(_life, self._docker, kept[DOCKER]),
                PARTS: self._runtime_life,
            },
        )
        await self._delete_each(kept)

    async def _commands(self) -> None:
        kept = await self._one_each()
        one: dict[str, Step] = {
            HZEL: partial(_command, self._hzel, kept[HZEL]),
            DOCKER: partial(_command, self._docker, kept[DOCKER]),
            PARTS: partial(self._runtime_command, kept[PARTS]),
        }
        await self.samples.alternate(COMMANDS, WARM_UP, one)
        row: dict[str, Step] = {name: partial(_row_of_commands, step) for name, step in one.items()}
        await self.samples.alternate(MANY_ROUNDS, 1, row)
        many: dict[str, Step] = {name: partial(_many_commands, step) for name, step in one.items()}
        await self.samples.alternate(MANY_ROUNDS, 1, many)
        await self._delete_each(kept)

    async def _output(self) -> None:
        kept = await self._one_each()
        await self.samples.alternate(
            OUTPUTS,
            1,
            {HZEL: partial(self._hzel_output, kept[HZEL]), DOCKER: partial(self._docker_output, kept[DOCKER])},
        )
        await self._delete_each(kept)

    async def _batch(self) -> None:
        await self.samples.alternate(
            MANY_ROUNDS, 0, {name: partial(_many_creates, maker) for name, maker in self._makers.items()}
        )

    async def _start(self) -> None:
        """Everything is stopped before; the last start leaves it running."""
        for _ in range(UPS):
            await asyncio.to_thread(self._stack.down)
            begun = time.perf_counter()
            await asyncio.to_thread(self._stack.up)
            self.samples.by_row["up"][HZEL].append(time.perf_counter() - begun)

    async def _one_each(self) -> dict[str, str]:
        return {name: await maker.create() for name, maker in self._makers.items()}

    async def _delete_each(self, kept: Mapping[str, str]) -> None:
        for name, maker in self._makers.items():
            await maker.delete(kept[name])

    async def _runtime_life(self) -> Mapping[str, float]:
        commit = await milliseconds(self._log.commit())
        created, container_id = await _created(self._runtime)
        return {"commit": commit, "create": created, "delete": await milliseconds(self._runtime.delete(container_id))}

    async def _runtime_command(self, container_id: str) -> Mapping[str, float]:
        exec_id = uuid.uuid4().hex
        async with self._runtime.output_fifos() as streams:
            taken = await milliseconds(self._runtime.command(container_id, exec_id, streams))
            await self._runtime.forget_command(container_id, exec_id)
        return {"command": taken}

    async def _hzel_output(self, container_id: str) -> Mapping[str, float]:
        begun = time.perf_counter()
        command_id = await self._hzel.print_bytes(container_id, OUTPUT_BYTES)
        printed = time.perf_counter()
        await self._hzel.download(command_id, OUTPUT_BYTES)
        downloaded = time.perf_counter()
        return {
            "output": OUTPUT_MB / (downloaded - begun),
            "print": OUTPUT_MB / (printed - begun),
            "download": OUTPUT_MB / (downloaded - printed),
        }

    async def _docker_output(self, container_id: str) -> Mapping[str, float]:
        return {"output": OUTPUT_MB / (await milliseconds(self._docker.output(container_id, OUTPUT_BYTES)) / 1000)}


async def _created(maker: Contender | Runtime) -> tuple[float, str]:
    begun = time.perf_counter()
    container_id = await maker.create()
    return (time.perf_counter() - begun) * 1000, container_id


async def _life(side: Contender, kept: str) -> Mapping[str, float]:
    """One container from its creation to its end; `kept` is one that is stopped and started again."""
    created, container_id = await _created(side)
    return {
        "create": created,
        "nothing": await milliseconds(side.nothing()),
        "get": await milliseconds(side.get(container_id)),
        "delete": await milliseconds(side.delete(container_id)),
        "stop": await milliseconds(side.stop(kept)),
        "start": await milliseconds(side.start(kept)),
    }


async def _command(side: Contender, container_id: str) -> Mapping[str, float]:
    return {"command": await milliseconds(side.command(container_id))}


async def _row_of_commands(one: Step) -> Mapping[str, float]:
    """Each is begun when the one before is over."""
    taken = [(await one())["command"] for _ in range(COMMANDS)]
    return {"command_row": statistics.median(taken)}


async def _many_commands(one: Step) -> Mapping[str, float]:
    return {"command_many": await per_second(MANY_COMMANDS, COMMANDS_AT_A_TIME, one)}


async def _many_creates(maker: Contender | Runtime) -> Mapping[str, float]:
    made: list[str] = []

    async def create() -> None:
        made.append(await maker.create())

    rate = await per_second(MANY_CREATES, CREATES_AT_A_TIME, create)
    left = iter(made)
    await per_second(len(made), CREATES_AT_A_TIME, lambda: maker.delete(next(left)))
    return {"create_many": rate}
