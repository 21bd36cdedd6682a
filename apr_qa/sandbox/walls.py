"""The walls around untrusted code: which of them this machine can raise, and raising them.

Three things must hold, each by one mechanism at least: *files* (a mount namespace that shows the standard library
and nothing else, or Landlock), *network* (an empty network namespace, or seccomp without sockets), *processes*
(a process-id namespace that dies with its first process, or seccomp without fork). Whatever else can be had is
added. The outer walls are raised once by the server, the inner ones in each process that runs foreign code.
"""

from __future__ import annotations

import contextlib
import os
import resource
import sys
import sysconfig
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from apr_qa.sandbox import Limits, kernel, landlock, seccomp

SCRATCH = "/scratch"
_MOUNT_POINTS = ("/mnt", "/media", "/srv", "/opt", "/tmp")  # noqa: S108 - places to mount on, in a namespace
_LIBRARIES = ("/lib", "/lib32", "/lib64", "/usr/lib", "/usr/lib64", "/usr/share/zoneinfo")
_CHANGE_IDS = 1 << 6 | 1 << 7
"""CAP_SETGID and CAP_SETUID."""
_PACKAGES = ("site-packages", "dist-packages")
_NAMESPACES = kernel.CLONE_NEWNS | kernel.CLONE_NEWNET | kernel.CLONE_NEWIPC | kernel.CLONE_NEWUTS


@dataclass
class Walls:
    """What stands on this machine."""

    user_namespace: bool = False
    mounts: bool = False
    network: bool = False
    processes: bool = False
    landlock: int = 0
    """Interface version."""
    seccomp: bool = False
    first_uid: int = 0
    """Each process gets a user id of its own from here on; 0: all keep the one they have."""
    readable: tuple[str, ...] = ()
    """Folders that a program may read."""
    scratch: str = ""
    """Folder for scratch folders, where no mount namespace gives each process its own."""
    refusals: tuple[str, ...] = ()
    """What the kernel did not allow, with its words."""
    bubblewrap: bool = False
    """Whether all of this stands inside of bubblewrap."""

    @property
    def missing(self) -> list[str]:
        """Name what nothing isolates."""
        held = {
            "files": self.mounts or self.landlock > 0 or self.bubblewrap,
            "network": self.network or self.seccomp or self.bubblewrap,
            "processes": self.processes or self.seccomp,
        }
        return [name for name, is_held in held.items() if not is_held]

    def to_json(self) -> dict[str, Any]:
        return {**asdict(self), "missing": self.missing}


def raise_outer(
    scratch: str, without: Sequence[str], bubblewrap: bool = False, refusals: Sequence[str] = ()
) -> Walls:
    """Raise what holds for all trials; the next child is the first of its process-id namespace.

    ``without`` names what to leave out: privileges, namespaces, landlock, seccomp. ``bubblewrap`` says that it
    stands around this process, ``refusals`` why it does not.
    """
    if "privileges" in without:
        kernel.drop_capabilities()
    walls = Walls(
        scratch=scratch,
        first_uid=_first_uid(),
        readable=tuple(_library_folders()),
        refusals=tuple(refusals),
        bubblewrap=bubblewrap,
    )
    if "namespaces" not in without:
        _enter_namespaces(walls)
    if not walls.mounts and not _readable_by_all(walls.readable):
        walls.first_uid = 0
    if "landlock" not in without:
        walls.landlock = landlock.version()
    walls.seccomp = "seccomp" not in without and seccomp.available()
    if walls.seccomp:
        seccomp.compiled()
    return walls


def _first_uid() -> int:
    """Return the first of a range of user ids that nobody else has, or 0 where ids cannot be changed."""
    try:
        status = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
        held = next(int(line.split()[1], 16) for line in status if line.startswith("CapEff:"))
        ranges = Path("/proc/self/uid_map").read_text(encoding="ascii").splitlines()
        start, _, count = max((list(map(int, line.split())) for line in ranges), key=lambda row: row[2])
    except (OSError, ValueError, StopIteration):
        return 0
    changeable = held & _CHANGE_IDS == _CHANGE_IDS and count >= 1 << 16
    return start + count // 2 if changeable else 0


def _readable_by_all(paths: Sequence[str]) -> bool:
    """Say whether a user without rights can get at the library: an interpreter in /root/ is root's alone."""
    folders = {folder for path in paths for folder in (Path(path), *Path(path).parents)}
    return all(folder.stat().st_mode & 0o001 for folder in folders)


def _enter_namespaces(walls: Walls) -> None:
    uid, gid = os.geteuid(), os.getegid()
    for extra in (0, kernel.CLONE_NEWUSER):
        try:
            if extra:
                _try_user_namespace(uid, gid)
            kernel.unshare(_NAMESPACES | kernel.CLONE_NEWPID | extra)
        except OSError as error:
            walls.refusals += (f"{'user ' if extra else ''}namespaces: {error.strerror}",)
            continue
        if extra:
            _map_user(uid, gid)
            walls.first_uid = 0
        walls.user_namespace, walls.network, walls.processes = bool(extra), True, True
        break
    if not walls.network:
        return
    try:
        kernel.make_mounts_private()
        _build_root(walls.readable)
        walls.mounts = True
    except OSError as error:
        walls.refusals += (f"mounts: {error.strerror}",)


