"""What Prometheus is told, read with Prometheus' own parser."""

import json
import re
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from services.common.rpc.figures import Figure
from services.gateway.accounts import User, add_token
from services.gateway.clients import Container, ContainerState, Wanted
from services.gateway.metrics_client import NodeUsage, ServiceUsage, Snapshot
from services.gateway.parts import Parts
from services.gateway.prometheus import Family, Sample, histogram, text_of
from services.gateway.scrape_families import (
    container_families,
    inventory_families,
    node_families,
    service_families,
    traffic_families,
)
from services.gateway.traffic import Traffic
from tests.unit.gateway.conftest import SCRAPE_TOKEN

Refused = Callable[[httpx.Response, int, str], dict[str, object]]

NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
DASHBOARDS = Path(__file__).parents[3] / "deploy/grafana"


def snapshot(container_id: str, **changed: object) -> Snapshot:
    figures: dict[str, object] = {
        "container_id": container_id, "sampled_at": NOW, "started_at": NOW, "cpu_percent": 12.5, "cpu_cores": 2.0,
        "cpu_usage_ns": 1_500_000_000, "cpu_throttled_ns": 0, "memory_used_bytes": 2**30,
        "memory_limit_bytes": 2**31, "network_rx_bytes": 1, "network_tx_bytes": 2, "disk_used_bytes": 3,
        "disk_limit_bytes": 4, "io_read_bytes": 5, "io_write_bytes": 6, "pids": 7, "pids_limit": 8, "oom_kills": 9,
    }  # fmt: skip
    return Snapshot(**{**figures, **changed})  # type: ignore[arg-type]


def container(container_id: str, name: str, state: ContainerState) -> Container:
    wanted = Wanted(name, 1, 512, 18, "hzel/debian:12", (), {}, {}, "crun")
    return Container(container_id, "u1", 100, "node-1", wanted, state, None, None, None, NOW, NOW, None)


def node() -> NodeUsage:
    service = ServiceUsage("lifecycle", 1.25, 50_000_000, NOW)
    return NodeUsage("node-1", NOW, 4, 12.5, 99.5, (0.5, 0.25, 0.125), 8, 4, 200, 100, 10, 20, 2, (service,))


def traffic() -> Traffic:
    seen = Traffic()
    for seconds in (0.0005, 0.003, 0.003, 120.0):
        seen.add_request("GET", "/api/v1/containers/{container_id}", 200, seconds)
    seen.add_request("GET", None, 404, 0.001)
    seen.open_socket("/ws/metrics/{container_id}")
    seen.add_socket("/ws/metrics/{container_id}", 401, was_open=False)
    seen.add_call("/hzel.lifecycle.v1.LifecycleService/GetContainer", "OK", 0.002)
    return seen


def everything() -> list[Family]:
    figures = {"lifecycle": [Figure("events_unpublished", "Events that wait.", 3)], "exec": None}
    containers = [container("c1", "web", ContainerState.RUNNING), container("c2", "db", ContainerState.STOPPED)]
    return [
        *container_families([snapshot("c1"), snapshot("c3", memory_limit_bytes=None)], "node-1"),
        *inventory_families(containers),
        *node_families(node()),
        *service_families(figures),
        *traffic_families(traffic()),
    ]


def parsed(text: str) -> dict[tuple[str, frozenset[tuple[str, str]]], float]:
    """By name and labels."""
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def value(text: str, metric: str, /, **labels: str) -> float:
    return parsed(text)[metric, frozenset(labels.items())]


def test_everything_is_read_as_it_was_meant() -> None:
    text = text_of(everything())
    one = {"container_id": "c1", "node": "node-1"}
    assert value(text, "hzel_container_cpu_usage_seconds_total", **one) == 1.5
    assert value(text, "hzel_container_cpu_usage_ratio", **one) == 0.125
    assert value(text, "hzel_container_memory_used_bytes", **one) == 2**30
    assert value(text, "hzel_container_start_time_seconds", **one) == NOW.timestamp()
    assert value(text, "hzel_containers", node="node-1", state="stopped") == 1
    assert value(text, "hzel_node_load5", node="node-1") == 0.25
    assert value(text, "hzel_process_cpu_seconds_total", node="node-1", service="lifecycle") == 1.25
    assert value(text, "hzel_service_up", service="exec") == 0
    assert value(text, "hzel_events_unpublished", service="lifecycle") == 3
    assert value(text, "hzel_http_requests_total", method="GET", route="none", status="404") == 1
    assert value(text, "hzel_websockets_open", route="/ws/metrics/{container_id}") == 1
    call = {"service": "hzel.lifecycle.v1.LifecycleService", "method": "GetContainer"}
    assert value(text, "hzel_rpc_calls_total", code="OK", **call) == 1
    assert value(text, "hzel_rpc_call_duration_seconds_count", **call) == 1


