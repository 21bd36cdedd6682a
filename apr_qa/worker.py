"""The child process: load one target, answer many claims in batches.

`protocol` says what is said. Answers go to the original standard output; native libraries print to file
descriptor 1, so that is pointed at standard error before anything is loaded. ``ready`` is said after loading,
so load time is never charged to a prompt; ``started`` names the claims of a group before it runs, so that a
death can be blamed on exactly those.
"""

from __future__ import annotations

import contextlib
import errno
import functools
import os
import pkgutil
import signal
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any, NoReturn

from apr_qa import confinement
from apr_qa.answering import TEXT_KINDS, responses
from apr_qa.backends import BACKENDS, Session
from apr_qa.channel import Channel, Inbox
from apr_qa.errors import (
    AprQaError,
    EngineMissing,
    EnvironmentFault,
    Inapplicable,
    UnsupportedArchitecture,
)
from apr_qa.inference import faults
from apr_qa.inference.faults import FAULT_VARIABLE
from apr_qa.protocol import Answer, Job, read_job, read_scenarios
from apr_qa.vocabulary import Artifact, Outcome, Response, Scenario

PAIRED = {
    "conversion": "apr_qa.conversion.claim:Conversion",
    "apr_conversion": "apr_qa.conversion.apr_claim:AprConversion",
    "comparison": "apr_qa.comparison.session:compare",
    "trips": "apr_qa.trips.session:start",
    "logits": "apr_qa.logits.session:compare_logits",
    "derivation": "apr_qa.derivation.session:derived",
}
"""Engine that needs two artifacts -> what is called with (source, artifact) and answers ``facts``."""


_BEYOND_US = (Inapplicable, UnsupportedArchitecture, EngineMissing, EnvironmentFault)
_OF_THE_MACHINE = (
    errno.ENOSPC,
    errno.EDQUOT,
    errno.EFBIG,
    errno.EROFS,
    errno.EMFILE,
    errno.ENFILE,
    errno.EIO,
)
"""What a system call says when this machine, and no file of a model, is at fault."""


def main() -> None:
    """Read the job, load, answer, say goodbye; every refusal is a message, only a bug is a traceback."""
    os.environ.setdefault("PYTHONFAULTHANDLER", "1")
    channel = Channel()
    channel.say("hello")
    inbox = Inbox()
    job = read_job(inbox.line())
    _be_known_as(job)
    try:
        session = _opened(job, channel)
        if session is not None:
            _work(job, session, channel, inbox)
    except OSError as fault:
        if fault.errno not in _OF_THE_MACHINE:
            raise
        channel.say("broken", reason=f"{fault.strerror}: {fault.filename or 'while a worker was writing'}")


def _be_known_as(job: Job) -> None:
    """Let ``ps`` and ``top`` say what this process works on: ``gguf run``, ``apr logits``."""
    doing = job.target.engine if job.target.modality == "compare" else job.target.modality
    with contextlib.suppress(OSError):
        Path("/proc/self/comm").write_text(f"{job.target.format[:4]} {doing}"[:15], encoding="utf-8")


def _opened(job: Job, channel: Channel) -> Any:
    """Return what answers, None after a refusal."""
    started = time.perf_counter()
    try:
        open_session = _opener(job)
        confinement.confine(_memory_limit(job))
        session = open_session()
    except (AprQaError, MemoryError) as refusal:
        channel.say("refused", outcome=_outcome(refusal), reason=_reason(refusal))
        return None
    load_s = round(time.perf_counter() - started, 3)
    channel.say("ready", facts={"load_s": load_s, "peak_memory_mb": _peak_memory_mb()})
    return session


