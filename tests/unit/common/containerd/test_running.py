"""Where the kernel says whether a container is frozen."""

from pathlib import Path

import pytest

from services.common.containerd.running import freezer_file

V1 = "12:cpu,cpuacct:/i/c\n7:freezer:/i/c\n1:name=systemd:/i/c\n0::/x\n"
V2 = "0::/i/c\n"


@pytest.mark.parametrize(
    ("groups", "file"),
    [(V1, "freezer/i/c/freezer.state"), (V2, "i/c/cgroup.freeze"), ("3:cpu:/i/c\n", None)],
)
def test_the_freezer_is_found_on_either_version(groups: str, file: str | None) -> None:
    root = Path("/root")
    assert freezer_file(groups, root) == (root / file if file is not None else None)
