"""The gateway's parts on real databases; lifecycle and NATS are, truly, not there."""

from collections.abc import AsyncIterator, Callable
from pathlib import Path

import httpx
import pytest

from services.common.database import Database
from services.common.rpc.channel import open_channel
from services.common.rpc.figures import FiguresClient
from services.common.rpc.probe import Probe
from services.gateway.accounts import Accounts, Role, User, add_token, add_user
from services.gateway.app import create_app
from services.gateway.audit import Audit
from services.gateway.authentication import Authentication
from services.gateway.clients import LifecycleClient
from services.gateway.commands import Commands
from services.gateway.containers import Containers
from services.gateway.events import Events
from services.gateway.exec_client import ExecClient
from services.gateway.health import Readiness
from services.gateway.idempotency import Idempotency
from services.gateway.log_client import LogClient
from services.gateway.logs import Logs
from services.gateway.metrics import Metrics
from services.gateway.metrics_client import MetricsClient
from services.gateway.parts import Parts
from services.gateway.scrape import Scrape
from services.gateway.tables import MIGRATIONS
from services.gateway.terminal_client import TerminalClient
from services.gateway.terminals import Terminals
from services.gateway.traffic import Traffic

NO_NATS = "nats://127.0.0.1:1"
SCRAPE_TOKEN = "for the scraper"


@pytest.fixture
async def database(database_url: str) -> AsyncIterator[Database]:
    """The gateway's database, its schema in place and empty."""
    opened = Database(database_url, "gateway")
    await opened.open(MIGRATIONS)
    try:
        yield opened
    finally:
        await opened.close()


@pytest.fixture
async def user(database: Database) -> User:
    async with database.transaction() as connection:
        return await add_user(connection, "ada@example.org", Role.USER)


@pytest.fixture
async def admin(database: Database) -> User:
    async with database.transaction() as connection:
        return await add_user(connection, "root@example.org", Role.ADMIN)


@pytest.fixture
async def token(database: Database, user: User) -> str:
    async with database.transaction() as connection:
        return (await add_token(connection, user.id, "laptop", None))[0]


@pytest.fixture
async def parts(database: Database, tmp_path: Path) -> AsyncIterator[Parts]:
    audit = Audit(database)
    async with open_channel(tmp_path / "nobody.sock") as channel, audit.running():
        lifecycle, metrics, traffic = LifecycleClient(channel), MetricsClient(channel), Traffic()
        authentication, idempotency = Authentication(database), Idempotency(database)
        containers = Containers(lifecycle, idempotency)
        figures = {"lifecycle": FiguresClient(channel)}
        yield Parts(
            accounts=Accounts(database),
            audit=audit,
            authentication=authentication,
            containers=containers,
            commands=Commands(ExecClient(channel), containers, idempotency),
            terminals=Terminals(TerminalClient(channel), containers, 1024**2),
            logs=Logs(LogClient(channel), containers, authentication, 10, 10),
            metrics=Metrics(metrics, containers),
            events=Events(NO_NATS, lifecycle, authentication, 10, 10),
            scrape=Scrape(authentication, SCRAPE_TOKEN, lifecycle, metrics, figures, traffic),
            readiness=Readiness(database, lifecycle, NO_NATS, {"metrics": Probe(channel).check}),
            traffic=traffic,
        )


@pytest.fixture
async def anonymous(parts: Parts) -> AsyncIterator[httpx.AsyncClient]:
    transport = httpx.ASGITransport(create_app(parts))
    async with httpx.AsyncClient(transport=transport, base_url="http://gateway") as client:
        yield client


@pytest.fixture
def client(anonymous: httpx.AsyncClient, token: str) -> httpx.AsyncClient:
    """As the user of the fixture `user`."""
    anonymous.headers["Authorization"] = f"Bearer {token}"
    return anonymous


@pytest.fixture
def refused() -> Callable[[httpx.Response, int, str], dict[str, object]]:
    """Checks the envelope of a failure and returns what is in it."""

    def check(response: httpx.Response, status: int, code: str) -> dict[str, object]:
        assert response.status_code == status, response.text
        assert response.headers["content-type"] == "application/json"
        assert list(response.json()) == ["error"]
        error: dict[str, object] = response.json()["error"]
        assert error["code"] == code
        assert error["request_id"] == response.headers["x-request-id"]
        return error

    return check
