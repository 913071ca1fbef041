"""One stack for all tests that only use it; a stack of its own for those that break it."""

import json
import os
import shutil
import tempfile
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.stack import Client, Stack, remove_folder


@pytest.fixture(scope="session")
def stack() -> Iterator[Stack]:
    """The stack that tests/run has started; shared, also between processes."""
    given = os.environ.get("HZEL_TEST_STACK")
    if not given:
        pytest.fail("these tests need a running stack: start them with tests/run")
    shared = Stack(json.loads(given))
    yield shared
    shared.close()


@pytest.fixture
def own_stack(request: pytest.FixtureRequest) -> Iterator[Stack]:
    """A stack nobody else uses."""
    folder = Path(tempfile.mkdtemp(prefix="hzel-", dir="/var/tmp"))
    folder.chmod(0o711)  # containers' roots are below it
    mine = Stack.settings(folder, f"t{uuid.uuid4().hex[:5]}")
    try:
        mine.up()
        yield mine
    finally:
        if logs := os.environ.get("HZEL_TEST_LOGS"):
            shutil.copytree(mine.state_dir / "logs", Path(logs) / request.node.name, dirs_exist_ok=True)
        mine.down("--purge")
        remove_folder(folder)


@pytest.fixture
def admin(stack: Stack) -> Client:
    return stack.client()


@pytest.fixture
def user(stack: Stack) -> Client:
    """Somebody nobody else is."""
    return stack.new_user()


@pytest.hookimpl(trylast=True)
def pytest_configure(config: pytest.Config) -> None:
    if not hasattr(config, "workerinput"):
        config.pluginmanager.register(FailuresAtOnce(config))


class FailuresAtOnce:
    """Shows each failure when it happens, too: a run that is cut short tells what had gone wrong."""

    def __init__(self, config: pytest.Config) -> None:
        self._config = config

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.failed:
            terminal = self._config.pluginmanager.get_plugin("terminalreporter")
            terminal.write_line(f"\nfailed in {report.when}: {report.nodeid}\n{report.longreprtext[-4000:]}")
