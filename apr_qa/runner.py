"""Batches to evidence: isolation, time limits, and the line that stops.

Every batch runs in a child process of its own. A child that dies or hangs is blamed exactly: the unanswered
members of the group it was working on are tried again one at a time, so that one bad prompt costs one
scenario. What was stopped before it ran is ``skipped``; what was cut off by an interrupt is not recorded,
so that a resumed run does it again.
"""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import groupby
from typing import Any

import msgspec

from apr_qa import clock, processes
from apr_qa.plan import Batch
from apr_qa.processes import with_last_words
from apr_qa.serving import commands as servers
from apr_qa.vocabulary import (
    FILE_MODALITIES,
    Evidence,
    Judgement,
    Outcome,
    Record,
    Response,
    Scenario,
    Severity,
)
from apr_qa.worker import Job

POLL_S = 0.2

Judge = Callable[[Scenario, Response], tuple[Judgement, dict[str, Any]]]


class Limits(Record, frozen=True):
    """Seconds that each thing may take."""

    scenario_s: float = 60.0
    load_s: float = 300.0
    budget_s: float = 0.0
    """For the whole run; 0 means no limit."""


class Line:
    """The production line: records evidence and stops when the failure policy says so (Jidoka)."""

    def __init__(
        self,
        policy: str,
        record: Callable[[Evidence], None],
        *,
        andon: Callable[[Evidence], None] = lambda _: None,
        budget_s: float = 0.0,
    ) -> None:
        self.policy = policy
        self.reason = ""
        self.interrupted = False
        self._record = record
        self._andon = andon
        self._lock = threading.Lock()
        self._deadline = time.monotonic() + budget_s if budget_s else float("inf")
        self.unmade: dict[str, str] = {}
        """Path of a file that our converter cannot make -> why; claims about it are inapplicable."""

    def observe(self, evidence: Evidence) -> None:
        """Record an entry and stop the line if it is one that the policy stops for."""
        with self._lock:
            if self.interrupted:
                return
            self._record(evidence)
            if not self.reason and self._stops(evidence):
                self.reason = f"the line was stopped by {evidence.gate_id} ({evidence.id})"
                self._andon(evidence)

    def _stops(self, evidence: Evidence) -> bool:
        if not evidence.outcome.failed or self.policy == "collect_all":
            return False
        if self.policy == "stop_on_p0":
            # A crash or a hang falsifies the stability gateway, whatever the claim was about.
            return evidence.severity is Severity.P0 or evidence.outcome is not Outcome.FALSIFIED
        return True

    def stopped(self) -> bool:
        """Say whether no new work may begin; running work is abandoned too."""
        if not self.reason and time.monotonic() > self._deadline:
            self.reason = "the time budget of the tier was used up"
        return self.interrupted or bool(self.reason)


def run(
    batches: Iterable[Batch], line: Line, judge: Judge, limits: Limits, *, jobs: int, threads: int
) -> None:
    """Work through all batches, wave by wave, ``jobs`` at a time; entries go to ``line`` as they come."""
    from joblib import Parallel, delayed

    ordered = sorted(batches, key=lambda batch: batch.wave)
    for _, wave in groupby(ordered, key=lambda batch: batch.wave):
        Parallel(n_jobs=jobs, backend="threading")(
            delayed(BatchRun(batch, line, judge, limits, threads).run)() for batch in wave
        )


