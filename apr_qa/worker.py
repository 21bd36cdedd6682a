"""The child process: load one target, answer many claims in batches.

One JSON line on standard input is the job; answers are JSON lines on the original standard output. Native
libraries print to file descriptor 1, so that is pointed at standard error before anything is loaded.
``ready`` is said after loading, so load time is never charged to a prompt; ``started`` names the claims of
a group before it runs, so that a death can be blamed on exactly those.
"""

from __future__ import annotations

import functools
import os
import pkgutil
import signal
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

import msgspec

from apr_qa import confinement
from apr_qa.backends import BACKENDS, Request, Session
from apr_qa.errors import AprQaError, Inapplicable, UnsupportedArchitecture
from apr_qa.guard import exit_with_parent
from apr_qa.inference import faults
from apr_qa.inference.faults import FAULT_VARIABLE
from apr_qa.serving.endpoint import at_once
from apr_qa.vocabulary import Artifact, Outcome, Record, Response, Scenario, Target

PAIRED = {
    "conversion": "apr_qa.conversion.claim:Conversion",
    "apr_conversion": "apr_qa.conversion.apr_claim:AprConversion",
    "comparison": "apr_qa.comparison.session:compare",
    "trips": "apr_qa.trips.session:start",
    "logits": "apr_qa.logits.session:compare_logits",
    "derivation": "apr_qa.derivation.session:derived",
}
"""Engine that needs two artifacts -> what is called with (source, artifact) and answers ``facts``."""


_TEXT_KINDS = ("generate", "chat")


class Job(Record, frozen=True):
    """What one worker has to do."""

    target: Target
    artifact: Artifact
    scenarios: tuple[Scenario, ...]
    threads: int = 0
    group_size: int = 16
    endpoint: str = ""
    source: Artifact | None = None
    """What a conversion starts from, or what ``artifact`` is compared with."""
    truth: Artifact | None = None
    """The ground truth, where properties of what is loaded are about both."""


class Channel:
    """The protocol's end in the child: a private duplicate of standard output."""

    def __init__(self) -> None:
        self._fd = os.dup(1)
        os.dup2(2, 1)

    def say(self, event: str, **fields: Any) -> None:
        try:
            line = msgspec.json.encode({"event": event, **fields}) + b"\n"
        except UnicodeEncodeError:  # half a surrogate pair, which a server may send and JSON cannot hold
            line = msgspec.json.encode({"event": event, **_legal(msgspec.to_builtins(fields))}) + b"\n"
        while line:
            line = line[os.write(self._fd, line) :]


def _legal(value: Any) -> Any:
    """Write what is no Unicode text as an escape, so that the evidence shows it."""
    if isinstance(value, str):
        return value.encode("utf-8", "backslashreplace").decode("utf-8")
    if isinstance(value, dict):
        return {_legal(key): _legal(item) for key, item in value.items()}
    return [_legal(item) for item in value] if isinstance(value, list) else value


def main() -> None:
    """Read the job, load, answer, say goodbye; every refusal is a message, only a bug is a traceback."""
    os.environ.setdefault("PYTHONFAULTHANDLER", "1")
    channel = Channel()
    channel.say("hello")
    job = msgspec.json.decode(_read_line(), type=Job)
    exit_with_parent()
    started = time.perf_counter()
    try:
        open_session = _opener(job)
        confinement.confine(_memory_limit(job))
        session = open_session()
    except (AprQaError, MemoryError) as refusal:
        channel.say("refused", outcome=_outcome(refusal), reason=_reason(refusal))
        return
    load_s = round(time.perf_counter() - started, 3)
    channel.say("ready", facts={"load_s": load_s, "peak_memory_mb": _peak_memory_mb()})
    for group in _groups(job):
        channel.say("started", ids=[scenario.id for scenario in group])
        _inject_fault(group)
        for message in _answers(session, group, job.artifact, job.truth):
            channel.say(message.pop("event"), **message)
    session.close()
    channel.say("done", peak_memory_mb=_peak_memory_mb())


