"""One batch on its way through one child process after another until every scenario has its evidence.

A child that dies or hangs is blamed exactly: the unanswered members of the group it was working on are tried
again one at a time, so that one bad prompt costs one scenario. A child that somebody else killed is no finding:
what it was doing is done again.
"""

from __future__ import annotations

import queue
import time
from collections import Counter
from collections.abc import Iterable
from typing import Any

import msgspec

from apr_qa import processes, room, shared_imports
from apr_qa.line import Limits, Line
from apr_qa.plan import Batch
from apr_qa.processes import with_last_words
from apr_qa.protocol import GROUP_SIZE, GROWTH_BYTES, LATE, MOST_CLAIMS, Answer, Job, Message, written
from apr_qa.serving import commands as servers
from apr_qa.vocabulary import Outcome, Response, Scenario
from apr_qa.window import SIZE, Window

POLL_S = 0.2
ASKED_TOGETHER = 16
"""Claims that the time limit of one is enough for."""
KILLS_FORGIVEN = 5
"""Times that one claim, or one loading, is tried again because somebody killed the process from outside."""
SERVER_DEATH_S = 0.3
"""How long a server that has just refused is watched: its death is noticed a moment after its silence."""


class BatchRun:
    """One batch, its window of scenarios, and the children that work on it."""

    def __init__(self, batch: Batch, line: Line, window: Window, limits: Limits, threads: int) -> None:
        self.batch = batch
        self.line = line
        self.window = window
        self.limits = limits
        self.threads = threads
        self.sent: dict[int, str] = {}
        """Number of a scenario that the child has and did not answer -> its id."""
        self.count = 0
        self.group: list[str] = []
        self.patience_s = limits.scenario_s
        self.alone: set[str] = set()
        """Ids that were in a group which died: they are tried one at a time."""
        self.kills: Counter[str] = Counter()
        self.server: processes.Child | None = None
        self.endpoint = batch.endpoint
        self.facts: dict[str, Any] = {}
        self.peak_bytes = 0

    def run(self) -> None:
        """Produce evidence for every scenario of the batch."""
        batch = self.batch
        reason = batch.inapplicable or self.line.lacks(batch.artifact, batch.source, batch.truth)
        reason = reason or room.refusal(batch)
        if reason:
            self.window.settle_all(Outcome.INAPPLICABLE, reason)
        while self._left() and not self.line.stopped():
            if self.batch.target.modality == "serve" and not self.batch.endpoint:
                self._run_served()
            else:
                self._run_worker()
        self.window.settle_all(Outcome.SKIPPED, self.line.reason or "not run")

    def _left(self) -> bool:
        self.window.fill()
        return bool(self.window.pending)

    # ---- one worker child

    def _run_worker(self) -> None:
        """Run one child until it is done, dies, hangs or the line stops."""
        pending = self.window.pending
        suspects = {name: pending[name] for name in pending if name in self.alone}
        asked = suspects or self._questions(pending.items())
        self.sent = dict(enumerate(asked))
        self.count = len(asked)
        job = Job(
            target=self._worker_target(),
            artifact=self.batch.artifact,
            source=self.batch.source,
            truth=self.batch.truth,
            scenarios=tuple(asked.values()),
            threads=self.threads,
            group_size=1 if suspects else GROUP_SIZE,
            endpoint=self.endpoint,
            most_claims=MOST_CLAIMS,
            growth_bytes=GROWTH_BYTES,
            more=not suspects and not self.window.exhausted,
        )
        environment = processes.engine_environment(self.threads)
        with processes.worker(environment, shared_imports.needed(job.target)) as child:
            child.send(written(job))
            if self._await_ready(child):
                self._collect(child, feeding=job.more)

    def _questions(self, scenarios: Iterable[tuple[str, Scenario]]) -> dict[str, Scenario]:
        """Leave out what the child answers by being ready, and what the server answers by ending."""
        return {
            name: scenario
            for name, scenario in scenarios
            if scenario.claim.kind != "load" and not (self.server and _is_shutdown(scenario))
        }

    def _worker_target(self) -> Any:
        if self.batch.target.modality == "serve":
            return msgspec.structs.replace(self.batch.target, engine="openai_http")
        return self.batch.target

    def _await_ready(self, child: processes.Child) -> bool:
        message = self._receive(child, self.limits.load_s)
        if message is None:
            if not self.line.stopped() and not self._forgiven(child, "loading"):
                reason = f"the process ended while loading: {child.exit_description()}"
                reason = with_last_words(reason, child)
                self.window.not_loaded(*room.blamed(self.batch, Outcome.CRASHED, reason))
            return False
        if message is LATE:
            self.window.not_loaded(Outcome.TIMEOUT, f"not loaded within {self.limits.load_s:g} s")
            return False
        if message.event == "refused":
            self.window.not_loaded(*room.blamed(self.batch, Outcome(message.outcome), message.reason))
            return False
        if self.server is None:
            self._loaded(message.facts)
        return True

    def _loaded(self, facts: dict[str, Any]) -> None:
        """Answer the claims that the target loads: by the child's being ready, not by a question to it."""
        self.facts = facts
        for name, scenario in list(self.window.pending.items()):
            if scenario.claim.kind == "load":
                self.window.answer(name, Response(facts=facts))

    def _collect(self, child: processes.Child, *, feeding: bool) -> None:
        self._begin(())
        while True:
            if feeding and len(self.sent) <= SIZE // 2:
                feeding = self._feed(child)
            message = self._receive(child, self.patience_s)
            if message is None or message is LATE:
                self._blame(child, late=message is not None)
                return
            if message.event == "done":
                self.peak_bytes = max(self.peak_bytes, int(message.peak_memory_mb * 2**20))
                return
            if message.event == "started":
                if self.line.enough():
                    return
                self._begin(message.numbers)
            for answer in message.answers:
                if self.line.stopped() or not self._take(answer):
                    return

    def _feed(self, child: processes.Child) -> bool:
        """Send the child more of the batch; an empty list tells it that there is no more."""
        added = self.window.fill()
        self._loaded(self.facts)
        questions = self._questions(added.items())
        for name in questions:
            self.sent[self.count] = name
            self.count += 1
        if questions:
            child.send(written(tuple(questions.values())))
        if self.window.exhausted:
            child.send(b"[]")
        return not self.window.exhausted

    def _begin(self, numbers: tuple[int, ...]) -> None:
        """Note which claims are being worked on: one may ask for more time than the run's limit."""
        self.group = [self.sent[number] for number in numbers]
        pending = self.window.pending
        asked = (float(pending[name].claim.params.get("limit_s", 0)) for name in self.group)
        # The time for one claim is enough for a few asked together, and more of them are granted more of it.
        share = max(1.0, len(self.group) / ASKED_TOGETHER)
        self.patience_s = max(self.limits.scenario_s * share, *asked, 0.0)

    def _take(self, answer: Answer) -> bool:
        """Settle one scenario; False if the server turns out to be dead, which is what there is to settle."""
        if self.server is not None and self._server_died(self.server, answer):
            return False
        name = self.sent.pop(answer.number)
        self.group.remove(name)
        if answer.response is None:
            self.window.settle(name, Outcome(answer.outcome), answer.reason)
        else:
            self.window.answer(name, answer.response)
        return True

    def _receive(self, child: processes.Child, limit_s: float) -> Message | None:
        """Return the next message, None when the child ended or the line stopped, or `LATE`."""
        deadline = time.monotonic() + limit_s
        while not self.line.stopped():
            try:
                message: Message | None = child.receive(POLL_S)
            except queue.Empty:
                if time.monotonic() > deadline:
                    return LATE
            else:
                if message is not None:
                    processes.blame_machine(message)
                return message
        return None

    # ---- blame

    def _blame(self, child: processes.Child, *, late: bool) -> None:
        """Charge a death or a hang to the one claim that was running, or find out which one it was."""
        if self.line.stopped():
            return
        if not late and self._forgiven(child, *self.group[:1]):
            return
        if len(self.group) != 1:
            if not self.group:
                reason = with_last_words("the process ended between claims", child)
                self.window.not_loaded(Outcome.CRASHED, reason)
            self.alone.update(self.group)
            return
        name = self.group[0]
        self.alone.discard(name)
        if late:
            self.window.settle(name, Outcome.TIMEOUT, f"no answer within {self.patience_s:g} s")
        else:
            reason = f"the process died while answering: {child.exit_description()}"
            self.window.settle(name, Outcome.CRASHED, with_last_words(reason, child))

    def _forgiven(self, child: processes.Child, name: str = "") -> bool:
        """Say whether a death is to be forgotten: a kill from outside, which no artifact can bring about.

        The kernel kills too, when memory runs out; it counts how often it does.
        """
        if not child.was_killed() or child.ran_out_of_memory():
            return False
        self.kills[name] += 1
        return self.kills[name] <= KILLS_FORGIVEN

    # ---- one server child, asked by workers

    def _run_served(self) -> None:
        """Start the format's server, ask it everything but the shutdown, then stop it and judge how it went."""
        port = processes.free_port()
        self.endpoint = f"http://127.0.0.1:{port}"
        command = servers.command(self.batch.target, self.batch.artifact, port, self.threads)
        environment, imports = (
            processes.engine_environment(self.threads),
            shared_imports.needed(self.batch.target),
        )
        with processes.server(command, environment, imports) as self.server:
            if not self._await_server(self.server):
                return
            while self._left() and self.server.alive() and not self.line.stopped():
                self._loaded(self.facts)
                if not self._questions(self.window.pending.items()):
                    break
                self._run_worker()
            if self.server.alive() and not self.line.stopped():
                facts = self.server.terminate()
                for name in list(self.window.pending):
                    self.window.answer(name, Response(facts=facts))

    def _await_server(self, server: processes.Child) -> bool:
        """Wait until ``/v1/models`` answers; the load claim records how long that took."""
        from apr_qa.backends.openai_http import is_ready

        started = time.monotonic()
        while server.alive() and not self.line.stopped():
            if is_ready(self.endpoint):
                self._loaded({"load_s": round(time.monotonic() - started, 3)})
                return True
            if time.monotonic() - started > self.limits.load_s:
                reason = f"the server was not ready within {self.limits.load_s:g} s"
                self.window.not_loaded(Outcome.TIMEOUT, reason)
                return False
            time.sleep(POLL_S)
        if not self.line.stopped() and not self._forgiven(server, "serving"):
            reason = f"the server ended before it was ready: {server.exit_description()}"
            self.window.not_loaded(Outcome.CRASHED, with_last_words(reason, server))
        return False

    def _server_died(self, server: processes.Child, answer: Answer) -> bool:
        """Say whether the server is gone, and settle what it was asked last: nothing else is to blame."""
        if server.alive() and (answer.response is not None or not server.ends_within(SERVER_DEATH_S)):
            return False
        name = self.sent[answer.number]
        if not self._forgiven(server, name):
            reason = f"the server died: {server.exit_description()}"
            self.window.settle(name, Outcome.CRASHED, reason)
        return True


def _is_shutdown(scenario: Scenario) -> bool:
    return bool(scenario.claim.params.get("check") == "shutdown")
