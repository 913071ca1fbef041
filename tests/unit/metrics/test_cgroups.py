"""Control groups' files as kernels have written them: recorded/v1 by 6.18, recorded/v2 by Debian's 6.1."""

from pathlib import Path

import pytest

from services.common.counters import Counters
from services.metrics.cgroups import V1, V2, Version

RECORDED = Path(__file__).parent / "recorded"


def recorded(version: Version, folder: str, **changed: bytes) -> Counters:
    """What the recorded files say; `changed` replaces contents, by the file's name with _ for a dot."""
    texts = {name: (RECORDED / folder / name).read_bytes() for _, name in version.files}
    assert set(changed) <= {name.replace(".", "_") for name in texts}
    return version.parse([changed.get(name.replace(".", "_"), text) for name, text in texts.items()])


def test_version_1() -> None:
    assert recorded(V1, "v1") == Counters(
        cpu_usage_ns=3_735_739_093,
        cpu_throttled_ns=13_817_729,
        cpu_limit_cores=1.0,
        memory_used_bytes=86_667_264,
        memory_limit_bytes=256 * 1024**2,
        pids=3,
        pids_limit=4096,
        oom_kills=0,
    )


def test_version_2() -> None:
    assert recorded(V2, "v2") == Counters(
        cpu_usage_ns=10_045_164_000,
        cpu_throttled_ns=9_700_383_000,
        cpu_limit_cores=0.5,
        memory_used_bytes=51_621_888 - 27_484_160,
        memory_limit_bytes=256 * 1024**2,
        pids=1,
        pids_limit=4096,
        oom_kills=0,
    )


def test_page_cache_that_can_be_dropped_is_not_used_memory() -> None:
    stat = (RECORDED / "v1/memory.stat").read_bytes()
    dropped = stat.replace(b"total_inactive_file 0", b"total_inactive_file 50000000")
    assert recorded(V1, "v1", memory_stat=dropped).memory_used_bytes == 86_667_264 - 50_000_000
    most = stat.replace(b"total_inactive_file 0", b"total_inactive_file 99999999999")
    assert recorded(V1, "v1", memory_stat=most).memory_used_bytes == 0, "the two are not read at the same moment"


def test_kills() -> None:
    one = recorded(V1, "v1", memory_oom_control=b"oom_kill_disable 0\nunder_oom 0\noom_kill 7\n")
    two = recorded(V2, "v2", memory_events=b"low 0\nhigh 0\nmax 21\noom 3\noom_kill 7\noom_group_kill 1\n")
    assert (one.oom_kills, two.oom_kills) == (7, 7)


def test_without_limits() -> None:
    one = recorded(
        V1, "v1", cpu_cfs_quota_us=b"-1\n", memory_limit_in_bytes=b"9223372036854771712\n", pids_max=b"max\n"
    )
    two = recorded(V2, "v2", cpu_max=b"max 100000\n", memory_max=b"max\n", pids_max=b"max\n")
    for counters in (one, two):
        assert counters.cpu_limit_cores is None
        assert counters.memory_limit_bytes is None
        assert counters.pids_limit is None


@pytest.mark.parametrize(("version", "folder"), [(V1, "v1"), (V2, "v2")], ids=["v1", "v2"])
def test_a_kernel_may_lack_any_file(version: Version, folder: str) -> None:
    nothing = version.parse([b""] * len(version.files))
    assert nothing == Counters(0, 0, None, 0, None, 0, None, 0)
    for _, name in version.files:
        if name not in ("cpu.cfs_period_us",):
            recorded(version, folder, **{name.replace(".", "_"): b""})


@pytest.mark.parametrize(("version", "index"), [(V1, V1.pids), (V2, V2.pids)], ids=["v1", "v2"])
def test_the_file_that_tells_whether_it_runs(version: Version, index: int) -> None:
    assert version.files[index][1] == "pids.current"
