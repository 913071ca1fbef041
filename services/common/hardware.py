"""Figures of the machine that defaults are taken from."""

import os
import re
import socket

import psutil


def cpu_count() -> int:
    return os.cpu_count() or 1


def memory_mb() -> int:
    """MiB of physical memory."""
    return int(psutil.virtual_memory().total // (1024 * 1024))


def node_name() -> str:
    """The host name, reduced to the characters that a node name may have."""
    return re.sub(r"[^a-z0-9.-]+", "-", socket.gethostname().lower()).strip("-.") or "node"
