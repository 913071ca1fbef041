"""containerd's `Any`: the type URL is the bare full name, without the slash that protobuf's own pack() adds."""

import json
from collections.abc import Mapping

from google.protobuf.any_pb2 import Any
from google.protobuf.message import Message

RUNTIME_SPEC = "types.containerd.io/opencontainers/runtime-spec/1/"


def pack_spec(name: str, spec: Mapping[str, object]) -> Any:
    """A part of the OCI runtime specification as JSON; `name` is Spec, Process or LinuxResources."""
    return Any(type_url=RUNTIME_SPEC + name, value=json.dumps(spec, separators=(",", ":")).encode())


def pack(message: Message) -> Any:
    return Any(type_url=message.DESCRIPTOR.full_name, value=message.SerializeToString(deterministic=True))
