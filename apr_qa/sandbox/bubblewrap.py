"""Bubblewrap around the fork server, where it is installed: a new root, no network, process ids of its own.

It stands outside of our own walls, which are raised within it as far as it lets them. Where distributions forbid user
namespaces to all but a few programs, bubblewrap is one of these few.
"""

from __future__ import annotations

import shutil
import sys
import sysconfig
from collections.abc import Iterator
from pathlib import Path

PROGRAM = "bwrap"
_LIBRARIES = ("/lib", "/lib32", "/lib64", "/usr/lib", "/usr/lib64", "/usr/share/zoneinfo")
_MOUNT_POINT = "/mnt"
"""An empty folder that our own walls build their root on."""


def installed() -> str:
    """Return where the program is, or an empty text."""
    return shutil.which(PROGRAM) or ""


def wrappers(scratch: str, package: str) -> Iterator[list[str]]:
    """Iterate over command lines to put before an interpreter's, the strongest first; none without bubblewrap.

    ``scratch`` can be written to; ``package`` is the folder of our modules. Capabilities hold in the namespace
    alone and only for the server, which raises our own walls with them. Containers often forbid to mount /proc,
    which these need.
    """
    program = installed()
    if not program:
        return
    shown = [argument for path in _shown(package) for argument in _show(path)]
    fixed = [program, "--unshare-all", "--die-with-parent", "--dir", _MOUNT_POINT, *shown, "--dev", "/dev"]
    for capabilities in ("--cap-add", "--cap-drop"):
        for proc in (["--proc", "/proc"], []):
            inside = [*proc, "--bind", scratch, scratch, "--chdir", "/", capabilities, "ALL"]
            yield [*fixed, *inside, "--"]


def _shown(package: str) -> list[Path]:
    """Return what an interpreter needs, shorter paths first, nothing twice."""
    own = (sysconfig.get_path("stdlib"), sysconfig.get_path("platstdlib"), sysconfig.get_config_var("LIBDIR"))
    interpreter = Path(sys.executable).resolve().parent
    wanted = {Path(path).resolve() for path in own if path} | {interpreter, Path(package)}
    wanted |= {Path(path) for path in _LIBRARIES}
    return sorted((path for path in wanted if path.is_dir()), key=lambda path: (len(path.parts), str(path)))


def _show(path: Path) -> list[str]:
    if path.is_symlink():
        return ["--symlink", str(path.readlink()), str(path)]
    return ["--ro-bind", str(path), str(path)]
