"""A running hzel for tests: started by `deploy/local/up` like anybody's, spoken to over REST and NATS."""

import contextlib
import os
import random
import shutil
import socket
import subprocess
import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import httpx

from services.gateway.health import KEPT_S

ROOT = Path(__file__).parent.parent
BUSYBOX = "hzel/busybox"
UP_TIMEOUT_S = 600
T = TypeVar("T")


@dataclass
class Stack:
    """Where one stack is and how to reach it; `environment` are its HZEL_ settings."""

    environment: dict[str, str]
    _clients: list[httpx.Client] = field(default_factory=list)

    @classmethod
    def settings(cls, folder: Path, instance: str, **more: str) -> "Stack":
        return cls(
            {
                "HZEL_STATE_DIR": str(folder / "state"),
                "HZEL_RUN_DIR": str(folder / "run"),
                "HZEL_LISTEN": f"127.0.0.1:{free_port()}",
                "HZEL_INSTANCE": instance,
                "HZEL_NODE_NAME": "test-node",
                "HZEL_DEFAULT_IMAGE": "hzel/busybox:latest",
                **more,
            }
        )

    @property
    def url(self) -> str:
        return f"http://{self.environment['HZEL_LISTEN']}"

    @property
    def instance(self) -> str:
        return self.environment["HZEL_INSTANCE"]

    @property
    def state_dir(self) -> Path:
        return Path(self.environment["HZEL_STATE_DIR"])

    @property
    def run_dir(self) -> Path:
        return Path(self.environment["HZEL_RUN_DIR"])

    @property
    def nats_url(self) -> str:
        folder = self.state_dir / "nats"
        return f"nats://hzel:{(folder / 'password').read_text()}@127.0.0.1:{(folder / 'port').read_text().strip()}"

    def up(self) -> None:
        self._deploy("up", "--detach")

    def close(self) -> None:
        """Closes the connections of every client."""
        for client in self._clients:
            client.close()

    def down(self, *options: str) -> None:
        self.close()
        self._deploy("down", *options)

    def _deploy(self, command: str, *options: str) -> None:
        result = subprocess.run(
            [str(ROOT / "deploy/local" / command), *options],
            env=os.environ | self.environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=UP_TIMEOUT_S,
            check=False,
        )
        if result.returncode != 0:
            raise RuntimeError(f"{command} failed:\n{result.stdout}{result.stderr}")

    def client(self, token: str | None = None) -> "Client":
        """The REST API as the first admin, or as whoever the token belongs to."""
        token = token if token is not None else (self.state_dir / "admin-token").read_text().strip()
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        client = Client(httpx.Client(base_url=self.url, headers=headers, timeout=120))
        self._clients.append(client.http)
        return client

    def new_user(self) -> "Client":
        """The API as a new user of the role `user`."""
        result = self.python("services.gateway.users", "add", f"{uuid.uuid4().hex[:12]}@example.com")
        return self.client(result.split()[-1])

    def python(self, module: str, *arguments: str) -> str:
        """Runs one of the project's modules with the stack's settings; returns its output."""
        return subprocess.run(
            [str(ROOT / ".venv/bin/python"), "-m", module, *arguments],
            env=os.environ
            | self.environment
            | {"PYTHONPATH": f"{ROOT}:{ROOT / 'gen'}", "HZEL_NATS_URL": self.nats_url},
            cwd=ROOT,
            capture_output=True,
            text=True,
            timeout=60,
            check=True,
        ).stdout.strip()

    def on_node(self, *command: str) -> str:
        """Runs a command in the mount namespace of the node's services; returns its output."""
        enter = ["nsenter", f"--mount={self.run_dir / 'ns/mnt'}", "--", *command]
        return subprocess.run(enter, capture_output=True, text=True, timeout=60, check=True).stdout

    def pid_of(self, program: str) -> int:
        """Of a program of the supervisor: containerd, nats, lifecycle, gateway."""
        return int(self._supervisorctl("pid", program))

    @contextlib.contextmanager
    def using_at_most(self, program: str, memory_bytes: int) -> Iterator[None]:
        """Fails where the program's resident memory was ever more, see clear_refs in proc(5)."""
        process = Path(f"/proc/{self.pid_of(program)}")
        (process / "clear_refs").write_text("5")
        yield
        (peak,) = (line for line in (process / "status").read_text().splitlines() if line.startswith("VmHWM:"))
        assert int(peak.split()[1]) * 1024 <= memory_bytes, peak

    def supervise(self, action: str, program: str) -> None:
        """`start` or `stop`s a program."""
        self._supervisorctl(action, program)

    def _supervisorctl(self, *arguments: str) -> str:
        configuration = str(self.run_dir / "config/supervisord.conf")
        command = [str(ROOT / ".venv/bin/python"), "-m", "supervisor.supervisorctl", "-c", configuration, *arguments]
        return subprocess.run(command, capture_output=True, text=True, timeout=60, check=True).stdout.strip()

    def is_ready(self) -> bool:
        try:
            return httpx.get(f"{self.url}/readyz", timeout=5).status_code == 200
        except httpx.HTTPError:
            return False

    def comes_back(self, within_s: float = 30) -> None:
        """Waits until it is ready; not as it was before now, which it remembers for a moment."""
        now = time.monotonic()
        eventually(lambda: time.monotonic() - now > KEPT_S and self.is_ready(), within_s)


