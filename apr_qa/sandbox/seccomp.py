"""A seccomp filter that takes from a process what no program under test needs: sockets, processes, the kernel.

Threads and files remain, but not the owner, mode, times and attributes of files, which Landlock leaves open.
The numbers are those of the two architectures given; elsewhere there is no filter.
"""

from __future__ import annotations

import ctypes
import errno
import functools
import platform
import struct

from apr_qa.sandbox import kernel

_X86_64 = {
    "socket": 41, "connect": 42, "accept": 43, "bind": 49, "listen": 50,
    "fork": 57, "vfork": 58, "execve": 59, "kill": 62, "ptrace": 101, "setuid": 105, "setgid": 106,
    "setpgid": 109, "setsid": 112, "setreuid": 113, "setregid": 114, "setgroups": 116, "setresuid": 117,
    "setresgid": 119, "capset": 126, "mknod": 133, "uselib": 134, "personality": 135, "pivot_root": 155,
    "chroot": 161, "acct": 163, "mount": 165, "umount2": 166, "swapon": 167, "reboot": 169,
    "sethostname": 170, "init_module": 175, "tkill": 200, "add_key": 248, "request_key": 249, "keyctl": 250,
    "mknodat": 259, "unshare": 272, "vmsplice": 278, "accept4": 288, "perf_event_open": 298,
    "fanotify_init": 300, "name_to_handle_at": 303, "open_by_handle_at": 304, "setns": 308,
    "process_vm_readv": 310, "process_vm_writev": 311, "kcmp": 312, "finit_module": 313,
    "memfd_create": 319, "kexec_load": 246, "bpf": 321, "execveat": 322, "userfaultfd": 323,
    "shmget": 29, "shmat": 30, "semget": 64, "msgget": 68, "mq_open": 240, "tgkill": 234,
    "rt_sigqueueinfo": 129, "rt_tgsigqueueinfo": 297, "chmod": 90, "fchmod": 91, "chown": 92, "fchown": 93,
    "lchown": 94, "utime": 132, "setxattr": 188, "lsetxattr": 189, "fsetxattr": 190, "removexattr": 197,
    "lremovexattr": 198, "fremovexattr": 199, "utimes": 235, "fchownat": 260, "futimesat": 261,
    "fchmodat": 268, "utimensat": 280,
}  # fmt: skip
_AARCH64 = {
    "unshare": 97, "mknodat": 33, "umount2": 39, "mount": 40, "pivot_root": 41, "chroot": 51, "vmsplice": 75,
    "acct": 89, "personality": 92, "capset": 91, "kexec_load": 104, "init_module": 105, "ptrace": 117,
    "kill": 129, "tkill": 130, "reboot": 142, "setregid": 143, "setgid": 144, "setreuid": 145, "setuid": 146,
    "setresuid": 147, "setresgid": 149, "setpgid": 154, "setsid": 157, "setgroups": 159, "sethostname": 161,
    "mq_open": 180, "msgget": 186, "semget": 190, "shmget": 194, "shmat": 196, "socket": 198, "bind": 200,
    "listen": 201, "accept": 202, "connect": 203, "add_key": 217,
    "request_key": 218, "keyctl": 219, "execve": 221, "swapon": 224, "perf_event_open": 241, "accept4": 242,
    "tgkill": 131, "rt_sigqueueinfo": 138, "rt_tgsigqueueinfo": 240, "fanotify_init": 262,
    "name_to_handle_at": 264, "open_by_handle_at": 265, "setns": 268,
    "process_vm_readv": 270, "process_vm_writev": 271, "kcmp": 272, "finit_module": 273,
    "memfd_create": 279, "bpf": 280, "execveat": 281, "userfaultfd": 282, "setxattr": 5, "lsetxattr": 6,
    "fsetxattr": 7, "removexattr": 14, "lremovexattr": 15, "fremovexattr": 16, "fchmod": 52, "fchmodat": 53,
    "fchownat": 54, "fchown": 55, "utimensat": 88,
}  # fmt: skip
_ALIKE = {
    "pidfd_send_signal": 424, "io_uring_setup": 425, "io_uring_enter": 426, "io_uring_register": 427,
    "open_tree": 428, "move_mount": 429, "fsopen": 430, "fsconfig": 431, "fsmount": 432, "fspick": 433,
    "pidfd_open": 434, "pidfd_getfd": 438, "process_madvise": 440, "mount_setattr": 442,
    "memfd_secret": 447, "fchmodat2": 452, "setxattrat": 463, "removexattrat": 466, "file_setattr": 469,
}  # fmt: skip
"""Calls with one number on every architecture."""

