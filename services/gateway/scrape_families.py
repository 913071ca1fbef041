"""What Prometheus is told (pure): the figures of containers, node and services as families of samples.

Names and units follow Prometheus' recommendations: base units, `_total` for counters, ratios instead of percents.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence

from services.common.rpc.figures import Figure
from services.gateway.clients import Container
from services.gateway.metrics_client import NodeUsage, Snapshot
from services.gateway.prometheus import Family, Sample, histogram
from services.gateway.traffic import BUCKETS_S, Traffic

NS_PER_S = 1e9

_OF_A_CONTAINER: Sequence[tuple[str, str, Callable[[Snapshot], float | None]]] = (
    ("cpu_usage_seconds_total", "CPU time used.", lambda s: s.cpu_usage_ns / NS_PER_S),
    ("cpu_throttled_seconds_total", "Time kept from running by the limit.", lambda s: s.cpu_throttled_ns / NS_PER_S),
    ("cpu_cores", "Cores that may be used.", lambda s: s.cpu_cores),
    ("cpu_usage_ratio", "Part of those cores used over the last second.", lambda s: s.cpu_percent / 100),
    ("memory_used_bytes", "Memory without page cache that can be dropped.", lambda s: s.memory_used_bytes),
    ("memory_limit_bytes", "Memory that may be used.", lambda s: s.memory_limit_bytes),
    ("network_receive_bytes_total", "Bytes received.", lambda s: s.network_rx_bytes),
    ("network_transmit_bytes_total", "Bytes sent.", lambda s: s.network_tx_bytes),
    ("disk_used_bytes", "Bytes used of the container's disk.", lambda s: s.disk_used_bytes),
    ("disk_limit_bytes", "Size of the container's disk.", lambda s: s.disk_limit_bytes),
    ("io_read_bytes_total", "Bytes read from the container's disk.", lambda s: s.io_read_bytes),
    ("io_written_bytes_total", "Bytes written to the container's disk.", lambda s: s.io_write_bytes),
    ("pids", "Processes and threads.", lambda s: s.pids),
    ("pids_limit", "Processes and threads that may be.", lambda s: s.pids_limit),
    ("oom_kills_total", "Processes killed for want of memory.", lambda s: s.oom_kills),
    ("start_time_seconds", "When the container last started, since 1970.", lambda s: s.started_at.timestamp()),
)
_OF_A_NODE: Sequence[tuple[str, str, Callable[[NodeUsage], float]]] = (
    ("cpu_usage_seconds_total", "CPU time used by anybody, of all cores.", lambda n: n.cpu_usage_s),
    ("cpu_cores", "Cores of the node.", lambda n: n.cpu_cores),
    ("load1", "Load average of a minute.", lambda n: n.load[0]),
    ("load5", "Load average of five minutes.", lambda n: n.load[1]),
    ("load15", "Load average of fifteen minutes.", lambda n: n.load[2]),
    ("memory_total_bytes", "Memory of the node.", lambda n: n.memory_total_bytes),
    ("memory_available_bytes", "Memory that could be had without swapping.", lambda n: n.memory_available_bytes),
    ("disk_total_bytes", "Size of the file system with the state folder.", lambda n: n.disk_total_bytes),
    ("disk_free_bytes", "What is free of it.", lambda n: n.disk_free_bytes),
    ("network_receive_bytes_total", "Bytes received over the links that lead elsewhere.", lambda n: n.network_rx_bytes),
    ("network_transmit_bytes_total", "Bytes sent over them.", lambda n: n.network_tx_bytes),
    ("boot_time_seconds", "When the node started, since 1970.", lambda n: n.booted_at.timestamp()),
    ("containers_running", "Containers that run on the node.", lambda n: n.containers),
)


def container_families(snapshots: Iterable[Snapshot], node_name: str) -> list[Family]:
    rows = [(snapshot, {"container_id": snapshot.container_id, "node": node_name}) for snapshot in snapshots]
    return [
        _family(f"hzel_container_{name}", help_text, [(value(snapshot), labels) for snapshot, labels in rows])
        for name, help_text, value in _OF_A_CONTAINER
    ]


def inventory_families(containers: Sequence[Container]) -> list[Family]:
    """Of every container there is, running or not. The first is to be joined with the others by `container_id`."""
    info = [
        Sample(
            1,
            {
                "container_id": container.id,
                "node": container.node_name,
                "name": container.spec.name,
                "user_id": container.user_id,
                "image": container.spec.image,
                "state": container.state,
            },
        )
        for container in containers
    ]
    states = Counter((container.node_name, container.state) for container in containers)
    by_state = [Sample(count, {"node": node, "state": state}) for (node, state), count in sorted(states.items())]
    return [
        Family("hzel_container_info", "gauge", "Always 1: what does not change of a container, and its state.", info),
        Family("hzel_containers", "gauge", "Containers by state.", by_state),
    ]


def node_families(usage: NodeUsage) -> list[Family]:
    labels = {"node": usage.name}
    of_node = [_family(f"hzel_node_{name}", text, [(value(usage), labels)]) for name, text, value in _OF_A_NODE]
    rows = [(service, {"node": usage.name, "service": service.name}) for service in usage.services]
    cpu = [(service.cpu_usage_s, labels) for service, labels in rows]
    memory = [(float(service.memory_bytes), labels) for service, labels in rows]
    started = [(service.started_at.timestamp(), labels) for service, labels in rows]
    return [
        *of_node,
        _family("hzel_process_cpu_seconds_total", "CPU time used by a service of ours.", cpu),
        _family("hzel_process_resident_memory_bytes", "Memory a service of ours occupies.", memory),
        _family("hzel_process_start_time_seconds", "When it started, since 1970.", started),
    ]


def service_families(figures: Mapping[str, Sequence[Figure] | None]) -> list[Family]:
    """Of each service what it tells about its own work; None for one that did not answer."""
    up = [Sample(float(told is not None), {"service": service}) for service, told in figures.items()]
    families = [Family("hzel_service_up", "gauge", "Whether a service answers.", up)]
    rows: dict[str, list[tuple[float | None, dict[str, str]]]] = {}
    helps = {}
    for service, told in figures.items():
        for figure in told or ():
            rows.setdefault(figure.name, []).append((figure.value, {"service": service}))
            helps[figure.name] = figure.help
    return families + [_family(f"hzel_{name}", helps[name], values) for name, values in rows.items()]


def traffic_families(traffic: Traffic) -> list[Family]:
    requests = [
        Sample(count, {"method": method, "route": route, "status": str(status)})
        for (method, route, status), count in traffic.requests.items()
    ]
    durations = [
        sample
        for (method, route), found in traffic.request_durations.items()
        for sample in histogram(BUCKETS_S, found.counts, found.sum_s, {"method": method, "route": route})
    ]
    calls = [
        Sample(count, {"service": service, "method": method, "code": code})
        for (service, method, code), count in traffic.calls.items()
    ]
    call_durations = [
        sample
        for (service, method), found in traffic.call_durations.items()
        for sample in histogram(BUCKETS_S, found.counts, found.sum_s, {"service": service, "method": method})
    ]
    sockets = [
        Sample(count, {"route": route, "status": str(status)}) for (route, status), count in traffic.sockets.items()
    ]
    open_sockets = [Sample(count, {"route": route}) for route, count in traffic.open_sockets.items()]
    return [
        Family("hzel_http_requests_total", "counter", "Requests answered.", requests),
        Family("hzel_http_request_duration_seconds", "histogram", "How long requests took.", durations),
        Family("hzel_websockets_total", "counter", "WebSockets that ended, by the status of the handshake.", sockets),
        Family("hzel_websockets_open", "gauge", "WebSockets that are open.", open_sockets),
        Family("hzel_rpc_calls_total", "counter", "Calls to services that ended, by gRPC status.", calls),
        Family(
            "hzel_rpc_call_duration_seconds", "histogram", "How long those took that have one answer.", call_durations
        ),
    ]


def _family(name: str, help_text: str, rows: Iterable[tuple[float | None, Mapping[str, str]]]) -> Family:
    """What ends in `_total` is a counter; what is not known has no sample."""
    samples = [Sample(value, labels) for value, labels in rows if value is not None]
    return Family(name, "counter" if name.endswith("_total") else "gauge", help_text, samples)
