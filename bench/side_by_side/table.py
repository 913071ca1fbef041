"""The table of a run, and the machine it was made on (Markdown)."""

import os
import platform
import re
import statistics
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

import psutil

from bench.side_by_side.comparison import DOCKER, HZEL, PARTS
from bench.side_by_side.rows import ROWS, Row

HEAD = "| | hzel | p95 | Docker | p95 | hzel / Docker | containerd + crun alone |"
RULE = "|---|---:|---:|---:|---:|---:|---:|"
BEGIN, END = "<!-- the last run -->", "<!-- end of the last run -->"
NONE = "-"


def table(samples: Mapping[str, Mapping[str, Sequence[float]]]) -> str:
    """Medians; the 95th percentile of what was measured often enough to have one."""
    return "\n".join((HEAD, RULE, *(_line(row, samples[row.name]) for row in ROWS if row.name in samples)))


def machine(docker_versions: Mapping[str, str], load_before: float) -> str:
    """One paragraph."""
    memory = round(psutil.virtual_memory().total / 1024**3)
    cgroups = "2" if Path("/sys/fs/cgroup/cgroup.controllers").exists() else "1"
    return (
        f"{os.cpu_count()} cores, {memory} GiB of memory, Linux {_short(platform.release())} "
        f"({platform.machine()}, control groups v{cgroups}), {platform.freedesktop_os_release()['PRETTY_NAME']}; "
        f"containerd {_version('containerd', '--version')}, crun {_version('crun', '--version')}; "
        f"Docker Engine {_short(docker_versions['Engine'])} with its own containerd "
        f"{_short(docker_versions['containerd'])} and runc {_short(docker_versions['runc'])}. "
        f"The load average before the run was {load_before:.1f}."
    )


def put_into(readme: Path, text: str) -> None:
    """Replaces what stands between the two marks."""
    before, _, rest = readme.read_text().partition(BEGIN)
    _, _, after = rest.partition(END)
    readme.write_text(f"{before}{BEGIN}\n{text}\n{END}{after}")


def _line(row: Row, samples: Mapping[str, Sequence[float]]) -> str:
    hzel, docker, parts = (samples.get(name, ()) for name in (HZEL, DOCKER, PARTS))
    ratio = f"{statistics.median(hzel) / statistics.median(docker):.2f}" if hzel and docker else NONE
    cells = (
        row.title,
        _median(row, hzel),
        _p95(row, hzel),
        _median(row, docker),
        _p95(row, docker),
        ratio,
        _median(row, parts),
    )
    return f"| {' | '.join(cells)} |"


def _median(row: Row, values: Sequence[float]) -> str:
    return f"{_number(statistics.median(values))} {row.unit}" if values else NONE


def _p95(row: Row, values: Sequence[float]) -> str:
    if not row.less_is_better or len(values) < 20:
        return NONE
    return _number(statistics.quantiles(values, n=20)[18])


def _number(value: float) -> str:
    return f"{value:.0f}" if value >= 100 else f"{value:.1f}" if value >= 10 else f"{value:.2f}"


def _version(*command: str) -> str:
    return _short(subprocess.run(command, capture_output=True, text=True, check=True).stdout)


def _short(text: str) -> str:
    """The version in a text, without what a distribution adds to it."""
    found = re.search(r"\d+(\.\d+)+", text)
    return found[0] if found else "of unknown version"