_ARCHITECTURES = {
    "x86_64": (0xC000003E, _X86_64, 56, 0x40000000),
    "aarch64": (0xC00000B7, _AARCH64, 220, 0),
}
"""Machine -> audit number, calls, number of ``clone``, bit of a second call table."""

_CLONE3 = 435
_CLONE_THREAD = 0x10000
_LOAD, _EQUAL, _SET, _RETURN = 0x20, 0x15, 0x45, 0x06  # BPF: ld w abs, jeq k, jset k, ret k
_ALLOW, _KILL, _ERRNO = 0x7FFF0000, 0x80000000, 0x00050000
_NR, _ARCH, _FIRST_ARGUMENT = 0, 4, 16  # offsets in struct seccomp_data
_INSTRUCTION = struct.Struct("=HBBI")
_PR_SET_SECCOMP, _MODE_FILTER = 22, 2


def available() -> bool:
    """Say whether this kernel takes a filter and this machine's call numbers are known."""
    try:
        kernel.call("prctl", ctypes.c_int(21), *[ctypes.c_ulong(0)] * 4)  # PR_GET_SECCOMP
    except OSError:
        return False
    return platform.machine() in _ARCHITECTURES and struct.calcsize("P") == 8


def install() -> None:
    """Filter this process and all its threads for good; needs `kernel.forbid_new_privileges` first."""
    instructions = compiled()
    held = ctypes.create_string_buffer(instructions, len(instructions))
    header = struct.pack("@HP", len(instructions) // _INSTRUCTION.size, ctypes.addressof(held))
    zero = ctypes.c_ulong(0)
    kernel.call(
        "prctl",
        ctypes.c_int(_PR_SET_SECCOMP),
        ctypes.c_ulong(_MODE_FILTER),
        ctypes.c_char_p(header),
        zero,
        zero,
    )


@functools.cache
def compiled() -> bytes:
    """Return the filter as the kernel reads it; the server calls this once, before it forks."""
    program = _program(*_ARCHITECTURES[platform.machine()])
    return b"".join(_INSTRUCTION.pack(*instruction) for instruction in program)


def _program(
    audit: int, calls: dict[str, int], clone: int, second_table: int
) -> list[tuple[int, int, int, int]]:
    denied = _ERRNO | errno.EPERM
    program = [(_LOAD, 0, 0, _ARCH), (_EQUAL, 1, 0, audit), (_RETURN, 0, 0, _KILL), (_LOAD, 0, 0, _NR)]
    if second_table:  # the same calls under other numbers
        program += [(_SET, 0, 1, second_table), (_RETURN, 0, 0, _KILL)]
    # The C library takes ENOSYS for an old kernel and falls back to clone, whose flags can be seen.
    program += [(_EQUAL, 0, 1, _CLONE3), (_RETURN, 0, 0, _ERRNO | errno.ENOSYS)]
    for number in sorted({*calls.values(), *_ALIKE.values()}):
        program += [(_EQUAL, 0, 1, number), (_RETURN, 0, 0, denied)]
    program += [
        (_EQUAL, 0, 3, clone),
        (_LOAD, 0, 0, _FIRST_ARGUMENT),
        (_SET, 1, 0, _CLONE_THREAD),
        (_RETURN, 0, 0, denied),
        (_RETURN, 0, 0, _ALLOW),
    ]
    return program
