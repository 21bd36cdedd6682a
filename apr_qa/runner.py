"""Batches to evidence: which runs when, and where.

A wave is worked through before the next one begins. What happens to a single batch is `BatchRun`'s; what is
recorded and when everything stops is the `Line`'s. What was stopped before it ran is ``skipped``; what was cut
off by an interrupt or a fault of the machine is not recorded, so that a resumed run does it again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from itertools import groupby

from apr_qa import forked, shared_imports
from apr_qa.batch_run import BatchRun
from apr_qa.line import Limits as Limits
from apr_qa.line import Line as Line
from apr_qa.plan import Batch
from apr_qa.processes import engine_environment
from apr_qa.room import Room
from apr_qa.window import FromTheStart, Judge, Progress, Window

Work = Callable[[Batch, Line, Window], bool]
"""Works on a batch at another place than here; False if it has to be done here."""


def run(
    batches: Iterable[Batch],
    line: Line,
    judge: Judge,
    limits: Limits,
    *,
    jobs: int,
    threads: int,
    progress: Progress | None = None,
    elsewhere: Work | None = None,
) -> None:
    """Work through all batches, wave by wave, ``jobs`` at a time; entries go to ``line`` as they come.

    What has its evidence according to ``progress`` is left out. Raises whatever broke the line, after
    every child has ended.
    """
    from joblib import Parallel, delayed

    memory = Room()

    def here(batch: Batch, window: Window) -> None:
        with memory.taken(batch, line):
            trial = BatchRun(batch, line, window, limits, threads)
            trial.run()
            memory.learned(batch, trial.peak_bytes)

    def work(batch: Batch) -> None:
        try:
            if not line.abandoned:
                window = Window(batch, line, judge, FromTheStart() if progress is None else progress)
                if elsewhere is None or not elsewhere(batch, line, window):
                    here(batch, window)
        except Exception as fault:  # noqa: BLE001 - told to the line, which stops the others and raises it
            line.broke(fault)

    ordered = sorted(batches, key=lambda batch: batch.wave)
    with forked.sharing():
        if elsewhere is None:
            _foresee(ordered, threads)
        for _, wave in groupby(ordered, key=lambda batch: batch.wave):
            Parallel(n_jobs=jobs, backend="threading")(delayed(work)(batch) for batch in wave)
    if line.fault is not None:
        raise line.fault


def _foresee(batches: Iterable[Batch], threads: int) -> None:
    """Begin with the imports of all batches: those of a later wave are there when it begins."""
    needed = (shared_imports.needed(batch.target) for batch in batches if not batch.inapplicable)
    for imports in dict.fromkeys(needed):
        if imports is not None:
            forked.foresee(imports, engine_environment(threads))
