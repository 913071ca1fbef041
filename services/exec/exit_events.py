"""How processes ended, from the kernel's process connector (linux/cn_proc.h): netlink broadcasts of every exit.

The runtime reports a death by signal n as exit status 128 + n, which a program may return as well. The
connector tells the two apart; it needs the host's own user and process namespaces.
"""

import ctypes
import os
import signal
import socket
import struct
from collections import OrderedDict, deque
from dataclasses import dataclass

_NETLINK_CONNECTOR = 11
_CN_IDX_PROC = _CN_VAL_PROC = 1
_PROC_CN_MCAST_LISTEN = 1
_PROC_EVENT_EXIT = 0x80000000
_NLMSG_DONE = 3
_HEADER = struct.Struct("=IHHII")  # struct nlmsghdr
_CONNECTOR = struct.Struct("=IIIIHH")  # struct cn_msg: id, sequence, ack, length, flags
_EVENT = struct.Struct("=IIQ")  # struct proc_event: what, cpu, time stamp
_EXIT = struct.Struct("=IIIIII")  # pid, tgid, exit code, exit signal, parent's pid, parent's tgid (since 4.18)
_WHAT_AT = _HEADER.size + _CONNECTOR.size
_EXIT_AT = _WHAT_AT + _EVENT.size
_SO_ATTACH_FILTER, _SO_RCVBUFFORCE = 26, 33
_RECEIVE_BYTES = 4 * 1024 * 1024
KEPT = 50_000
KEPT_OF_ONE = 256


class _Instruction(ctypes.Structure):
    _fields_ = (("code", ctypes.c_uint16), ("jt", ctypes.c_uint8), ("jf", ctypes.c_uint8), ("k", ctypes.c_uint32))


class _Program(ctypes.Structure):
    _fields_ = (("length", ctypes.c_uint16), ("filter", ctypes.POINTER(_Instruction)))


@dataclass(frozen=True)
class Ending:
    """Of a process that did not simply exit with 0: `signal` is a name such as KILL, or empty.

    `status` is what the runtime reports, 128 + n for signal n; pids are the host's.
    """

    pid: int
    status: int
    signal: str

    @property
    def exit_code(self) -> int | None:
        return None if self.signal else self.status


class ExitEvents:
    """The latest exits, by the parent of the process that ended.

    Those of watched parents are kept until they are forgotten, of others a bounded number.
    """

    def __init__(self) -> None:
        """Raises OSError where the kernel has no such connector, or we may not listen."""
        self._socket = socket.socket(socket.AF_NETLINK, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK, _NETLINK_CONNECTOR)
        self._socket.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, _RECEIVE_BYTES)
        _attach_filter(self._socket)
        self._socket.bind((0, _CN_IDX_PROC))
        body = struct.pack("=I", _PROC_CN_MCAST_LISTEN)
        message = _CONNECTOR.pack(_CN_IDX_PROC, _CN_VAL_PROC, 0, 0, len(body), 0) + body
        self._socket.send(_HEADER.pack(_HEADER.size + len(message), _NLMSG_DONE, 0, 0, os.getpid()) + message)
        self._by_parent: OrderedDict[int, deque[Ending]] = OrderedDict()
        self._watched: dict[int, deque[Ending]] = {}

    def fileno(self) -> int:
        return self._socket.fileno()

    def receive(self) -> None:
        """Takes in what has arrived. Events are lost when more come than are received; nobody is told which."""
        while True:
            try:
                message = self._socket.recv(4096)
            except BlockingIOError:
                return
            except OSError:
                # ENOBUFS: some were lost. Those who ask for them get no answer, which is the truth.
                continue
            pid, _, code, _, _, parent = _EXIT.unpack_from(message, _EXIT_AT)
            if parent in self._watched:
                self._watched[parent].append(ending(pid, code))
                continue
            self._by_parent.setdefault(parent, deque(maxlen=KEPT_OF_ONE)).append(ending(pid, code))
            self._by_parent.move_to_end(parent)
            if len(self._by_parent) > KEPT:
                self._by_parent.popitem(last=False)

    def watch(self, parent: int) -> None:
        """From now on, and with what has been heard of its children already."""
        self._watched.setdefault(parent, deque(self._by_parent.pop(parent, ()), maxlen=KEPT_OF_ONE))

    def of_child(self, parent: int, status: int, child: int) -> Ending | None:
        """How a child ended: that one, or where `child` is 0 the last with that status. None if nobody knows."""
        known = self._watched.get(parent) or self._by_parent.get(parent) or deque()
        fits = (found for found in reversed(known) if (found.pid == child if child else found.status == status))
        return next(fits, None)

    def forget(self, parent: int) -> None:
        self._watched.pop(parent, None)

    def close(self) -> None:
        self._socket.close()


def ending(pid: int, code: int) -> Ending:
    """From a wait status (wait(2))."""
    number = code & 0x7F
    if number == 0:
        return Ending(pid, (code >> 8) & 0xFF, "")
    try:
        return Ending(pid, 128 + number, signal.Signals(number).name.removeprefix("SIG"))
    except ValueError:
        return Ending(pid, 128 + number, f"RTMIN+{number - signal.SIGRTMIN}")


def _attach_filter(listener: socket.socket) -> None:
    """Classic BPF (loads are big-endian): exits of whole processes with another status than 0, nothing else."""
    load, same, different, keep, drop = 0x20, 0x15, 0x15, 0x06, 0x06
    wanted = int.from_bytes(struct.pack("=I", _PROC_EVENT_EXIT), "big")
    program = (_Instruction * 9)(
        _Instruction(load, 0, 0, _WHAT_AT),
        _Instruction(same, 0, 6, wanted),
        _Instruction(load, 0, 0, _EXIT_AT + 8),
        _Instruction(different, 4, 0, 0),
        _Instruction(load, 0, 0, _EXIT_AT),
        _Instruction(0x07, 0, 0, 0),  # the pid to X
        _Instruction(load, 0, 0, _EXIT_AT + 4),
        _Instruction(0x1D, 1, 0, 0),  # the same as X: it was the process, not one of its threads
        _Instruction(drop, 0, 0, 0),
    )
    whole = (_Instruction * 10)(*program, _Instruction(keep, 0, 0, 0xFFFFFFFF))
    description = _Program(len(whole), whole)
    pointer = ctypes.string_at(ctypes.byref(description), ctypes.sizeof(description))
    listener.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_FILTER, pointer)
