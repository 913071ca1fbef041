"""What a session runs, as which user and with which environment: as the container's own files say."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import PurePosixPath

from services.common.containerd.accounts import Account, NoSuchUser, find_account
from services.common.containerd.running import RunningContainer
from services.common.containerd.spec import DEFAULT_PATH
from services.common.errors import FieldError, ValidationFailed
from services.common.inside import find_executable, is_directory, opened_root

TERM = "xterm-256color"
# Those that take `-l` for "as if this were a login".
LOGIN_SHELLS = frozenset({"ash", "bash", "dash", "fish", "ksh", "mksh", "sh", "zsh"})
FALLBACK_SHELLS = ("bash", "sh")
UTF8_LOCALES = ("/usr/lib/locale/C.utf8", "/usr/lib/locale/C.UTF-8")
HOLDER = "/bin/sh"


@dataclass(frozen=True)
class Login:
    """`arguments[0]` is an absolute path; `can_be_held` says whether there is a `HOLDER`."""

    account: Account
    arguments: tuple[str, ...]
    env: Mapping[str, str]
    working_dir: str
    can_be_held: bool


def find_login(container: RunningContainer, user: str, shell: str, working_dir: str) -> Login:
    """Looks into the container: not for the event loop. Raises ValidationFailed, or OSError when it is gone."""
    with opened_root(container.root) as root:
        try:
            account = find_account(root, user)
        except NoSuchUser as error:
            raise _invalid("user", str(error)) from error
        if working_dir and not is_directory(root, working_dir):
            raise _invalid("cwd", "is no directory in the container")
        start = working_dir or (account.home if is_directory(root, account.home) else "/")
        search = container.env.get("PATH", DEFAULT_PATH)
        wanted = (shell,) if shell else (account.shell, *FALLBACK_SHELLS)
        found = next((path for one in wanted if one and (path := find_executable(root, one, search, start))), None)
        if found is None:
            raise _invalid("shell", f"the container has no {shell or 'shell'}")
        env = environment(container.env, account, found, any(is_directory(root, place) for place in UTF8_LOCALES))
        holder = find_executable(root, HOLDER, search, "/")
    return Login(account, shell_arguments(found), env, start, holder is not None)


def shell_arguments(path: str) -> tuple[str, ...]:
    return (path, "-l") if PurePosixPath(path).name in LOGIN_SHELLS else (path,)


def environment(container: Mapping[str, str], account: Account, shell: str, has_utf8: bool) -> dict[str, str]:
    """The container's variables, and over them those that a login sets.

    No COLUMNS and LINES: programs would believe them after a resize. The terminal itself has the size.
    """
    env = {"PATH": DEFAULT_PATH} | dict(container)
    env |= {"TERM": TERM, "HOME": account.home, "SHELL": shell}
    if account.name:
        env |= {"USER": account.name, "LOGNAME": account.name}
    if has_utf8 and not env.get("LANG") and not env.get("LC_ALL"):
        env["LANG"] = "C.UTF-8"
    return env


def _invalid(field: str, message: str) -> ValidationFailed:
    return ValidationFailed(f"{field}: {message}", (FieldError(field, message),))
