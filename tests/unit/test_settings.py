"""Settings from the environment, and the README's table of them."""

import os
import re
from pathlib import Path

import pytest
from pydantic import ValidationError

from services.common.settings import Settings

ROOT = Path(__file__).parents[2]
ROW = re.compile(r"\| `(HZEL_[A-Z0-9_]+)` \| (.+?) \| (.+?) \|")
# Known to deploy/ and bench/ alone.
ONLY_DEPLOY = {"HZEL_NATS_PORT"}
# Not settings: what deploy/, tests/ and bench/ tell one another.
INTERNAL = {
    "HZEL_CHECKOUT",
    "HZEL_PYTHON",
    "HZEL_STACK",
    "HZEL_TEST_STACK",
    "HZEL_TEST_LOGS",
    "HZEL_EVENTS",
    "HZEL_BENCH_STACK",
}


@pytest.fixture(autouse=True)
def _no_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(os.environ):
        if name.startswith("HZEL_"):
            monkeypatch.delenv(name)


def table() -> dict[str, tuple[str, str]]:
    """The README's rows: default and meaning by name."""
    text = (ROOT / "README.md").read_text()
    rows = ROW.findall(text)
    assert len(rows) == len({name for name, _, _ in rows}), "a setting stands there twice"
    return {name: (default.strip(), meaning.strip()) for name, default, meaning in rows}


def fields() -> dict[str, tuple[str, str]]:
    """The same from the class."""
    return {
        f"HZEL_{name.upper()}": (default_text(name), field.description or "")
        for name, field in Settings.model_fields.items()
    }


def default_text(name: str) -> str:
    field = Settings.model_fields[name]
    if field.default_factory is not None:
        return {"node_name": "the host name", "max_cpu_cores": "the machine's", "max_memory_mb": "the machine's"}[name]
    if field.default in ("", ()):
        return "empty"
    value = field.default
    return f"`{value:g}`" if isinstance(value, float) else f"`{value}`"


def test_the_readme_lists_every_setting_as_it_is_and_no_other() -> None:
    assert {name: row for name, row in table().items() if name not in ONLY_DEPLOY} == fields()
    assert set(table()) >= ONLY_DEPLOY


def test_every_setting_has_a_meaning() -> None:
    assert [name for name, (_, meaning) in fields().items() if not meaning] == []


def test_every_variable_that_is_used_anywhere_is_a_setting() -> None:
    used = set()
    for folder in ("deploy", "tests", "scripts", "bench", "services", "docs"):
        for path in (ROOT / folder).rglob("*"):
            if path.is_file() and "__pycache__" not in path.parts and path != Path(__file__):
                used |= set(re.findall(r"\bHZEL_[A-Z0-9_]*[A-Z0-9]\b", path.read_text(errors="ignore")))
    for path in (ROOT / "README.md", ROOT / "CONTRIBUTING.md"):
        used |= set(re.findall(r"\bHZEL_[A-Z0-9_]*[A-Z0-9]\b", path.read_text()))
    assert used - set(fields()) - ONLY_DEPLOY - INTERNAL == set()


def test_the_environment_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HZEL_STATE_DIR", "/srv/hzel")
    monkeypatch.setenv("HZEL_DNS", "192.0.2.1, 192.0.2.2,")
    monkeypatch.setenv("HZEL_MAX_DISK_GB", "7")
    settings = Settings()
    assert (settings.state_dir, settings.dns, settings.max_disk_gb) == (
        Path("/srv/hzel"),
        ("192.0.2.1", "192.0.2.2"),
        7,
    )
    assert settings.admin_token_file == Path("/srv/hzel/admin-token")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("HZEL_INSTANCE", "a"),
        ("HZEL_INSTANCE", "waytoolong"),
        ("HZEL_INSTANCE", "UPPER"),
        ("HZEL_INSTANCE", "1st"),
        ("HZEL_INSTANCE", "a;b"),
        ("HZEL_MAX_CPU_CORES", "0"),
        ("HZEL_MAX_MEMORY_MB", "16"),
        ("HZEL_START_TIMEOUT_S", "0"),
        ("HZEL_RUNTIME", "runsc"),
        ("HZEL_LOG_FORMAT", "xml"),
        ("HZEL_COMMANDS_PER_NODE", "many"),
    ],
)
def test_a_value_that_makes_no_sense_is_refused_at_the_start(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str
) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(ValidationError):
        Settings()


def test_settings_do_not_change() -> None:
    with pytest.raises(ValidationError):
        Settings().instance = "other"  # type: ignore[misc]


@pytest.mark.parametrize("scheme", ["postgres", "postgresql", "postgresql+psycopg"])
def test_a_postgresql_url_of_any_form_is_taken(scheme: str) -> None:
    settings = Settings(database_url=f"{scheme}://u:p@db/hzel")
    assert settings.database("exec") == "postgresql+asyncpg://u:p@db/hzel"


def test_without_a_url_each_service_has_a_file() -> None:
    settings = Settings(state_dir=Path("/s"))
    assert settings.database("exec") == "sqlite:////s/exec/exec.db"


def test_the_sockets_are_below_the_run_folder_unless_containerd_is_given() -> None:
    settings = Settings(run_dir=Path("/r"))
    sockets = [value for name in dir(Settings) if name.endswith("_socket") for value in [getattr(settings, name)]]
    assert len(sockets) == len(set(sockets))
    assert all(socket.is_relative_to("/r") for socket in sockets)
    assert Settings(containerd="/run/containerd/containerd.sock").containerd_socket == Path(
        "/run/containerd/containerd.sock"
    )
