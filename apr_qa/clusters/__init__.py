"""Clusters: batches are worked on at nodes instead of in children of this process; nothing else is different.

The plan, the evidence file, its lock and the line that stops stay where the run was started. A node needs the
package, its engines, and the artifacts: from a cache of its own, by a shared path, or sent by the run.
"""

from __future__ import annotations

from importlib.util import find_spec
from pkgutil import resolve_name
from typing import Any, Protocol

from apr_qa.errors import EngineMissing, UsageError

ENGINES = ("local", "dask", "ray")
"""What can dispatch batches; ``local`` is this machine without any of them."""
_PACKAGES = {"dask": "distributed", "ray": "ray"}
_OPENED_BY = {"dask": "apr_qa.clusters.dask:Dask", "ray": "apr_qa.clusters.ray:Ray"}


class NodeLost(Exception):
    """The nodes that worked on something died over it, twice."""


class Pending(Protocol):
    """Work that was handed to a cluster."""

    def result(self, timeout_s: float) -> bytes | None:
        """Return what came of it, None while it is not finished; raises NodeLost."""
        ...

    def cancel(self) -> None:
        """Give it up: it does not begin, and ends soon if it has begun."""
        ...


class Cluster(Protocol):
    """Nodes that take work; every slot of a node works on one thing at a time."""

    slots: int
    threads: int
    """Cores that the work in one slot may use."""

    def submit(self, task: bytes, node: str = "") -> Pending:
        """Hand a task to a node, to the named one if any; one that kills its node is tried once more elsewhere."""
        ...

    def store(self, node: str, piece: dict[str, Any]) -> None:
        """Have a node keep one piece of a file and wait until it has."""
        ...

    def close(self) -> None:
        """Leave the cluster; one that was started for the run ends."""
        ...


def require(engine: str) -> None:
    """Raise EngineMissing, with the command that installs it, if the package of a cluster is not there."""
    package = _PACKAGES.get(engine)
    if package is not None and find_spec(package) is None:
        raise EngineMissing(
            f"--engine {engine} needs a package that is not installed: {package}",
            fix=f"pip install 'apr-qa[{engine}]'",
        )


def connect(engine: str, scheduler: str, slots: int = 0) -> Cluster:
    """Return a cluster: the one at the address ``scheduler``, or one on this machine if there is no address.

    ``slots`` limits how much is worked on at the same time. Raises EngineMissing with the command that installs
    what is missing, and EnvironmentFault when nobody answers.
    """
    if engine not in _OPENED_BY:
        raise UsageError(f"no cluster is called {engine!r}", fix=f"one of {', '.join(_OPENED_BY)}")
    require(engine)
    cluster: Cluster = resolve_name(_OPENED_BY[engine])(scheduler, slots)
    return cluster
