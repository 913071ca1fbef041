"""What the environment decides, read once in a service's `__main__` and passed down."""

import re
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, field_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from services.common.hardware import cpu_count, memory_mb, node_name


class Settings(BaseSettings):
    """One field per `HZEL_…` variable; the README's table lists them all (a test compares the two)."""

    model_config = SettingsConfigDict(env_prefix="HZEL_", frozen=True, extra="ignore")

    instance: str = Field("hzel", description="names of links, cgroups, nft tables and the containerd namespace")
    state_dir: Path = Field(Path("/var/lib/hzel"), description="everything that must survive a reboot")
    run_dir: Path = Field(Path("/run/hzel"), description="sockets, FIFOs and mounts")
    listen: str = Field("127.0.0.1:8080", description="address and port of the REST gateway")
    database_url: str = Field("", description="PostgreSQL URL; empty: one SQLite file per service")
    nats_url: str = Field("nats://127.0.0.1:4222", description="NATS server with JetStream")
    containerd: str = Field("", description="socket of a containerd to use; empty: a private one")
    node_name: str = Field(default_factory=node_name, description="this machine's name among the nodes")
    runtime: Literal["crun", "runc"] = Field("crun", description="OCI runtime of containers that name none")
    default_image: str = Field("hzel/debian:12", description="image of containers that name none")
    subnet: str = Field("", description="IPv4 network of the containers; empty: a free one is chosen and kept")
    dns: Annotated[tuple[str, ...], NoDecode] = Field(
        (), description="resolvers of the containers, comma-separated; empty: the host's"
    )
    max_cpu_cores: int = Field(default_factory=cpu_count, ge=1, description="most cores a container may ask for")
    max_memory_mb: int = Field(default_factory=memory_mb, ge=32, description="most memory a container may ask for")
    max_disk_gb: int = Field(256, ge=1, description="largest disk a container may ask for")
    pids_limit: int = Field(4096, ge=16, description="processes and threads per container")
    start_timeout_s: float = Field(30.0, gt=0, description="after that long an unconfirmed start is a failure")
    create_concurrency: int = Field(4, ge=1, description="containers brought up at the same time")
    commands_per_container: int = Field(32, ge=1, description="commands that run at the same time in a container")
    commands_per_node: int = Field(256, ge=1, description="commands that run at the same time on the node")
    commands_waiting_per_container: int = Field(1000, ge=0, description="commands that may wait for a container")
    command_retention_s: int = Field(7 * 86400, ge=60, description="how long an ended command is remembered")
    command_output_mb: int = Field(10240, ge=16, description="output of all ended commands that is kept at most")
    terminals_per_container: int = Field(
        256, ge=1, description="terminals that are open at the same time in a container"
    )
    terminals_per_node: int = Field(1024, ge=1, description="terminals that are open at the same time on the node")
    terminal_idle_s: float = Field(4 * 3600, gt=0, description="a terminal ends when nothing happens in it for so long")
    terminal_scrollback_kb: int = Field(256, ge=0, description="output that a terminal shows again, KiB")
    terminal_recording_mb: int = Field(64, ge=1, description="size at which the recording of a terminal ends, MiB")
    terminal_recording_retention_s: int = Field(
        30 * 86400, ge=60, description="how long the recording of a terminal is kept after its end"
    )
    terminal_recordings_mb: int = Field(
        10240, ge=16, description="ended recordings of terminals that are kept at most, MiB"
    )
    container_log_file_mb: int = Field(
        10, ge=1, le=1024, description="size at which a container's log goes on in the next file, MiB"
    )
    container_log_files: int = Field(3, ge=2, le=100, description="files of a container's log that are kept")
    log_readers: int = Field(1024, ge=1, description="logs that are read at the same time through a gateway")
    log_readers_per_user: int = Field(64, ge=1, description="those of one user among them")
    event_streams: int = Field(4096, ge=1, description="streams of events that are open at the same time in a gateway")
    event_streams_per_user: int = Field(1024, ge=1, description="those of one user among them")
    upload_max_mb: int = Field(32, ge=1, description="largest file that can be put into a container, MiB")
    seccomp_profile: Path = Field(
        Path("/usr/share/containers/seccomp.json"), description="seccomp profile in Docker's format"
    )
    init_path: Path = Field(Path("/usr/bin/tini-static"), description="static init that becomes PID 1")
    scrape_token: str = Field("", description="bearer token that may read /metrics; empty: only an admin's")
    log_format: Literal["json", "console"] = Field("json", description="form of the log lines")
    log_level: Literal["debug", "info", "warning", "error"] = Field("info", description="least severe level logged")

    @field_validator("instance")
    @classmethod
    def _instance_is_short(cls, value: str) -> str:
        if not re.fullmatch(r"[a-z][a-z0-9]{1,7}", value):
            raise ValueError("two to eight lower-case letters and digits, a letter first")
        return value

    @field_validator("dns", mode="before")
    @classmethod
    def _split_commas(cls, value: object) -> object:
        if isinstance(value, str):
            return tuple(part.strip() for part in value.split(",") if part.strip())
        return value

    @property
    def containerd_socket(self) -> Path:
        return Path(self.containerd) if self.containerd else self.run_dir / "containerd" / "containerd.sock"

    @property
    def lifecycle_socket(self) -> Path:
        return self.run_dir / "lifecycle.sock"

    @property
    def exec_socket(self) -> Path:
        return self.run_dir / "exec.sock"

    @property
    def keeper_socket(self) -> Path:
        return self.run_dir / "exec-keeper.sock"

    @property
    def terminal_socket(self) -> Path:
        return self.run_dir / "terminal.sock"

    @property
    def metrics_socket(self) -> Path:
        return self.run_dir / "metrics.sock"

    @property
    def admin_token_file(self) -> Path:
        return self.state_dir / "admin-token"

    def database(self, service: str) -> str:
        """The SQLAlchemy URL of one service's own database (SQLite) or of the shared one (PostgreSQL)."""
        if not self.database_url:
            return f"sqlite:///{self.state_dir / service / (service + '.db')}"
        return re.sub(r"^postgres(ql)?(\+\w+)?://", "postgresql+asyncpg://", self.database_url)
