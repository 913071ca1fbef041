"""Which processes are ours."""

from pathlib import Path

import pytest

from services.metrics.node import service_of

RUN = Path("/run/hzel")


@pytest.mark.parametrize(
    ("command", "service"),
    [
        ([".venv/bin/python", "-m", "services.lifecycle", ""], "lifecycle"),
        (["python3", "-m", "services.exec.keeper", ""], "exec.keeper"),
        (["containerd", "--config", "/run/hzel/config/containerd.toml", ""], "containerd"),
        ([".venv/bin/nats-server", "-c", "/run/hzel/config/nats.conf", ""], "nats"),
        (["nats-server", "-c", "/run/other/config/nats.conf", ""], None),
        (["/usr/bin/containerd-shim-runc-v2", "-address", "/run/hzel/containerd/containerd.sock", ""], None),
        (["python3", "-m", "http.server", ""], None),
        (["sh", "-m"], None),
        ([""], None),
    ],
)
def test_a_command_line_tells(command: list[str], service: str | None) -> None:
    assert service_of(command, RUN) == service