def _try_user_namespace(uid: int, gid: int) -> None:
    """Enter a user namespace in a child first: there is no way back from one that is of no use."""
    pid = os.fork()
    if pid == 0:
        code = 0
        try:
            kernel.unshare(kernel.CLONE_NEWUSER)
            _map_user(uid, gid)
        except OSError as error:
            code = error.errno or 1
        os._exit(code)
    code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    if code:
        raise OSError(code, os.strerror(code))


def _map_user(uid: int, gid: int) -> None:
    for name, content in (
        ("setgroups", "deny"),
        ("uid_map", f"{uid} {uid} 1"),
        ("gid_map", f"{gid} {gid} 1"),
    ):
        Path(f"/proc/self/{name}").write_text(content, encoding="ascii")


def _library_folders() -> list[str]:
    """Return the folders of the standard library, which are all of ``sys.path`` here, and of shared libraries."""
    own = {*sys.path, sysconfig.get_config_var("LIBDIR") or "/usr/lib"}
    real = {str(Path(path).resolve()) for path in own if path}
    # /lib and /usr/lib are one folder on most systems; in a new root both names must lead there.
    return sorted({path for path in (*real, *_LIBRARIES) if Path(path).is_dir()})


def _build_root(shown: Sequence[str]) -> None:
    """Make a root that holds the readable folders, without installed packages, and an empty scratch."""
    root = next(
        point
        for point in _MOUNT_POINTS
        if Path(point).is_dir() and not any(path.startswith(f"{point}/") for path in shown)
    )
    kernel.mount_tmpfs(root, "size=1m,mode=0755")
    for path in sorted(shown, key=len):
        _show(Path(path), Path(root + path))
    for folder in (SCRATCH, "/dev", "/proc"):
        Path(root + folder).mkdir(parents=True, exist_ok=True)
    temporary = Path(root) / "tmp"
    if not temporary.exists():
        temporary.symlink_to(SCRATCH)
    for path in shown:
        for packages in _PACKAGES:
            for found in (*Path(root + path).glob(packages), *Path(root + path).glob(f"python*/{packages}")):
                kernel.mount_tmpfs(str(found), "size=4k,mode=0555")
                kernel.make_read_only(str(found), recursive=False)
    kernel.make_read_only(root, recursive=False)
    kernel.pivot_root(root)


def _show(path: Path, target: Path) -> None:
    if target.is_symlink() or target.exists():  # it lies in a folder that is shown already
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    if path.is_symlink():
        target.symlink_to(path.readlink())
        return
    target.mkdir()
    kernel.bind_read_only(str(path), str(target))


def confine(walls: Walls, limits: Limits, number: int, descriptors: Sequence[int]) -> None:
    """Make this process the place for foreign code: ``descriptors`` become 3, 4, …, and nothing else is left.

    ``number`` is unique among all processes of the server: it chooses the user id.
    """
    os.setsid()
    uid = walls.first_uid + number if walls.first_uid else 0
    scratch = _scratch(walls, limits, number, uid)
    os.chdir(scratch)
    os.environ.update(HOME=scratch, TMPDIR=scratch)
    tempfile.tempdir = scratch
    _keep_only(descriptors)
    _limit(limits)
    if uid:
        os.setgroups([])
        os.setresgid(uid, uid, uid)
        os.setresuid(uid, uid, uid)
    with contextlib.suppress(OSError):  # not on Linux
        kernel.die_with_parent()
        kernel.forbid_new_privileges()
        kernel.hide_memory()
        kernel.drop_capabilities()
    if walls.landlock:
        landlock.confine(walls.readable, [scratch])
    if walls.seccomp:
        seccomp.install()


def _scratch(walls: Walls, limits: Limits, number: int, uid: int) -> str:
    if walls.mounts:
        kernel.unshare(kernel.CLONE_NEWNS)
        kernel.mount_tmpfs(SCRATCH, f"size={limits.disk_mb}m,nr_inodes=4096,mode=0777")
        return SCRATCH
    folder = own_scratch(walls, number)
    Path(folder).mkdir(mode=0o700)
    if uid:
        os.chown(folder, uid, uid)
    return folder


def own_scratch(walls: Walls, number: int) -> str:
    """Return the scratch folder of one process where no mount namespace gives it one."""
    return f"{walls.scratch}/{number}"


def _keep_only(descriptors: Sequence[int]) -> None:
    null = os.open(os.devnull, os.O_RDWR) if Path(os.devnull).exists() else 0
    high = [os.dup2(fd, 512 + index) for index, fd in enumerate(descriptors)]
    for standard in (0, 1, 2):
        os.dup2(null, standard)
    for index, fd in enumerate(high):
        os.dup2(fd, 3 + index)
    os.closerange(3 + len(high), 1024)


def _limit(limits: Limits) -> None:
    memory, disk = limits.memory_mb << 20, limits.disk_mb << 20
    for kind, soft, hard in (
        ("RLIMIT_AS", memory, memory),
        ("RLIMIT_CPU", limits.cpu_s, limits.cpu_s),
        ("RLIMIT_FSIZE", disk, disk),
        ("RLIMIT_NPROC", limits.threads, limits.threads),
        ("RLIMIT_NOFILE", 64, 64),
        ("RLIMIT_CORE", 0, 0),
    ):
        if hasattr(resource, kind):
            with contextlib.suppress(ValueError, OSError):  # a lower limit stands already
                resource.setrlimit(getattr(resource, kind), (soft, hard))
