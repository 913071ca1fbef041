"""Programs that need a real terminal, in both images of the node: what is on the screen is what counts."""

import asyncio
import platform
from collections.abc import Iterator
from typing import Any

import pytest

from tests.e2e.test_terminal import starts
from tests.stack import Client, Stack
from tests.terminal import Terminal, terminal


@pytest.fixture(scope="module")
def container(stack: Stack) -> Iterator[dict[str, Any]]:
    with stack.client().container(memory_mb=64) as record:
        yield record


async def begins(opened: Terminal, command: str) -> None:
    """With nothing on the screen that was there before."""
    opened.screen.reset()
    await opened.type(f"{command}\r")


async def leaves(opened: Terminal, keys: str) -> None:
    """Returns once the shell is at its prompt again."""
    opened.output = ""
    await opened.type(keys)
    await opened.shows("# ")
    assert await opened.runs("echo left") == "left"


async def edits_a_file(opened: Terminal) -> None:
    await begins(opened, "vi /tmp/edited")
    await opened.sees("~", "/tmp/edited")
    await opened.type("ifirst li\x7fine\rsecond: äöü €\x1b")
    await opened.sees("second: äöü €")
    await leaves(opened, ":wq\r")
    assert await opened.runs("cat /tmp/edited") == "first line\nsecond: äöü €"
    await begins(opened, "vi /tmp/edited")
    await opened.sees("first line", "second: äöü €", "~")
    await leaves(opened, ":q!\r")


async def follows_the_size(opened: Terminal) -> None:
    await opened.runs("seq 1 500 > /tmp/numbers")
    await begins(opened, "vi /tmp/numbers")
    await opened.sees("23")
    assert not opened.is_on_screen("35")
    await opened.resize(100, 40)
    await opened.sees("35")
    await opened.resize(60, 10)
    await leaves(opened, ":q!\r")
    assert await opened.runs("stty size") == "10 60"
    await opened.resize(80, 24)


async def pages(opened: Terminal) -> None:
    await opened.runs("seq 1 500 > /tmp/numbers")
    await begins(opened, "less /tmp/numbers")
    await opened.sees("2", "23")
    await opened.type(" ")
    await opened.sees("24", "46")
    await opened.type("/400\r")
    await opened.sees("400", "401")
    await opened.type("G")
    await opened.sees("499", "500")
    await leaves(opened, "q")


async def shows_processes(opened: Terminal) -> None:
    await begins(opened, "top")
    await opened.sees("COMMAND")
    await leaves(opened, "q")


async def controls_jobs(opened: Terminal) -> None:
    for command in ("sleep 5001", "sleep 5002"):
        await starts(opened, command)
        await opened.type("\x1a")
        await opened.shows("Stopped")
    await opened.type("bg %1; jobs\r")
    await opened.shows("Running")
    await opened.type("fg %1 # to the front\r")
    await opened.shows("to the front\r\n")
    await opened.shows("sleep 5001")
    await opened.type("\x03")
    await opened.shows("^C")
    assert "5001" not in await opened.runs("jobs")
    await opened.runs("kill %2; kill -CONT %2; wait %2")
    await starts(opened, "wc -l -")
    await opened.type("one\rtwo\r\x04")
    await opened.shows("2 -")
    await starts(opened, "sleep 5003")
    await opened.type("\x1c")
    await opened.shows("^\\")
    assert await opened.runs("echo still here; jobs") == "still here"


PROGRAMS = (edits_a_file, follows_the_size, pages, shows_processes, controls_jobs)


@pytest.mark.parametrize("program", PROGRAMS, ids=lambda program: program.__name__)
async def test_programs_of_busybox_work(stack: Stack, admin: Client, container: dict[str, Any], program: Any) -> None:
    async with terminal(stack, admin, container["id"]) as opened:
        await program(opened)


async def test_programs_of_the_default_image_work(own_stack: Stack) -> None:
    machine = platform.freedesktop_os_release()
    own_stack.down()
    own_stack.environment["HZEL_DEFAULT_IMAGE"] = ""
    await asyncio.to_thread(own_stack.up)
    admin = own_stack.client()
    record = admin.create(memory_mb=256, image=f"hzel/{machine['ID']}:{machine['VERSION_ID']}")
    async with terminal(own_stack, admin, record["id"]) as opened:
        assert await opened.runs("echo $SHELL $LANG $COLUMNS $LINES") == "/bin/bash C.UTF-8 80 24"
        for program in PROGRAMS:
            await program(opened)
        program_text = 'import curses; curses.wrapper(lambda w: (w.addstr(5, 9, "at 5 and 9"), w.getch()))'
        await begins(opened, f"python3 -c '{program_text}'")
        await opened.sees("         at 5 and 9")
        await leaves(opened, "x")
