"""What a container runs, and whether its image has it at all."""

import os
from collections.abc import Sequence
from pathlib import Path, PurePosixPath

from services.common.containerd.images import Image
from services.common.openat2 import RESOLVE_IN_ROOT, openat2

NO_COMMAND = "the image names no command and none was given"


class EntrypointMissing(Exception):
    """The message is for the owner."""


def arguments(image: Image, command: Sequence[str]) -> tuple[str, ...]:
    """The image's entrypoint with the owner's command, else with the image's own. Raises EntrypointMissing."""
    found = (*image.entrypoint, *(command or image.command))
    if not found:
        raise EntrypointMissing(NO_COMMAND)
    return found


def check_executable(root: Path, program: str, search_path: str, working_dir: str) -> None:
    """Looks the program up as execvp would, inside the root filesystem. Raises EntrypointMissing.

    A file that is there may still not run (no interpreter, another architecture): that shows when it does.
    """
    if "/" in program:
        candidates = [PurePosixPath(working_dir, program)]
    else:
        candidates = [PurePosixPath(folder or ".", program) for folder in search_path.split(":")]
    descriptor = os.open(root, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        if not any(_is_executable(descriptor, candidate) for candidate in candidates):
            raise EntrypointMissing(f"there is no executable {program!r} in the image")
    finally:
        os.close(descriptor)


def _is_executable(root: int, path: PurePosixPath) -> bool:
    try:
        descriptor = openat2(root, str(path).lstrip("/") or ".", os.O_PATH, RESOLVE_IN_ROOT)
    except OSError:
        return False
    try:
        status = os.fstat(descriptor)
    finally:
        os.close(descriptor)
    return (status.st_mode & 0o170000) == 0o100000 and status.st_mode & 0o111 != 0
