"""Rows of the table of containers, in and out."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from sqlalchemy import Row

from services.common.containerd.images import Image
from services.lifecycle.container import Container, Wanted
from services.lifecycle.restart_policy import RestartPolicy, Restarts
from services.lifecycle.state import Desired, State


def row_values(container: Container) -> dict[str, Any]:
    wanted = container.wanted
    return {
        "id": container.id,
        "node_name": container.node_name,
        "user_id": container.user_id,
        # `ctid` is taken in PostgreSQL, by a column of its own.
        "number": container.ctid,
        "name": wanted.name,
        "image": wanted.image,
        "resolved_image": image_values(container.image),
        "command": list(wanted.command),
        "env": dict(wanted.env),
        "labels": dict(wanted.labels),
        "cpu_cores": wanted.cpu_cores,
        "memory_mb": wanted.memory_mb,
        "disk_gb": wanted.disk_gb,
        "runtime": wanted.runtime,
        "id_base": container.id_base,
        "ip_address": container.ip_address,
        "state": container.state.value,
        "desired": container.desired.value,
        "state_reason": container.state_reason,
        "exit_code": container.exit_code,
        "created_at": container.created_at,
        "started_at": container.started_at,
        "finished_at": container.finished_at,
        "restart_policy": str(wanted.restart_policy),
        **restart_values(container.restarts),
        "auto_stop_s": wanted.auto_stop_s,
        "idle_since": container.idle_since,
        "expires_at": container.expires_at,
        "is_expiry_told": container.is_expiry_told,
    }


def restart_values(restarts: Restarts) -> dict[str, Any]:
    return {
        "restart_count": restarts.count,
        "restart_delay_ms": restarts.delay_ms,
        "restart_at": restarts.due_at,
    }


def image_values(image: Image | None) -> Mapping[str, Any] | None:
    return dataclasses.asdict(image) if image is not None else None


def _image(values: Mapping[str, Any] | None) -> Image | None:
    if values is None:
        return None
    lists = {name: tuple(values[name]) for name in ("entrypoint", "command", "env")}
    return Image(**{**values, **lists})


def container_of(row: Row[Any]) -> Container:
    wanted = Wanted(
        name=row.name,
        image=row.image,
        command=tuple(row.command),
        env=row.env,
        labels=row.labels,
        cpu_cores=row.cpu_cores,
        memory_mb=row.memory_mb,
        disk_gb=row.disk_gb,
        runtime=row.runtime,
        restart_policy=RestartPolicy.parse(row.restart_policy),
        auto_stop_s=row.auto_stop_s,
    )
    return Container(
        id=row.id,
        node_name=row.node_name,
        user_id=row.user_id,
        ctid=row.number,
        wanted=wanted,
        image=_image(row.resolved_image),
        id_base=row.id_base,
        ip_address=row.ip_address,
        state=State(row.state),
        desired=Desired(row.desired),
        state_reason=row.state_reason,
        exit_code=row.exit_code,
        created_at=row.created_at,
        started_at=row.started_at,
        finished_at=row.finished_at,
        restarts=Restarts(row.restart_count, row.restart_delay_ms, row.restart_at),
        idle_since=row.idle_since,
        expires_at=row.expires_at,
        is_expiry_told=row.is_expiry_told,
    )