def _work(job: Job, session: Any, channel: Channel, inbox: Inbox) -> None:
    """Answer group by group until there is no more, or until a fresh process had better go on."""
    number, begun = 0, 0
    for scenarios in _chunks(job, inbox):
        for group in _groups(list(enumerate(scenarios, start=number)), job.group_size):
            channel.say("started", numbers=tuple(place for place, _ in group))
            _inject_fault([scenario for _, scenario in group])
            for answers in _answers(session, group, job.artifact, job.truth):
                channel.say("answers", answers=answers)
            begun = begun or _memory()
            if _memory() > begun + job.growth_bytes:
                channel.say("done", peak_memory_mb=_peak_memory_mb())
                return
        number += len(scenarios)
        if number >= job.most_claims:
            break
    session.close()
    channel.say("done", peak_memory_mb=_peak_memory_mb())


def _chunks(job: Job, inbox: Inbox) -> Iterator[tuple[Scenario, ...]]:
    """Yield the scenarios of the job and then what is sent after it."""
    yield job.scenarios
    while job.more:
        scenarios = read_scenarios(inbox.line())
        if not scenarios:
            return
        yield scenarios


def _memory() -> int:
    """Return the bytes of physical memory that this process has to itself; 0 where nothing tells."""
    try:
        resident, shared = Path("/proc/self/statm").read_bytes().split()[1:3]
    except OSError:
        return 0
    return (int(resident) - int(shared)) * os.sysconf("SC_PAGE_SIZE")


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


def _outcome(refusal: AprQaError | MemoryError) -> Outcome:
    """What this machine or this converter cannot do is no fault of the artifact."""
    if isinstance(refusal, MemoryError) or confinement.died_of_memory(refusal.what):
        return Outcome.CRASHED
    return Outcome.INAPPLICABLE if isinstance(refusal, _BEYOND_US) else Outcome.FALSIFIED


def _reason(refusal: AprQaError | MemoryError) -> str:
    """Return what was refused; an engine's own words for a lack of memory get ours before them."""
    if isinstance(refusal, MemoryError):
        return confinement.exceeded()
    lacking = confinement.died_of_memory(refusal.what)
    return f"{confinement.exceeded()}: {refusal.what}" if lacking else refusal.what


def _peak_memory_mb() -> float:
    import resource

    return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024, 1)


Numbered = tuple[int, Scenario]
"""A scenario and its place in the order in which they were sent."""


def _groups(scenarios: Sequence[Numbered], size: int) -> Iterator[list[Numbered]]:
    """Cut the claims into groups that one batched call can answer: texts first, then the rest as it came."""
    order = {kind: place for place, kind in enumerate(TEXT_KINDS)}
    ordered = sorted(scenarios, key=lambda one: order.get(one[1].claim.kind, len(order)))
    for is_text, members in groupby(ordered, key=lambda one: one[1].claim.kind in TEXT_KINDS):
        together = list(members)
        step = size if is_text else 1
        for begin in range(0, len(together), step):
            yield together[begin : begin + step]


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
    session: Session, group: Sequence[Numbered], artifact: Artifact, truth: Artifact | None
) -> Iterator[tuple[Answer, ...]]:
    try:
        found = responses(session, [scenario for _, scenario in group], artifact, truth)
    except (AprQaError, MemoryError) as refusal:
        if len(group) == 1:
            yield (Answer(number=group[0][0], outcome=_outcome(refusal), reason=_reason(refusal)),)
            return
        # One member that the engine refuses must not take the others with it.
        for one in group:
            yield from _answers(session, [one], artifact, truth)
        return
    yield tuple(_answer(number, response) for (number, _), response in zip(group, found, strict=True))


def _answer(number: int, response: Response) -> Answer:
    if response.finish_reason == "error":
        reason = str(response.facts.get("error", "inference failed"))
        return Answer(number=number, outcome=Outcome.FALSIFIED, reason=reason)
    return Answer(number=number, response=response)


def live() -> NoReturn:
    """Do what a worker process does, and end it."""
    main()
    # Taking torch down takes a second of processor time; the system frees what is left faster.
    sys.stderr.flush()
    os._exit(0)


if __name__ == "__main__":
    live()
