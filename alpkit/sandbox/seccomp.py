"""The system calls that a snippet may not make, as a program for the kernel's filter.

Namespaces and limits contain what a snippet can reach; this closes what they leave open: memory that no limit
counts (memfd, System V), sockets that no network namespace holds (vsock), namespaces of its own, and the calls
through which holes in a kernel are usually found. A call that is refused fails with EPERM.

Usage: `program("x86_64")`.
"""

import struct
from typing import Final, NamedTuple


class _Machine(NamedTuple):
    """The kernel's number of an architecture, and of its system calls."""

    audit: int
    clone: int
    clone3: int
    socket: int
    refused: dict[str, int]


# The same number on every machine since 2018.
_COMMON: Final = {
    "pidfd_getfd": 438, "io_uring_setup": 425, "io_uring_enter": 426, "io_uring_register": 427,
    "open_tree": 428, "move_mount": 429, "fsopen": 430, "fsconfig": 431, "fsmount": 432, "fspick": 433,
    "process_madvise": 440, "mount_setattr": 442, "memfd_secret": 447,
}  # fmt: skip
MACHINES: Final = {
    "x86_64": _Machine(
        0xC000003E, 56, 435, 41,
        {
            "ptrace": 101, "process_vm_readv": 310, "process_vm_writev": 311, "kcmp": 312,
            "unshare": 272, "setns": 308, "chroot": 161, "pivot_root": 155, "mount": 165, "umount2": 166,
            "shmget": 29, "semget": 64, "msgget": 68, "mq_open": 240, "memfd_create": 319,
            "add_key": 248, "request_key": 249, "keyctl": 250, "bpf": 321, "perf_event_open": 298,
            "userfaultfd": 323, "fanotify_init": 300, "name_to_handle_at": 303, "open_by_handle_at": 304,
            "quotactl": 179, "acct": 163, "reboot": 169, "swapon": 167, "kexec_load": 246,
            "kexec_file_load": 320, "init_module": 175, "finit_module": 313, "delete_module": 176,
            **_COMMON,
        },
    ),
    "aarch64": _Machine(
        0xC00000B7, 220, 435, 198,
        {
            "ptrace": 117, "process_vm_readv": 270, "process_vm_writev": 271, "kcmp": 272,
            "unshare": 97, "setns": 268, "chroot": 51, "pivot_root": 41, "mount": 40, "umount2": 39,
            "shmget": 194, "semget": 190, "msgget": 186, "mq_open": 180, "memfd_create": 279,
            "add_key": 217, "request_key": 218, "keyctl": 219, "bpf": 280, "perf_event_open": 241,
            "userfaultfd": 282, "fanotify_init": 262, "name_to_handle_at": 264, "open_by_handle_at": 265,
            "quotactl": 60, "acct": 89, "reboot": 142, "swapon": 224, "kexec_load": 104,
            "kexec_file_load": 294, "init_module": 105, "finit_module": 273, "delete_module": 106,
            **_COMMON,
        },
    ),
}  # fmt: skip
"""Machines for which the numbers are known: elsewhere nothing counts as isolated."""

_LOAD, _EQUAL, _AT_LEAST, _ANY_BIT, _RETURN = 0x20, 0x15, 0x35, 0x45, 0x06
_NUMBER, _AUDIT, _FIRST_ARGUMENT = 0, 4, 16
_ALLOW, _KILL, _ERRNO = 0x7FFF0000, 0x80000000, 0x00050000
_EPERM, _ENOSYS, _EAFNOSUPPORT = 1, 38, 97
_NEW_NAMESPACES: Final = 0x7E020080
"""Every CLONE_NEW… flag of clone."""
_FAMILIES: Final = (1, 2, 10)
"""AF_UNIX, AF_INET, AF_INET6: the families that the network namespace holds."""
_X32 = 0x40000000


def program(machine: str) -> bytes:
    """Write the filter for a machine of `MACHINES`, as the array of instructions that prctl takes."""
    numbers = MACHINES[machine]
    code = [
        _step(_LOAD, _AUDIT),
        _step(_EQUAL, numbers.audit, yes=1),
        _step(_RETURN, _KILL),  # a call of another architecture, with numbers of its own
        _step(_LOAD, _NUMBER),
        _step(_AT_LEAST, _X32, no=1),
        _step(_RETURN, _ERRNO | _EPERM),
    ]
    for number in numbers.refused.values():
        code += [_step(_EQUAL, number, no=1), _step(_RETURN, _ERRNO | _EPERM)]
    # clone3 hides its flags behind a pointer; the C library then falls back to clone.
    code += [_step(_EQUAL, numbers.clone3, no=1), _step(_RETURN, _ERRNO | _ENOSYS)]
    code += [
        _step(_EQUAL, numbers.clone, no=4),
        _step(_LOAD, _FIRST_ARGUMENT),
        _step(_ANY_BIT, _NEW_NAMESPACES, no=1),
        _step(_RETURN, _ERRNO | _EPERM),
        _step(_RETURN, _ALLOW),
    ]
    families = [
        step
        for family in _FAMILIES
        for step in (_step(_EQUAL, family, no=1), _step(_RETURN, _ALLOW))
    ]
    code += [
        _step(_EQUAL, numbers.socket, no=2 + len(families)),
        _step(_LOAD, _FIRST_ARGUMENT),
        *families,
        _step(_RETURN, _ERRNO | _EAFNOSUPPORT),
    ]
    return b"".join([*code, _step(_RETURN, _ALLOW)])


def _step(code: int, value: int, *, yes: int = 0, no: int = 0) -> bytes:
    """One instruction; `yes` and `no` are how many instructions a comparison jumps over."""
    return struct.pack("=HBBI", code, yes, no, value)
