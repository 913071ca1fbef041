"""The bodies of the metrics routes."""

import math
from datetime import UTC, datetime, timedelta

from services.gateway.metrics_client import SERIES, History
from services.gateway.metrics_schemas import MetricsHistory


def test_what_is_not_known_is_null() -> None:
    begun = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
    series = {name: [1.0, 2.25] for name in SERIES} | {"disk_used_bytes": [math.nan, 3.0]}
    history = History(begun, 1, [begun, begun + timedelta(seconds=1)], series)
    body = MetricsHistory.of(history).model_dump(mode="json")
    assert body["times"] == ["2026-01-02T03:04:05Z", "2026-01-02T03:04:06Z"]
    assert body["series"]["disk_used_bytes"] == [None, 3]
    assert body["series"]["cpu_percent"] == [1.0, 2.25]
    assert set(body["series"]) == set(SERIES)
