"""Users and groups as a container's own /etc/passwd and /etc/group say (pure parsers, and one lookup)."""

import contextlib
from dataclasses import dataclass

from services.common.containerd.spec import IDS_PER_CONTAINER, User
from services.common.inside import read_file

MAX_DIGITS = 10


class NoSuchUser(Exception):
    """The message is for the owner."""


@dataclass(frozen=True)
class Account:
    """`name` is empty for a number that the container has no name for."""

    name: str
    user: User
    home: str
    shell: str


@dataclass(frozen=True)
class _PasswdLine:
    name: str
    uid: int
    gid: int
    home: str
    shell: str


def find_account(root: int, wanted: str) -> Account:
    """Looks up `user`, `user:group`, by names or numbers; empty is root. Raises NoSuchUser.

    `root` is a descriptor of the container's root. A file that is missing or no plain file counts as empty.
    """
    return account(_text(root, "/etc/passwd"), _text(root, "/etc/group"), wanted)


def account(passwd: str, group: str, wanted: str) -> Account:
    """The same from the texts of the two files."""
    user_name, _, group_name = (wanted or "0").partition(":")
    line = _passwd_line(passwd, user_name)
    if line is None:
        uid = _number(user_name)
        if uid is None:
            raise NoSuchUser(f"there is no user {user_name!r} in the container")
        line = _PasswdLine("root" if uid == 0 else "", uid, 0, "/root" if uid == 0 else "/", "")
    gid = line.gid if not group_name else _group_id(group, group_name)
    groups = _groups_of(group, line.name) if line.name and not group_name else ()
    return Account(line.name, User(line.uid, gid, tuple(g for g in groups if g != gid)), line.home, line.shell)


def _passwd_line(passwd: str, wanted: str) -> _PasswdLine | None:
    number = _number(wanted)
    for text in passwd.splitlines():
        fields = text.split(":")
        if len(fields) != 7:
            continue
        uid, gid = _number(fields[2]), _number(fields[3])
        if uid is None or gid is None:
            continue
        if fields[0] == wanted or uid == number:
            return _PasswdLine(fields[0], uid, gid, fields[5] or "/", fields[6])
    return None


def _group_id(group: str, wanted: str) -> int:
    for text in group.splitlines():
        fields = text.split(":")
        if len(fields) == 4 and fields[0] == wanted and (gid := _number(fields[2])) is not None:
            return gid
    if (number := _number(wanted)) is not None:
        return number
    raise NoSuchUser(f"there is no group {wanted!r} in the container")


def _groups_of(group: str, name: str) -> tuple[int, ...]:
    found = []
    for text in group.splitlines():
        fields = text.split(":")
        if len(fields) == 4 and name in fields[3].split(",") and (gid := _number(fields[2])) is not None:
            found.append(gid)
    return tuple(found[:64])


def _number(text: str) -> int | None:
    """An id that the container has; its range is all there is."""
    if not (text.isascii() and text.isdigit() and len(text) <= MAX_DIGITS):
        return None
    return int(text) if int(text) < IDS_PER_CONTAINER else None


def _text(root: int, path: str) -> str:
    with contextlib.suppress(OSError):
        return read_file(root, path).decode("utf-8", "replace")
    return ""
