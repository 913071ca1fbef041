"""The first start, and users added from the command line."""

import asyncio
import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest
from sqlalchemy import func, select

from services.common.database import Database
from services.gateway import users as command
from services.gateway.accounts import Role, User
from services.gateway.authentication import Authentication
from services.gateway.first_admin import ensure_first_admin
from services.gateway.tables import MIGRATIONS, users

ROOT = Path(__file__).parents[3]


@pytest.fixture
def token_file(tmp_path: Path) -> Path:
    return tmp_path / "state" / "admin-token"


async def test_the_first_start_leaves_an_admins_token_for_its_owner_alone(database: Database, token_file: Path) -> None:
    await ensure_first_admin(database, token_file)
    assert stat.S_IMODE(token_file.stat().st_mode) == 0o600
    assert [path.name for path in token_file.parent.iterdir()] == ["admin-token"]
    caller = await Authentication(database).caller(f"Bearer {token_file.read_text().strip()}")
    assert (caller.email, caller.role) == ("admin@localhost", Role.ADMIN)


async def test_later_starts_change_nothing(database: Database, token_file: Path) -> None:
    await ensure_first_admin(database, token_file)
    token = token_file.read_text()
    await ensure_first_admin(database, token_file)
    assert token_file.read_text() == token


async def test_there_is_no_first_admin_where_there_is_a_user(database: Database, user: User, token_file: Path) -> None:
    await ensure_first_admin(database, token_file)
    assert not token_file.exists()


async def test_a_start_that_died_before_its_commit_is_repaired_by_the_next(
    database: Database, token_file: Path
) -> None:
    token_file.parent.mkdir()
    token_file.write_text("hzel_of-a-user-that-was-never-committed\n")
    token_file.with_name(".admin-token.new").write_text("half")
    await ensure_first_admin(database, token_file)
    await Authentication(database).caller(f"Bearer {token_file.read_text().strip()}")


async def test_a_file_that_cannot_be_written_leaves_no_user(database: Database, token_file: Path) -> None:
    token_file.parent.write_text("in the way")
    with pytest.raises(OSError, match="exists"):
        await ensure_first_admin(database, token_file)
    async with database.transaction() as connection:
        assert (await connection.execute(select(func.count()).select_from(users))).scalar_one() == 0


async def test_two_gateways_starting_together_make_one_admin(
    database: Database, database_url: str, token_file: Path
) -> None:
    other = Database(database_url, "gateway")
    try:
        await other.open(MIGRATIONS)
        await asyncio.gather(*(ensure_first_admin(one, token_file) for one in (database, other) * 4))
    finally:
        await other.close()
    await Authentication(database).caller(f"Bearer {token_file.read_text().strip()}")
    async with database.transaction() as connection:
        assert (await connection.execute(select(func.count()).select_from(users))).scalar_one() == 1


async def test_the_command_line_adds_users(tmp_path: Path) -> None:
    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "services.gateway.users", *arguments],
            cwd=ROOT,
            env={"PATH": os.environ["PATH"], "PYTHONPATH": f"{ROOT}:{ROOT / 'gen'}", "HZEL_STATE_DIR": str(tmp_path)},
            capture_output=True,
            text=True,
        )

    added = run("add", "Grace@Example.org", "--role", "admin")
    assert (added.returncode, added.stderr) == (0, "")
    database = Database(f"sqlite:///{tmp_path / 'gateway' / 'gateway.db'}", "gateway")
    try:
        caller = await Authentication(database).caller(f"Bearer {added.stdout.strip()}")
    finally:
        await database.close()
    assert (caller.email, caller.role) == ("grace@example.org", Role.ADMIN)
    again = run("add", "grace@example.org")
    assert (again.returncode, again.stdout) == (1, "")
    assert again.stderr == "there is a user grace@example.org already\n"


@pytest.mark.parametrize(
    "arguments", [[], ["add"], ["add", "nobody"], ["add", "a@b", "--role", "king"], ["del", "a@b"]]
)
def test_the_command_line_refuses_what_makes_no_sense(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as refusal:
        command.main(arguments)
    assert refusal.value.code == 2
    assert "usage" in capsys.readouterr().err
