"""Why a container is in its state: a machine word, a colon and a sentence for its owner (pure)."""

import errno

from services.common.containerd.errors import ContainerdError, ContainerdUnavailable
from services.lifecycle.confirmation import StartedNothing
from services.lifecycle.entrypoint import EntrypointMissing
from services.lifecycle.network import NetworkError
from services.lifecycle.runner import ImageMissing, ImageUnsupported

OOM_KILLED = "oom_killed: the kernel ended the main process because the memory limit was reached"
EXIT_UNKNOWN = "exit_unknown: the container ended while nobody could see how"
NODE_RESTARTED = "node_restarted: the node was restarted while the container ran"
NODE_STOPPED = "node_stopped: hzel was stopped on the node, and the container with it"
IDLE = "idle: it was stopped because nobody had used it for as long as its auto_stop_s says"
EXPIRED = "expired: its time to live is over"
STOP_UNCONFIRMED = "stop_unconfirmed: the end of the container's processes could not be confirmed"
KILLED_STATUS = 137


def of_exit(status: int, memory_kills: int) -> str:
    """For a container that ended by itself with that exit status (128 + n: signal n)."""
    if status == KILLED_STATUS and memory_kills:
        return OOM_KILLED
    return f"exited: the main process ended with exit code {status}"


def of_restart(count: int, before: str) -> str:
    """For one that its policy has started again, so often since its owner did; `before` is why it was not running."""
    return f"restarted: by its policy, time {count} since it was last started, after {before.partition(': ')[2]}"


def of_failed_start(error: BaseException) -> str:
    """For what `Runner.bring_up` raised; says nothing of the host."""
    match error:
        case ImageMissing():
            return f"image_missing: the node has no image {error}"
        case ImageUnsupported():
            return f"image_unsupported: {error}"
        case EntrypointMissing():
            return f"entrypoint_missing: {error}"
        case StartedNothing():
            return "entrypoint_failed: the command could not be executed, or ended at once"
        case TimeoutError():
            return "start_timeout: the start could not be confirmed in time"
        case ContainerdUnavailable():
            return "runtime_unavailable: the container runtime went away during the start"
        case ContainerdError():
            return "runtime_error: the container runtime refused to start it"
        case NetworkError():
            return "network_error: the container could not be connected to its network"
        case OSError() if error.errno in (errno.ENOSPC, errno.EDQUOT):
            return "disk_full: the node has no room for the container's disk"
        case OSError():
            return "node_error: the node could not prepare the container's files"
        case _:
            return "internal_error: something went wrong on our side"
