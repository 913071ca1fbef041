"""The README's walk through, to the letter."""

import re
import shutil
import subprocess

import pytest

from tests.stack import ROOT, Client, Stack

BLOCK = re.compile(r"^```sh\n(.*?)^```$", re.DOTALL | re.MULTILINE)
WITHIN_S = 120


def blocks(heading: str) -> list[str]:
    """The commands of a section."""
    text = (ROOT / "README.md").read_text()
    section = text.partition(f"\n## {heading}\n")[2].partition("\n## ")[0]
    found = BLOCK.findall(section)
    assert found, heading
    return found


@pytest.fixture(scope="module")
def owner(stack: Stack) -> Client:
    return stack.new_user()


@pytest.mark.skipif(shutil.which("curl") is None, reason="there is no curl")
def test_a_stranger_can_follow_it(stack: Stack, owner: Client) -> None:
    token = owner.http.headers["Authorization"].removeprefix("Bearer ")
    script = "\n".join(block for block in blocks("A walk through, with curl") if "/ws/terminal/" not in block)
    script = re.sub(r"^TOKEN=.*$", f"TOKEN={token}", script, flags=re.MULTILINE)
    for scheme in ("http", "ws"):
        address = f"{scheme}://{stack.environment['HZEL_LISTEN']}"
        script = script.replace(f"{scheme}://127.0.0.1:8080", address)
    process = subprocess.Popen(
        ["bash", "-euo", "pipefail", "-c", script],
        cwd=ROOT,
        # Open and silent, as of one who only watches.
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    try:
        assert process.stdout is not None
        printed = process.stdout.read()
        assert process.wait(WITHIN_S) == 0, printed
    finally:
        process.kill()
        process.communicate()
    assert '"error":{' not in printed, printed
    for expected in (
        '"role":"user"',
        '"state":"running"',
        '"state":"stopped"',
        "PRETTY_NAME=" if "debian" in stack.environment["HZEL_DEFAULT_IMAGE"] else '"status":"',
        "65536",
        '"type":"exit"',
        "line 5\n",
        "HTTP/1.1 200 OK",
        '"memory_used_mb":',
    ):
        assert expected in printed, f"{expected}\n{printed}"
    (left,) = owner.http.get("/api/v1/containers").json()["data"]
    assert left["name"] == "two"
    owner.delete(left["id"])


def test_its_subscription_shows_the_events(stack: Stack, owner: Client) -> None:
    with owner.container() as record:
        (block,) = blocks("Events")
        result = subprocess.run(
            ["timeout", "5", "bash", "-c", block],
            cwd=ROOT,
            env={"HZEL_STATE_DIR": str(stack.state_dir), "PATH": "/usr/bin:/bin"},
            capture_output=True,
            text=True,
            check=False,
        )
    assert result.returncode == 124, result.stderr
    assert f"hzel.container.{record['id']}.running " in result.stdout
