"""The OCI runtimes of this node."""

import shutil

RUNTIMES = ("crun", "runc")


def installed_runtimes() -> tuple[str, ...]:
    return tuple(name for name in RUNTIMES if shutil.which(name))