def _memory_limit(job: Job) -> int:
    """Return the bytes that this worker may allocate: what it reads decides, or what the machine has."""
    if job.target.engine == "inspect":
        return confinement.reading_limit([job.artifact.path])
    return confinement.running_limit(gpu=job.target.backend == "gpu")


def _opener(job: Job) -> Callable[[], Any]:
    """Return what opens the files and answers: an engine's session, or what looks at two files at once.

    Our own modules are imported here, before memory is limited: Python calls a lack of it while it compiles a
    module a syntax error.
    """
    if job.source is not None:
        return functools.partial(pkgutil.resolve_name(PAIRED[job.target.engine]), job.source, job.artifact)
    engine = BACKENDS.get(job.target.engine)
    path = Path(job.artifact.path)
    return lambda: faults.played(engine.load(job.target, path, threads=job.threads, endpoint=job.endpoint))


def _read_line() -> bytes:
    """Read the job without buffering, so that nothing of the pipe is hidden from the parent watch."""
    data = bytearray()
    while not data.endswith(b"\n"):
        chunk = os.read(0, 1 << 16)
        if not chunk:
            sys.exit(0)
        data += chunk
    return bytes(data)


def _outcome(refusal: AprQaError | MemoryError) -> Outcome:
    """What this machine or this converter cannot do is no fault of the artifact."""
    if isinstance(refusal, MemoryError) or confinement.died_of_memory(refusal.what):
        return Outcome.CRASHED
    beyond_us = isinstance(refusal, Inapplicable | UnsupportedArchitecture)
    return Outcome.INAPPLICABLE if beyond_us else Outcome.FALSIFIED


def _reason(refusal: AprQaError | MemoryError) -> str:
    """Return what was refused; an engine's own words for a lack of memory get ours before them."""
    if isinstance(refusal, MemoryError):
        return confinement.exceeded()
    lacking = confinement.died_of_memory(refusal.what)
    return f"{confinement.exceeded()}: {refusal.what}" if lacking else refusal.what


def _peak_memory_mb() -> float:
    import resource

    return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024, 1)


def _groups(job: Job) -> Iterator[list[Scenario]]:
    """Cut the claims into groups that one batched call can answer: texts first, then the rest as it came."""
    order = {kind: place for place, kind in enumerate(_TEXT_KINDS)}
    ordered = sorted(job.scenarios, key=lambda scenario: order.get(scenario.claim.kind, len(order)))
    for is_text, members in groupby(ordered, key=lambda scenario: scenario.claim.kind in _TEXT_KINDS):
        scenarios = list(members)
        size = job.group_size if is_text else 1
        for begin in range(0, len(scenarios), size):
            yield scenarios[begin : begin + size]


def _inject_fault(group: Sequence[Scenario]) -> None:
    fault, _, text = os.environ.get(FAULT_VARIABLE, "").partition(":")
    if not text or not any(text in scenario.claim.question for scenario in group):
        return
    if fault == "crash":
        os.kill(os.getpid(), signal.SIGSEGV)
    if fault == "hang":
        while True:
            time.sleep(3600)


def _answers(
    session: Session, group: Sequence[Scenario], artifact: Artifact, truth: Artifact | None
) -> Iterator[dict[str, Any]]:
    try:
        responses = _respond(session, group, artifact, truth)
    except (AprQaError, MemoryError) as refusal:
        if len(group) == 1:
            yield _failure(group[0], _outcome(refusal), _reason(refusal))
            return
        # One member that the engine refuses must not take the others with it.
        for scenario in group:
            yield from _answers(session, [scenario], artifact, truth)
        return
    for scenario, response in zip(group, responses, strict=True):
        if response.finish_reason == "error":
            yield _failure(scenario, Outcome.FALSIFIED, str(response.facts.get("error", "inference failed")))
        else:
            yield {"event": "answer", "id": scenario.id, "response": response}


