"""Compiles an OCI seccomp section with libseccomp, once, so that crun need not do it at every create (20 ms)."""

import ctypes
import os
from collections.abc import Mapping
from typing import Any

# linux/seccomp.h
_ALLOW, _ERRNO, _KILL_PROCESS = 0x7FFF0000, 0x00050000, 0x80000000
# seccomp.h: enum scmp_filter_attr, enum scmp_compare
_NO_NEW_PRIVILEGES, _OPTIMIZE = 3, 8
_BINARY_TREE = 2
_COMPARISONS = {f"SCMP_CMP_{name}": number for number, name in enumerate("NE LT LE EQ GE GT MASKED_EQ".split(), 1)}
_UNKNOWN_SYSCALL = -1


class _Comparison(ctypes.Structure):
    _fields_ = (
        ("argument", ctypes.c_uint),
        ("operator", ctypes.c_int),
        ("value", ctypes.c_uint64),
        ("second", ctypes.c_uint64),
    )


class SeccompError(Exception):
    pass


def compile_filter(section: Mapping[str, Any]) -> bytes:
    """The BPF program (struct sock_filter[]) of a `linux.seccomp` section. Raises SeccompError.

    Names that this library or an architecture does not know are left out, as crun leaves them out: the
    default action, a refusal, applies to them.
    """
    try:
        library = _load()
    except OSError as error:
        raise SeccompError("libseccomp.so.2 is not installed") from error
    context = library.seccomp_init(_action(section["defaultAction"], section.get("defaultErrnoRet")))
    if not context:
        raise SeccompError("the default action is not known")
    try:
        _check(library.seccomp_attr_set(context, _NO_NEW_PRIVILEGES, 0), "attributes")
        _check(library.seccomp_attr_set(context, _OPTIMIZE, _BINARY_TREE), "attributes")
        for name in section["architectures"][1:]:
            token = library.seccomp_arch_resolve_name(name.removeprefix("SCMP_ARCH_").lower().encode())
            _check(library.seccomp_arch_add(context, token), name)
        for entry in section["syscalls"]:
            _add(library, context, entry)
        return _export(library, context)
    finally:
        library.seccomp_release(context)


def _load() -> ctypes.CDLL:
    library = ctypes.CDLL("libseccomp.so.2", use_errno=True)
    library.seccomp_init.restype = ctypes.c_void_p
    library.seccomp_init.argtypes = (ctypes.c_uint32,)
    library.seccomp_release.argtypes = (ctypes.c_void_p,)
    library.seccomp_attr_set.argtypes = (ctypes.c_void_p, ctypes.c_int, ctypes.c_uint32)
    library.seccomp_arch_resolve_name.restype = ctypes.c_uint32
    library.seccomp_arch_add.argtypes = (ctypes.c_void_p, ctypes.c_uint32)
    library.seccomp_rule_add_array.argtypes = (
        ctypes.c_void_p,
        ctypes.c_uint32,
        ctypes.c_int,
        ctypes.c_uint,
        ctypes.POINTER(_Comparison),
    )
    library.seccomp_export_bpf.argtypes = (ctypes.c_void_p, ctypes.c_int)
    return library


def _add(library: ctypes.CDLL, context: int, entry: Mapping[str, Any]) -> None:
    action = _action(entry["action"], entry.get("errnoRet"))
    comparisons = [
        _Comparison(given["index"], _COMPARISONS[given["op"]], given["value"], given.get("valueTwo", 0))
        for given in entry.get("args") or ()
    ]
    array = (_Comparison * max(1, len(comparisons)))(*comparisons)
    for name in entry["names"]:
        number = library.seccomp_syscall_resolve_name(name.encode())
        if number == _UNKNOWN_SYSCALL:
            continue
        result = library.seccomp_rule_add_array(context, action, number, len(comparisons), array)
        # EACCES: the rule says what the default does; EDOM, EINVAL: not on this architecture.
        if result not in (0, -13, -33, -22):
            raise SeccompError(f"{name}: {os.strerror(-result)}")


def _action(name: str, number: int | None) -> int:
    match name:
        case "SCMP_ACT_ALLOW":
            return _ALLOW
        case "SCMP_ACT_ERRNO":
            return _ERRNO | (1 if number is None else number)
        case "SCMP_ACT_KILL_PROCESS":
            return _KILL_PROCESS
        case _:
            raise SeccompError(f"the action {name} is not known")


def _export(library: ctypes.CDLL, context: int) -> bytes:
    descriptor = os.memfd_create("seccomp")
    try:
        _check(library.seccomp_export_bpf(context, descriptor), "export")
        os.lseek(descriptor, 0, os.SEEK_SET)
        with os.fdopen(os.dup(descriptor), "rb") as file:
            return file.read()
    finally:
        os.close(descriptor)


def _check(result: int, what: str) -> None:
    if result < 0:
        raise SeccompError(f"{what}: {os.strerror(-result)}")