@dataclass
class Client:
    """The container routes; `http` for everything else."""

    http: httpx.Client

    def create(self, name: str | None = None, wait: bool = True, **body: Any) -> dict[str, Any]:
        """Creates a small busybox container unless the body says otherwise."""
        small = {"hostname": name or new_name(), "memory_mb": 64, "disk_gb": 1, "image": BUSYBOX}
        answer = self.http.post(f"/api/v1/containers{'' if wait else '?wait=0'}", json=small | body)
        assert answer.status_code == 201, answer.text
        return answer.json()["data"]

    def get(self, container_id: str) -> dict[str, Any]:
        answer = self.http.get(f"/api/v1/containers/{container_id}")
        assert answer.status_code == 200, answer.text
        return answer.json()["data"]

    def act(self, container_id: str, action: str, **body: Any) -> dict[str, Any]:
        answer = self.http.post(f"/api/v1/containers/{container_id}/{action}", json=body or None)
        assert answer.status_code == 200, answer.text
        return answer.json()["data"]

    def delete(self, container_id: str) -> None:
        answer = self.http.delete(f"/api/v1/containers/{container_id}")
        assert answer.status_code == 204, answer.text

    def wait_for(self, container_id: str, *states: str, within_s: float = 30) -> dict[str, Any]:
        return eventually(
            lambda: record if (record := self.get(container_id))["state"] in states else None, within_s=within_s
        )

    def submit(self, container_id: str, wait: int = 0, **body: Any) -> dict[str, Any]:
        """Submits a command; the body is the API's."""
        answer = self.http.post(f"/api/v1/containers/{container_id}/commands?wait={wait}", json=body)
        assert answer.status_code == 201, answer.text
        return answer.json()["data"]

    def run(self, container_id: str, shell: str, **body: Any) -> dict[str, Any]:
        """Runs shell text to its end."""
        return self.ended(self.submit(container_id, wait=30, command=shell, **body)["id"])

    def command(self, command_id: str, wait: int = 0) -> dict[str, Any]:
        answer = self.http.get(f"/api/v1/commands/{command_id}?wait={wait}")
        assert answer.status_code == 200, answer.text
        return answer.json()["data"]

    def ended(self, command_id: str, within_s: float = 60) -> dict[str, Any]:
        def look() -> dict[str, Any] | None:
            record = self.command(command_id, wait=10)
            return record if record["status"] not in ("queued", "running") else None

        return eventually(look, within_s)

    @contextlib.contextmanager
    def container(self, **body: Any) -> Iterator[dict[str, Any]]:
        """A container that is deleted when the block ends, unless it is gone already."""
        record = self.create(**body)
        try:
            yield record
        finally:
            answer = self.http.delete(f"/api/v1/containers/{record['id']}")
            assert answer.status_code in (204, 404), answer.text


def new_name() -> str:
    return f"t-{uuid.uuid4().hex[:12]}"


def eventually(look: Callable[[], T | None], within_s: float = 30) -> T:
    """What `look` returns once it is neither None nor False."""
    deadline = time.monotonic() + within_s
    while True:
        found = look()
        if found is not None and found is not False:
            return found
        if time.monotonic() > deadline:
            raise AssertionError(f"nothing after {within_s} s")
        time.sleep(0.02)


def free_port() -> int:
    """One that nothing listens on, below those that the kernel gives to outgoing connections."""
    while True:
        port = random.randrange(10_000, 20_000)
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port


def remove_folder(folder: Path) -> None:
    shutil.rmtree(folder, ignore_errors=True)
