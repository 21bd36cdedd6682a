"""Check and time the sandbox on HumanEval: ``python benchmarks/sandbox.py HumanEval.jsonl.gz``.

Every canonical solution has to pass and no empty completion may; each is one cold program in processes of its
own, one after the other. Exit 1 if one verdict is wrong. ``--without namespaces`` (or bubblewrap, privileges, landlock,
seccomp; repeatable) leaves a wall out.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from pathlib import Path

from apr_qa.evaluation import completion
from apr_qa.evaluation.datasets import load
from apr_qa.sandbox import Trial
from apr_qa.sandbox.client import Sandbox


def main() -> int:
    """Print counts and times; return the exit code."""
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("data", type=Path)
    arguments.add_argument("--without", action="append", default=[])
    given = arguments.parse_args()
    problems = load("humaneval", given.data).problems
    wrong = 0
    started = time.perf_counter()
    with Sandbox(without=given.without) as sandbox:
        print(f"started in {1000 * (time.perf_counter() - started):.0f} ms; {sandbox.isolation}")
        for name, passes in (("canonical solutions", True), ("empty completions", False)):
            taken, passed = [], 0
            for problem in problems:
                program = completion.program(problem, problem.solution if passes else "", chat=False)
                begun = time.perf_counter()
                verdict = sandbox.try_out(Trial(program, problem.test, problem.entry_point, problem.helpers))
                taken.append(1000 * (time.perf_counter() - begun))
                passed += verdict.passed
                if verdict.passed is not passes:
                    wrong += 1
                    print(f"  {problem.task_id}: {verdict}")
            spread = f"median {statistics.median(taken):.1f} ms, least {min(taken):.1f} ms, most {max(taken):.1f} ms"
            print(f"{name}: {passed}/{len(problems)} pass; {spread}")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