def _failure(scenario: Scenario, outcome: Outcome, reason: str) -> dict[str, Any]:
    return {"event": "failed", "id": scenario.id, "outcome": outcome, "reason": reason}


def _respond(
    session: Session, group: Sequence[Scenario], artifact: Artifact, truth: Artifact | None
) -> list[Response]:
    kind = group[0].claim.kind
    if kind in _TEXT_KINDS:
        return _converse(session, group)
    claim = group[0].claim
    started = time.perf_counter()
    if kind == "property":
        facts = pkgutil.resolve_name("apr_qa.property_search:answered")(session, group[0], artifact, truth)
        return [Response(facts=facts, duration_s=round(time.perf_counter() - started, 4))]
    if kind == "measure":
        facts = pkgutil.resolve_name("apr_qa.measuring.checks:measured")(session, group[0], artifact)
        return [Response(facts=facts, duration_s=round(time.perf_counter() - started, 4))]
    facts = session.facts(str(claim.params["check"]), {**claim.params, "origin": artifact.origin})
    return [Response(facts=facts, duration_s=round(time.perf_counter() - started, 4))]


def _request(scenario: Scenario, prompt: str, *, templated: bool = False) -> Request:
    claim = scenario.claim
    return Request(
        prompt=prompt,
        max_tokens=claim.max_tokens,
        temperature=claim.temperature,
        seed=claim.seed,
        templated=templated,
        stop=tuple(claim.params.get("stop", ())),
        top_p=float(claim.params.get("top_p", 1.0)),
        top_k=int(claim.params.get("top_k", 0)),
    )


def _converse(session: Session, group: Sequence[Scenario]) -> list[Response]:
    """Answer prompts and the user turns of conversations round by round; the last answer is the response.

    A prompt is a conversation of one round. What is asked in one round is asked together: the steps of a decode
    cost nearly the same for one sequence as for many.
    """
    messages: list[list[dict[str, str]]] = [[] for _ in group]
    answers: list[list[Response]] = [[] for _ in group]
    for turn in range(max(1, *(len(scenario.claim.messages) for scenario in group))):
        active = [i for i, s in enumerate(group) if turn < max(1, len(s.claim.messages))]
        for i in active:
            if group[i].claim.kind == "chat":
                messages[i].append({"role": "user", "content": group[i].claim.messages[turn]})
        replies = _reply(session, [(group[i], messages[i]) for i in active])
        for i, reply in zip(active, replies, strict=True):
            answers[i].append(reply)
            messages[i].append({"role": "assistant", "content": reply.text or ""})
    return [
        msgspec.structs.replace(given[-1], turns=tuple(reply.text or "" for reply in given[:-1]))
        for given in answers
    ]


def _reply(
    session: Session, conversations: Sequence[tuple[Scenario, list[dict[str, str]]]]
) -> list[Response]:
    """Return the answers of one round; a claim that is no chat has no messages and asks its prompt."""
    if hasattr(session, "endpoint"):  # a server renders the template itself

        def ask(conversation: tuple[Scenario, list[dict[str, str]]]) -> Response:
            scenario, messages = conversation
            claim = scenario.claim
            if claim.kind == "chat":
                return session.chat(messages, claim.max_tokens, claim.temperature, claim.seed)
            return session.generate([_request(scenario, claim.prompt)])[0]

        return at_once(ask, conversations)
    return session.generate(
        [
            _request(scenario, session.render_chat(messages), templated=True)
            if scenario.claim.kind == "chat"
            else _request(scenario, scenario.claim.prompt)
            for scenario, messages in conversations
        ]
    )


if __name__ == "__main__":
    main()
    # Taking torch down takes a second of processor time; the system frees what is left faster.
    sys.stderr.flush()
    os._exit(0)