class BatchRun:
    """One batch on its way through one child after another until every scenario has its evidence."""

    def __init__(self, batch: Batch, line: Line, judge: Judge, limits: Limits, threads: int) -> None:
        self.batch = batch
        self.line = line
        self.judge = judge
        self.limits = limits
        self.threads = threads
        self.pending = list(batch.scenarios)
        self.group: list[str] = []
        self.alone: set[str] = set()
        """Ids that were in a group which died: they are tried one at a time."""
        self.server: processes.Child | None = None
        self.endpoint = batch.endpoint

    def run(self) -> None:
        """Produce evidence for every scenario of the batch."""
        reason = self.batch.inapplicable or self.line.unmade.get(self.batch.artifact.path, "")
        if reason:
            self._settle_all(Outcome.INAPPLICABLE, reason)
        while self.pending and not self.line.stopped():
            if self.batch.target.modality == "serve" and not self.batch.endpoint:
                self._run_served()
            else:
                self._run_worker(self.pending)
        if self.line.interrupted:
            return
        self._settle_all(Outcome.SKIPPED, self.line.reason or "not run")

    # ---- settling: every scenario leaves `pending` through one of these

    def _settle(self, scenario: Scenario, outcome: Outcome, reason: str, **known: Any) -> None:
        if outcome is Outcome.INAPPLICABLE and scenario.claim.kind == "convert":
            reason = f"{reason}; bring the file with --artifact {self.batch.artifact.format}=PATH"
            self.line.unmade[self.batch.artifact.path] = reason
        self.pending = [other for other in self.pending if other.id != scenario.id]
        self.line.observe(
            Evidence(
                id=scenario.id,
                gate_id=scenario.claim.gate_id,
                severity=scenario.claim.severity,
                scenario=scenario,
                outcome=outcome,
                reason=reason,
                timestamp=clock.now(),
                **known,
            )
        )

    def _settle_all(self, outcome: Outcome, reason: str) -> None:
        for scenario in list(self.pending):
            self._settle(scenario, outcome, reason)

    def _answer(self, scenario: Scenario, response: Response) -> None:
        judgement, metrics = self.judge(scenario, response)
        self._settle(scenario, judgement.outcome, judgement.reason, response=response, metrics=metrics)

    def _not_loaded(self, outcome: Outcome, reason: str) -> None:
        """Settle a batch whose target did not load: one cause, and a failure for each claim that needed it."""
        for scenario in list(self.pending):
            if scenario.claim.kind == "load" or outcome is Outcome.INAPPLICABLE:
                self._settle(scenario, outcome, reason)
            elif self.batch.target.modality in FILE_MODALITIES:
                self._settle_file_claim(scenario, outcome, reason)
            else:
                self._settle(scenario, Outcome.FALSIFIED, f"the target did not load: {reason}")

    def _settle_file_claim(self, scenario: Scenario, outcome: Outcome, reason: str) -> None:
        """A file that cannot be opened falsifies the header claim; the others cannot be judged."""
        if scenario is self.batch.scenarios[0]:
            self._settle(scenario, outcome, reason)
        else:
            self._settle(scenario, Outcome.INCONCLUSIVE, f"the file could not be opened: {reason}")

    # ---- one worker child

    def _run_worker(self, wanted: Sequence[Scenario]) -> None:
        """Run one child until it is done, dies, hangs or the line stops."""
        suspects = [scenario for scenario in wanted if scenario.id in self.alone]
        # That the target loads is answered by the child's being ready, not by a question to it.
        scenarios = suspects or [scenario for scenario in wanted if scenario.claim.kind != "load"]
        job = Job(
            target=self._worker_target(),
            artifact=self.batch.artifact,
            source=self.batch.source,
            truth=self.batch.truth,
            scenarios=tuple(scenarios),
            threads=self.threads,
            group_size=1 if suspects else 16,
            endpoint=self.endpoint,
        )
        with processes.worker(processes.engine_environment(self.threads)) as child:
            child.send(msgspec.json.encode(job))
            if self._await_ready(child):
                self._collect(child, {scenario.id: scenario for scenario in scenarios})

    def _worker_target(self) -> Any:
        if self.batch.target.modality == "serve":
            return msgspec.structs.replace(self.batch.target, engine="openai_http")
        return self.batch.target

    def _await_ready(self, child: processes.Child) -> bool:
        message = self._receive(child, self.limits.load_s)
        if message is None:
            if not self.line.stopped():
                reason = f"the process ended while loading: {child.exit_description()}"
                self._not_loaded(Outcome.CRASHED, with_last_words(reason, child))
            return False
        if message["event"] == "late":
            self._not_loaded(Outcome.TIMEOUT, f"not loaded within {self.limits.load_s:g} s")
            return False
        if message["event"] == "refused":
            self._not_loaded(Outcome(message["outcome"]), message["reason"])
            return False
        for scenario in list(self.pending):
            if scenario.claim.kind == "load" and self.server is None:
                self._answer(scenario, Response(facts=message["facts"]))
        return True

    def _collect(self, child: processes.Child, scenarios: dict[str, Scenario]) -> None:
        self.group = []
        while True:
            message = self._receive(child, self._patience(scenarios))
            if message is None or message["event"] == "late":
                self._blame(child, late=message is not None)
                return
            event = message["event"]
            if event == "done":
                return
            if event == "started":
                self.group = list(message["ids"])
            elif event == "answer":
                self.group.remove(message["id"])
                response = msgspec.convert(message["response"], Response)
                self._answer(scenarios[message["id"]], response)
            elif event == "failed":
                self.group.remove(message["id"])
                if self.server is not None and not self.server.alive():
                    reason = f"the server died: {self.server.exit_description()}"
                    self._settle(scenarios[message["id"]], Outcome.CRASHED, reason)
                    return
                self._settle(scenarios[message["id"]], Outcome(message["outcome"]), message["reason"])

    def _patience(self, scenarios: Mapping[str, Scenario]) -> float:
        """Return the seconds that the running group may take: a claim may ask for more than the run's limit."""
        asked = [float(scenarios[i].claim.params.get("limit_s", 0)) for i in self.group if i in scenarios]
        return max(self.limits.scenario_s, *asked, 0.0)

    def _receive(self, child: processes.Child, limit_s: float) -> dict[str, Any] | None:
        """Return the next message, None when the child ended or the line stopped, or an event ``late``."""
        deadline = time.monotonic() + limit_s
        while not self.line.stopped():
            try:
                return child.receive(POLL_S)
            except queue.Empty:
                if time.monotonic() > deadline:
                    return {"event": "late"}
        return None

    def _blame(self, child: processes.Child, *, late: bool) -> None:
        """Charge a death or a hang to the one claim that was running, or find out which one it was."""
        if self.line.stopped():
            return
        if len(self.group) != 1:
            if not self.group:
                self._not_loaded(Outcome.CRASHED, with_last_words("the process ended between claims", child))
            self.alone.update(self.group)
            return
        scenario = next(other for other in self.pending if other.id == self.group[0])
        self.alone.discard(scenario.id)
        if late:
            limit = self._patience({scenario.id: scenario})
            self._settle(scenario, Outcome.TIMEOUT, f"no answer within {limit:g} s")
        else:
            reason = f"the process died while answering: {child.exit_description()}"
            self._settle(scenario, Outcome.CRASHED, with_last_words(reason, child))

    # ---- one server child, asked by workers

    def _run_served(self) -> None:
        """Start the format's server, ask it everything but the shutdown, then stop it and judge how it went."""
        port = processes.free_port()
        self.endpoint = f"http://127.0.0.1:{port}"
        command = servers.command(self.batch.target, self.batch.artifact, port, self.threads)
        with processes.server(command, processes.engine_environment(self.threads)) as self.server:
            if not self._await_server(self.server):
                return
            while self.server.alive() and not self.line.stopped():
                wanted = [s for s in self.pending if s.claim.params.get("check") != "shutdown"]
                if not wanted:
                    break
                self._run_worker(wanted)
            if self.server.alive() and not self.line.stopped():
                facts = self.server.terminate()
                for scenario in list(self.pending):
                    self._answer(scenario, Response(facts=facts))

    def _await_server(self, server: processes.Child) -> bool:
        """Wait until ``/v1/models`` answers; the load claim records how long that took."""
        from apr_qa.backends.openai_http import is_ready

        started = time.monotonic()
        while server.alive() and not self.line.stopped():
            if is_ready(self.endpoint):
                for scenario in list(self.pending):
                    if scenario.claim.kind == "load":
                        facts = {"load_s": round(time.monotonic() - started, 3)}
                        self._answer(scenario, Response(facts=facts))
                return True
            if time.monotonic() - started > self.limits.load_s:
                self._not_loaded(Outcome.TIMEOUT, f"the server was not ready within {self.limits.load_s:g} s")
                return False
            time.sleep(POLL_S)
        if not self.line.stopped():
            reason = f"the server ended before it was ready: {server.exit_description()}"
            self._not_loaded(Outcome.CRASHED, with_last_words(reason, server))
        return False
