"""Ray: a cluster that is there already, or this machine."""

from __future__ import annotations

from typing import Any

import ray

from apr_qa.clusters import NodeLost, node
from apr_qa.errors import EnvironmentFault

STORE_S = 600


class Ray:
    """A connection to a Ray cluster."""

    def __init__(self, address: str, slots: int) -> None:
        try:
            ray.init(
                address=address or None, log_to_driver=False, include_dashboard=False, logging_level="error"
            )
        except (ConnectionError, OSError, ValueError, RuntimeError) as refused:
            raise EnvironmentFault(
                f"no Ray cluster answers: {refused}", where=address, fix="start one: ray start --head"
            ) from None
        nodes = [int(each["Resources"].get("CPU", 0)) for each in ray.nodes() if each["Alive"]]
        cores = max(1, sum(nodes))
        self.slots = min(slots or cores, cores)
        self.threads = max(1, min(cores // self.slots, *(count for count in nodes if count), cores))
        # What dies with its node is repeated once, which is Ray's own doing.
        self._work = ray.remote(max_retries=node.TRIALS - 1, num_cpus=self.threads)(_work)
        self._store = ray.remote(num_cpus=0)(node.store)

    def submit(self, task: bytes, node: str = "") -> Handed:
        work = self._work.options(scheduling_strategy=_at(node, soft=True)) if node else self._work
        return Handed(work.remote(task))

    def store(self, node: str, piece: dict[str, Any]) -> None:
        ray.get(self._store.options(scheduling_strategy=_at(node, soft=False)).remote(piece), timeout=STORE_S)

    def close(self) -> None:
        ray.shutdown()


class Handed:
    """A reference to a result."""

    def __init__(self, reference: Any) -> None:
        self._reference = reference

    def result(self, timeout_s: float) -> bytes | None:
        try:
            answer: bytes = ray.get(self._reference, timeout=timeout_s)
        except ray.exceptions.GetTimeoutError:
            return None
        except ray.exceptions.RayTaskError:
            raise  # an exception of ours, which was raised at the node
        except ray.exceptions.RayError as lost:
            raise NodeLost(f"{type(lost).__name__}: {lost}".splitlines()[0]) from None
        return answer

    def cancel(self) -> None:
        ray.cancel(self._reference)


def _at(node: str, *, soft: bool) -> Any:
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    return NodeAffinitySchedulingStrategy(node_id=node, soft=soft)


def _work(task: bytes) -> bytes:
    """Work on a task at a node; Ray interrupts it when it is given up."""
    return node.worked(task, ray.get_runtime_context().get_node_id(), lambda: False)
