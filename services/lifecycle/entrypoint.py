"""What a container runs, and whether its image has it at all."""

from collections.abc import Sequence
from pathlib import Path

from services.common import inside
from services.common.containerd.images import Image

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
    """Raises EntrypointMissing unless the root filesystem has the program."""
    with inside.opened_root(root) as descriptor:
        if inside.find_executable(descriptor, program, search_path, working_dir) is None:
            raise EntrypointMissing(f"there is no executable {program!r} in the image")
