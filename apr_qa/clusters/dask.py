"""Dask: a scheduler that is there already, or two processes and more on this machine."""

from __future__ import annotations

import threading
from typing import Any
from uuid import uuid4

import distributed

from apr_qa.clusters import NodeLost, node
from apr_qa.devices import usable_cores
from apr_qa.errors import EnvironmentFault

CONNECT_S = 30
STORE_S = 600
_COUNTS = "apr-qa"
"""Where the scheduler keeps how often a task has begun."""


class Dask:
    """A connection to a Dask scheduler."""

    def __init__(self, address: str, slots: int) -> None:
        try:
            if address:
                self._client = distributed.Client(address, timeout=CONNECT_S, set_as_default=False)
                self._client.wait_for_workers(1, timeout=CONNECT_S)
            else:
                count = slots or usable_cores()
                local = distributed.LocalCluster(
                    n_workers=count, threads_per_worker=1, processes=True, dashboard_address=None
                )
                self._client = distributed.Client(local, set_as_default=False)
        except (OSError, TimeoutError) as refused:
            raise EnvironmentFault(
                f"no Dask scheduler with workers answers: {refused}",
                where=address,
                fix="start one: dask scheduler, and dask worker ADDRESS on each node",
            ) from None
        self._cluster = None if address else local
        busy = self._client.nthreads()
        self.slots = min(slots or 10**6, sum(busy.values()))
        self.threads = self._fair_share(busy)

    def _fair_share(self, busy: dict[str, int]) -> int:
        """Return the cores that each slot may use on the node where they are scarcest."""
        cores = self._client.run(usable_cores)
        on_host: dict[str, int] = {}
        for worker, slots in busy.items():
            host = worker.rpartition(":")[0]
            on_host[host] = on_host.get(host, 0) + slots
        share: int = min(cores[worker] // on_host[worker.rpartition(":")[0]] for worker in busy)
        return max(1, share)

    def submit(self, task: bytes, node: str = "") -> Handed:
        key = f"apr-qa-{uuid4().hex}"
        place = {"workers": [node], "allow_other_workers": True} if node else {}
        return Handed(self._client.submit(_work, task, key, key=key, pure=False, **place))

    def store(self, node_address: str, piece: dict[str, Any]) -> None:
        stored = self._client.submit(node.store, piece, pure=False, workers=[node_address])
        stored.result(timeout=STORE_S)

    def close(self) -> None:
        self._client.close()
        if self._cluster is not None:
            self._cluster.close()


class Handed:
    """A future of the scheduler's."""

    def __init__(self, future: Any) -> None:
        self._future = future
        self._finished = threading.Event()
        future.add_done_callback(lambda _: self._finished.set())

    def result(self, timeout_s: float) -> bytes | None:
        if not self._finished.wait(timeout_s):
            return None
        try:
            answer: bytes = self._future.result(timeout=STORE_S)
        except (distributed.KilledWorker, distributed.CancelledError) as lost:
            raise NodeLost(f"{lost}") from None
        if not answer:
            raise NodeLost("two nodes died while they worked on it")
        return answer

    def cancel(self) -> None:
        self._future.cancel()


def _work(task: bytes, key: str) -> bytes:
    """Work on a task at a node; empty if two nodes have died over it already.

    Dask repeats what a lost node was doing as often as its scheduler is set to; here once is enough.
    """
    worker = distributed.get_worker()
    client = distributed.get_client()
    begun = client.get_metadata([_COUNTS, key], 0) + 1
    client.set_metadata([_COUNTS, key], begun)
    if begun > node.TRIALS:
        return b""

    def given_up() -> bool:
        state = worker.state.tasks.get(key)
        return state is None or state.state == "cancelled"

    return node.worked(task, worker.address, given_up)
