"""Why a container is in its state, in words for its owner."""

import errno
import re
from pathlib import Path

import pytest

from services.common.containerd.errors import ContainerdError, ContainerdUnavailable
from services.lifecycle import reasons
from services.lifecycle.confirmation import StartedNothing
from services.lifecycle.entrypoint import EntrypointMissing
from services.lifecycle.network import NetworkError
from services.lifecycle.reasons import of_exit, of_failed_start
from services.lifecycle.runner import ImageMissing, ImageUnsupported

SECRET = "/var/lib/hzel/disks/secret"
FORM = re.compile(r"([a-z]+(_[a-z]+)*): [a-z].*[a-z0-9']", re.DOTALL)


def word(reason: str) -> str:
    assert FORM.fullmatch(reason), reason
    return reason.partition(":")[0]


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (ImageMissing("a/b:1"), "image_missing"),
        (ImageUnsupported("it runs as 'www', and only numeric users are supported"), "image_unsupported"),
        (EntrypointMissing("there is no executable 'x' in the image"), "entrypoint_missing"),
        (StartedNothing(), "entrypoint_failed"),
        (TimeoutError(), "start_timeout"),
        (ContainerdUnavailable(SECRET), "runtime_unavailable"),
        (ContainerdError(SECRET), "runtime_error"),
        (NetworkError(SECRET), "network_error"),
        (OSError(errno.ENOSPC, "full", SECRET), "disk_full"),
        (OSError(errno.EDQUOT, "full", SECRET), "disk_full"),
        (OSError(errno.EIO, "broken", SECRET), "node_error"),
        (RuntimeError(SECRET), "internal_error"),
    ],
)
def test_a_failed_start_has_a_word_and_a_sentence_that_tells_nothing_of_the_host(
    error: Exception, expected: str
) -> None:
    reason = of_failed_start(error)
    assert word(reason) == expected
    assert SECRET not in reason


def test_what_the_owner_has_to_know_is_in_the_sentence() -> None:
    assert "a/b:1" in of_failed_start(ImageMissing("a/b:1"))
    assert "'x'" in of_failed_start(EntrypointMissing("there is no executable 'x' in the image"))


def test_an_end_names_its_exit_code() -> None:
    assert of_exit(3, 0) == "exited: the main process ended with exit code 3"
    assert word(of_exit(0, 0)) == "exited"


def test_killed_and_counted_as_a_memory_kill_is_one() -> None:
    assert of_exit(137, 1) == reasons.OOM_KILLED


@pytest.mark.parametrize(("status", "kills"), [(137, 0), (1, 1), (0, 5)])
def test_neither_alone_is_a_memory_kill(status: int, kills: int) -> None:
    assert word(of_exit(status, kills)) == "exited"


def test_the_other_reasons_have_the_same_form() -> None:
    known = (reasons.OOM_KILLED, reasons.EXIT_UNKNOWN, reasons.NODE_RESTARTED, reasons.NODE_STOPPED)
    for reason in (*known, reasons.IDLE, reasons.EXPIRED, reasons.STOP_UNCONFIRMED):
        word(reason)


def test_a_restart_says_how_often_and_after_what() -> None:
    reason = reasons.of_restart(2, of_exit(3, 0))
    assert word(reason) == "restarted"
    assert "time 2" in reason
    assert reason.endswith("after the main process ended with exit code 3")


def test_every_word_is_explained_to_operators() -> None:
    page = (Path(__file__).parents[3] / "docs/operations.md").read_text()
    words = set(re.findall(r'"([a-z_]+): ', Path(reasons.__file__).read_text()))
    assert len(words) >= 14
    assert {one for one in words if f"`{one}`" not in page} == set()
