"""The compiled filter: what a process under it may do."""

import json
import platform
import struct
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from services.common.containerd.seccomp import oci_seccomp
from services.common.containerd.seccomp_bpf import SeccompError, compile_filter
from services.common.containerd.spec import CAPABILITIES

PROFILE = Path("/usr/share/containers/seccomp.json")
INSTRUCTION_BYTES = 8

# Puts itself under the filter of the file named first, then runs the rest as Python.
CONFINED = """
import ctypes, os, sys
class Program(ctypes.Structure):
    _fields_ = (("length", ctypes.c_ushort), ("filter", ctypes.c_void_p))
data = open(sys.argv[1], "rb").read()
buffer = ctypes.create_string_buffer(data, len(data))
libc = ctypes.CDLL(None, use_errno=True)
program = Program(len(data) // 8, ctypes.addressof(buffer))
assert libc.prctl(38, 1, 0, 0, 0) == 0  # PR_SET_NO_NEW_PRIVS
assert libc.prctl(22, 2, ctypes.byref(program), 0, 0) == 0, ctypes.get_errno()  # PR_SET_SECCOMP
def syscall(*arguments):
    result = libc.syscall(*arguments)
    return ctypes.get_errno() if result < 0 else 0
exec(sys.argv[2])
"""
EPERM, ENOSYS = 1, 38
NEW_USER = 0x10000000
NUMBERS = {
    "x86_64": {"unshare": 272, "clone": 56, "clone3": 435, "mount": 165, "keyctl": 250, "getpid": 39},
    "aarch64": {"unshare": 97, "clone": 220, "clone3": 435, "mount": 40, "keyctl": 219, "getpid": 172},
}


def default_section() -> dict[str, Any]:
    return oci_seccomp(json.loads(PROFILE.read_text()), platform.machine(), CAPABILITIES, (6, 1))


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("seccomp") / "filter"
    file.write_bytes(compile_filter(default_section()))
    return file


def errors(program: Path, code: str) -> list[int]:
    """What the code prints, under the filter: error numbers."""
    result = subprocess.run(
        [sys.executable, "-c", CONFINED, str(program), code], capture_output=True, text=True, timeout=30, check=True
    )
    return [int(word) for word in result.stdout.split()]


def test_it_is_a_program_the_kernel_takes_and_that_fits(program: Path) -> None:
    size = program.stat().st_size
    assert size % INSTRUCTION_BYTES == 0
    assert 0 < size // INSTRUCTION_BYTES <= 4096


def test_ordinary_work_goes_on_under_it(program: Path) -> None:
    code = "import subprocess; print(subprocess.run(['true']).returncode, syscall(%d))"
    assert errors(program, code % NUMBERS[platform.machine()]["getpid"]) == [0, 0]


def test_namespaces_mounts_and_keys_are_refused(program: Path) -> None:
    numbers = NUMBERS[platform.machine()]
    code = (
        f"print(syscall({numbers['unshare']}, {NEW_USER}), syscall({numbers['clone']}, {NEW_USER} | 17, 0, 0, 0, 0),"
        f" syscall({numbers['mount']}, 0, 0, 0, 0, 0), syscall({numbers['keyctl']}, 0, -3, 0))"
    )
    found = errors(program, code)
    assert found[0] == EPERM
    # clone with such a flag has no rule: the profile's default.
    assert found[1] in (EPERM, ENOSYS)
    assert found[2:] == [EPERM, EPERM]


def test_clone3_looks_missing(program: Path) -> None:
    assert errors(program, f"print(syscall({NUMBERS[platform.machine()]['clone3']}, 0, 0))") == [ENOSYS]


def test_it_is_the_same_each_time() -> None:
    assert compile_filter(default_section()) == compile_filter(default_section())


def test_names_that_nobody_knows_are_left_out() -> None:
    section = {"defaultAction": "SCMP_ACT_ALLOW", "architectures": ["SCMP_ARCH_X86_64"], "syscalls": []}
    unknown = section | {"syscalls": [{"names": ["no_such_call"], "action": "SCMP_ACT_ERRNO"}]}
    assert compile_filter(unknown) == compile_filter(section)


@pytest.mark.parametrize(
    "section",
    [
        {"defaultAction": "SCMP_ACT_WHATEVER", "architectures": ["SCMP_ARCH_X86_64"], "syscalls": []},
        {
            "defaultAction": "SCMP_ACT_ALLOW",
            "architectures": ["SCMP_ARCH_X86_64"],
            "syscalls": [{"names": ["read"], "action": "SCMP_ACT_NOTIFY"}],
        },
    ],
)
def test_an_unknown_action_is_an_error_and_no_open_door(section: dict[str, Any]) -> None:
    with pytest.raises(SeccompError):
        compile_filter(section)


def test_an_error_number_is_compiled_in() -> None:
    section = {
        "defaultAction": "SCMP_ACT_ALLOW",
        "architectures": ["SCMP_ARCH_X86_64"],
        "syscalls": [{"names": ["getcwd"], "action": "SCMP_ACT_ERRNO", "errnoRet": 77}],
    }
    returned = {k for code, _, _, k in struct.iter_unpack("=HBBI", compile_filter(section)) if code == 0x06}
    assert 0x00050000 | 77 in returned