def test_what_is_not_known_is_not_told() -> None:
    samples = parsed(text_of(everything()))
    limits = {dict(labels)["container_id"] for name, labels in samples if name == "hzel_container_memory_limit_bytes"}
    assert limits == {"c1"}


def test_a_histogram_cumulates() -> None:
    text = text_of(everything())
    labels = {"method": "GET", "route": "/api/v1/containers/{container_id}"}
    for bound, count in (("0.001", 1), ("0.0025", 1), ("0.005", 3), ("60", 3), ("+Inf", 4)):
        assert value(text, "hzel_http_request_duration_seconds_bucket", le=bound, **labels) == count
    assert value(text, "hzel_http_request_duration_seconds_count", **labels) == 4
    assert value(text, "hzel_http_request_duration_seconds_sum", **labels) == pytest.approx(120.0065)
    assert len(histogram((1.0, 2.0), (0, 0, 0), 0.0, {})) == 5


def test_names_and_units_are_as_prometheus_recommends() -> None:
    for family in everything():
        assert re.fullmatch(r"hzel_[a-z0-9_]+", family.name)
        assert family.help.endswith(".")
        assert (family.kind == "counter") == family.name.endswith("_total")
        assert not re.search(r"_(percent|ns|ms|mb|kb|us)(_|$)", family.name)
    assert len({family.name for family in everything()}) == len(everything())


@pytest.mark.parametrize("odd", ['a"b', "a\\b", "a\nb", "ü{}=,", ""])
def test_any_text_may_be_a_label(odd: str) -> None:
    text = text_of([Family("hzel_x", "gauge", 'odd "help"\\\n', [Sample(1.5, {"name": odd})])])
    assert value(text, "hzel_x", name=odd) == 1.5


def test_dashboards_ask_for_what_there_is() -> None:
    there = {name for name, _ in parsed(text_of(everything()))} | {
        f"hzel_{name}" for name in ("events_oldest_unpublished_age_seconds", "commands_queued", "commands_running")
    }
    asked = set()
    for file in DASHBOARDS.glob("*.json"):
        asked |= set(re.findall(r"hzel_[a-z0-9_]+", json.dumps(json.loads(file.read_text())["panels"])))
    assert asked
    assert asked <= there


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
async def test_admins_and_the_scraper_may_scrape_even_if_no_service_answers(
    anonymous: httpx.AsyncClient, parts: Parts, admin: User, token: str, refused: Refused
) -> None:
    refused(await anonymous.get("/metrics"), 401, "UNAUTHORIZED")
    for wrong in ("x", SCRAPE_TOKEN + "x", SCRAPE_TOKEN[:-1], ""):
        refused(await anonymous.get("/metrics", headers={"Authorization": f"Bearer {wrong}"}), 401, "UNAUTHORIZED")
    refused(await anonymous.get("/metrics", headers={"Authorization": f"Bearer {token}"}), 403, "FORBIDDEN")
    async with parts.accounts._database.transaction() as connection:
        of_admin, _ = await add_token(connection, admin.id, "laptop", None)
    for right in (SCRAPE_TOKEN, of_admin):
        answer = await anonymous.get("/metrics", headers={"Authorization": f"Bearer {right}"})
        assert answer.status_code == 200
        assert answer.headers["content-type"] == "text/plain; version=0.0.4; charset=utf-8"
        assert value(answer.text, "hzel_service_up", service="lifecycle") == 0
        assert value(answer.text, "hzel_http_requests_total", method="GET", route="/metrics", status="403") == 1
    refused(
        await anonymous.get("/api/v1/auth/me", headers={"Authorization": f"Bearer {SCRAPE_TOKEN}"}), 401, "UNAUTHORIZED"
    )


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
async def test_without_a_scrape_token_an_empty_one_opens_nothing(
    anonymous: httpx.AsyncClient, parts: Parts, refused: Refused
) -> None:
    parts.scrape._token = b""
    refused(await anonymous.get("/metrics", headers={"Authorization": "Bearer "}), 401, "UNAUTHORIZED")
