"""What may stand in the files of this repository."""

import re
import subprocess
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
ADDRESS = re.compile(r"https?://([A-Za-z0-9.-]+)")
# Documentation that is referred to, and names that are addresses of nobody.
KNOWN_HOSTS = {"localhost", "127.0.0.1", "docs.asciinema.org", "docker", "gateway", "keepachangelog.com", "semver.org"}
# Where software is kept: whoever builds this has their own.
REGISTRIES = re.compile(
    r"\b(pypi\.org|pythonhosted\.org|registry\.npmjs\.org|docker\.io/|ghcr\.io|quay\.io|gcr\.io|deb\.debian\.org"
    r"|archive\.ubuntu\.com|index-url|extra-index|registry=)"
)
# Paths of one machine: everything else is below a folder that a setting names, or a place that every system has.
MACHINE_PATHS = re.compile(r"(?<![\w.~/-])/(work|home/(?!ada\b|bea\b|app\b|user\b)\w+|Users|mnt/\w+)(/|\b)")


def tracked() -> list[Path]:
    """Files that git knows or would add."""
    listing = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        check=False,
    )
    if listing.returncode != 0:
        pytest.skip("this is no git checkout")
    names = [name.decode() for name in listing.stdout.split(b"\0") if name]
    return [ROOT / name for name in names if (ROOT / name).is_file()]


def lines() -> list[tuple[str, str]]:
    """`file:line` and its text, of every text file but this one."""
    found = []
    for path in tracked():
        if path == Path(__file__):
            continue
        try:
            text = path.read_text(encoding="utf-8")
        except UnicodeDecodeError:
            continue
        name = path.relative_to(ROOT)
        found += [(f"{name}:{number}", line) for number, line in enumerate(text.splitlines(), 1)]
    return found


def where(pattern: re.Pattern[str], skipped: tuple[str, ...] = ()) -> list[str]:
    return [
        f"{place}: {line.strip()}" for place, line in lines() if pattern.search(line) and not place.startswith(skipped)
    ]


def test_nothing_is_left_to_do() -> None:
    assert where(re.compile(r"\b(TODO|FIXME|XXX|HACK)\b")) == []


def test_no_registry_is_named() -> None:
    assert where(REGISTRIES) == []


def test_no_foreign_address_is_named() -> None:
    unknown = [
        f"{place}: {host}"
        for place, line in lines()
        for host in ADDRESS.findall(line)
        if host not in KNOWN_HOSTS and not host.endswith((".example", ".test", "example.org", "example.com"))
    ]
    assert unknown == []


def test_no_path_of_one_machine_is_named() -> None:
    assert where(MACHINE_PATHS) == []


def test_text_files_are_clean() -> None:
    assert where(re.compile(r"[ \t]+$"), skipped=("tests/unit/metrics/recorded/",)) == []
    assert where(re.compile("\t"), skipped=("protos/", "deploy/", "tests/unit/metrics/recorded/")) == []
    for path in tracked():
        data = path.read_bytes()
        assert b"\r" not in data, path
        assert not data or data.endswith(b"\n"), path


def test_scripts_are_executable_and_say_what_runs_them() -> None:
    for path in tracked():
        starts_with_interpreter = path.read_bytes().startswith(b"#!")
        assert bool(path.stat().st_mode & 0o111) == starts_with_interpreter, path


def test_the_lock_file_has_pins_and_hashes_and_nothing_else() -> None:
    pin = re.compile(r"[a-z0-9._-]+(\[[a-z0-9,-]+\])?==[A-Za-z0-9.+!-]+( ; [^\\]+)? \\")
    digest = re.compile(r"    --hash=sha256:[0-9a-f]{64}( \\)?")
    comment = re.compile(r" *#.*")
    text = (ROOT / "requirements.lock").read_text()
    for line in text.splitlines():
        assert pin.fullmatch(line) or digest.fullmatch(line) or comment.fullmatch(line), line
    assert "://" not in text
    for block in re.split(r"\n(?=[a-z])", text)[1:]:
        assert "--hash=sha256:" in block, block


def test_every_dependency_is_in_the_lock_file() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    wanted = project["dependencies"] + project["optional-dependencies"]["dev"]
    pins = [line for line in (ROOT / "requirements.lock").read_text().splitlines() if "==" in line]
    locked = {re.split(r"[\[=]", pin)[0] for pin in pins}
    names = {re.split(r"[\[<>=!~ ;]", requirement)[0].lower().replace("_", "-") for requirement in wanted}
    assert names - locked == set()
