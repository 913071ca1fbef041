"""Names of images and of the snapshots of their layers; layers from mounts; errors of containerd."""

import hashlib
import json
from pathlib import Path

import grpc
import pytest
from containerd.types.mount_pb2 import Mount

from services.common.containerd.any import pack_spec
from services.common.containerd.errors import (
    ContainerdAlreadyExists,
    ContainerdError,
    ContainerdFailedPrecondition,
    ContainerdNotFound,
    ContainerdUnavailable,
    containerd_errors,
)
from services.common.containerd.images import _chain_id, full_name
from services.common.containerd.snapshots import lower_folders

DIGEST = "sha256:" + "ab" * 32


@pytest.mark.parametrize(
    ("reference", "name"),
    [
        ("hzel/busybox", "hzel/busybox:latest"),
        ("hzel/debian:12", "hzel/debian:12"),
        ("localhost:5000/a", "localhost:5000/a:latest"),
        ("localhost:5000/a:1", "localhost:5000/a:1"),
        (f"a/b@{DIGEST}", f"a/b@{DIGEST}"),
        ("busybox", "busybox:latest"),
    ],
)
def test_a_reference_without_a_tag_means_the_latest(reference: str, name: str) -> None:
    assert full_name(reference) == name
    assert full_name(name) == name


def test_the_chain_of_one_layer_is_its_own_digest() -> None:
    assert _chain_id(["sha256:a"]) == "sha256:a"


def test_each_layer_is_hashed_onto_those_below() -> None:
    two = hashlib.sha256(b"sha256:a sha256:b").hexdigest()
    assert _chain_id(["sha256:a", "sha256:b"]) == f"sha256:{two}"
    three = hashlib.sha256(f"sha256:{two} sha256:c".encode()).hexdigest()
    assert _chain_id(["sha256:a", "sha256:b", "sha256:c"]) == f"sha256:{three}"


def test_a_single_layer_is_a_bind_mount_and_several_an_overlay() -> None:
    bind = Mount(type="bind", source="/s/1/fs", options=["ro", "rbind"])
    assert lower_folders([bind]) == (Path("/s/1/fs"),)
    overlay = Mount(type="overlay", source="overlay", options=["index=off", "lowerdir=/s/2/fs:/s/1/fs"])
    assert lower_folders([overlay]) == (Path("/s/2/fs"), Path("/s/1/fs"))


@pytest.mark.parametrize("mounts", [[], [Mount(type="zfs")], [Mount(type="overlay", options=["ro"])]])
def test_mounts_of_another_kind_are_an_error(mounts: list[Mount]) -> None:
    with pytest.raises(ContainerdError):
        lower_folders(mounts)


def test_a_specification_is_packed_under_the_name_that_containerd_expects() -> None:
    packed = pack_spec("Process", {"args": ["é"]})
    assert packed.type_url == "types.containerd.io/opencontainers/runtime-spec/1/Process"
    assert json.loads(packed.value) == {"args": ["é"]}


def failure(code: grpc.StatusCode, details: str) -> grpc.aio.AioRpcError:
    return grpc.aio.AioRpcError(code, grpc.aio.Metadata(), grpc.aio.Metadata(), details=details)


@pytest.mark.parametrize(
    ("code", "details", "kind"),
    [
        (grpc.StatusCode.NOT_FOUND, "", ContainerdNotFound),
        (grpc.StatusCode.ALREADY_EXISTS, "", ContainerdAlreadyExists),
        (grpc.StatusCode.FAILED_PRECONDITION, "", ContainerdFailedPrecondition),
        (grpc.StatusCode.UNAVAILABLE, "", ContainerdUnavailable),
        (grpc.StatusCode.DEADLINE_EXCEEDED, "", ContainerdUnavailable),
        (grpc.StatusCode.UNKNOWN, "ttrpc: closed: unknown", ContainerdUnavailable),
        (grpc.StatusCode.UNKNOWN, "runc create failed", ContainerdError),
        (grpc.StatusCode.INTERNAL, "", ContainerdError),
    ],
)
def test_what_containerd_reports_becomes_an_error_of_ours(
    code: grpc.StatusCode, details: str, kind: type[ContainerdError]
) -> None:
    with pytest.raises(ContainerdError, match="start task box") as caught, containerd_errors("start task", "box"):
        raise failure(code, details)
    assert type(caught.value) is kind
    assert isinstance(caught.value.__cause__, grpc.aio.AioRpcError)
