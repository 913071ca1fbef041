"""Whose shell it is and what it finds in its environment."""

import pytest

from services.common.containerd.accounts import account
from services.terminal.login import environment, shell_arguments

ADA = account("ada:x:1000:1000::/home/ada:/bin/bash\n", "", "ada")
NUMBER = account("", "", "4711")


@pytest.mark.parametrize(
    ("path", "arguments"),
    [
        ("/bin/bash", ("/bin/bash", "-l")),
        ("/usr/bin/zsh", ("/usr/bin/zsh", "-l")),
        ("/usr/bin/python3", ("/usr/bin/python3",)),
    ],
)
def test_only_shells_are_told_to_log_in(path: str, arguments: tuple[str, ...]) -> None:
    assert shell_arguments(path) == arguments


def test_a_login_sets_what_a_login_sets() -> None:
    env = environment({"HOME": "/root", "TERM": "dumb", "X": "1"}, ADA, "/bin/bash", has_utf8=True)
    assert env == env | {
        "HOME": "/home/ada",
        "USER": "ada",
        "LOGNAME": "ada",
        "SHELL": "/bin/bash",
        "TERM": "xterm-256color",
        "LANG": "C.UTF-8",
        "X": "1",
    }
    assert env["PATH"].startswith("/usr/local/sbin:")
    assert "COLUMNS" not in env


def test_a_locale_of_the_containers_own_is_kept() -> None:
    assert environment({"LANG": "de_DE.UTF-8"}, ADA, "/bin/sh", has_utf8=True)["LANG"] == "de_DE.UTF-8"
    assert "LANG" not in environment({"LC_ALL": "C"}, ADA, "/bin/sh", has_utf8=True)
    assert "LANG" not in environment({}, ADA, "/bin/sh", has_utf8=False)


def test_a_user_without_a_name_gets_none() -> None:
    assert "USER" not in environment({}, NUMBER, "/bin/sh", has_utf8=False)
