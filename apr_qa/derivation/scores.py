"""Stored results of ``apr-qa eval``: recomputed from their problems, grouped by model and strategy, never mixed."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from apr_qa.derivation.behaviour import named, parents_fault, solve, tasks
from apr_qa.derivation.members import Member, Unmeasured, file_of
from apr_qa.evaluation.estimator import mean_pass_at_k
from apr_qa.vocabulary import digest

WHOLE = {"humaneval": 164, "humaneval-plus": 164, "mbpp": 500, "mbpp-plus": 378}
"""Number of problems of a data set: a score on fewer is no score on it."""


def read(files: Any) -> list[dict[str, Any]]:
    """Return a row for each result, or each of a folder: task, model, way, pass@1 in per cent."""
    listed = [files] if isinstance(files, str) else list(files or ())
    places = [file_of(one, "result") for one in listed if one]
    each = [
        file for place in places for file in (sorted(place.glob("*.json")) if place.is_dir() else [place])
    ]
    found = [_row(file) for file in each]
    if not found:
        raise Unmeasured("the recipe names no result of an evaluation")
    return found


def compound(child: Member, recipe: Mapping[str, Any]) -> dict[str, Any]:
    """Put the results of this artifact under one strategy beside the least scores, in per cent."""
    least = {str(k).lower(): float(v) for k, v in dict(recipe.get("least") or {}).items()}
    if not least:
        raise Unmeasured("the recipe states no least scores")
    strategy = str(recipe.get("strategy") or "standard")
    rows = read(recipe.get("results"))
    own = [row for row in rows if row["sha256"] == child.sha256 and row["strategy"] == strategy]
    groups: dict[str, dict[str, Any]] = {}
    for row in own:
        group = groups.setdefault(row["way"], {"strategy": strategy, "way": row["way"], "scores": {}})
        if row["task"] in group["scores"]:
            raise Unmeasured(f"two results of {row['task']} for the same model, strategy and sampling")
        group["scores"][row["task"]] = {name: row[name] for name in ("percent", "problems", "whole", "mode")}
    others = sorted({f"{row['model']} {row['dtype']} {row['strategy']}" for row in rows if row not in own})
    return {
        "least": least,
        "strategy": strategy,
        "sha256": child.sha256,
        "groups": list(groups.values()),
        "left_out": others,
    }


def points(child: Member, parents: Sequence[Member], recipe: Mapping[str, Any]) -> dict[str, Any]:
    """Measure pass@1 of artifact and first parent, in per cent: from two results, or by solving a task now."""
    if not parents:
        raise Unmeasured("the playbook names no parent to compare with")
    if parents[0].sha256 == child.sha256:
        raise Unmeasured("the parent is the artifact itself: nothing is compared")
    if recipe.get("results"):
        return _of_results(child, parents[0], read(recipe["results"]))
    data = tasks(recipe)
    with parents_fault():
        theirs = solve(parents[0], data, recipe)
    own = solve(child, data, recipe)
    return {
        "task": named(Path(data.name)),
        "problems": len(data.problems),
        "artifact": 100 * own["pass_at_1"],
        "parent": 100 * theirs["pass_at_1"],
        "strategy": own["strategy"],
        "errors": [own["errors"], theirs["errors"]],
    }


def _of_results(child: Member, parent: Member, rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    found = []
    for member in (child, parent):
        own = [row for row in rows if row["sha256"] == member.sha256]
        if len(own) != 1:
            raise Unmeasured(f"{len(own)} of the results are about {member.name} ({member.sha256[:12]})")
        found.append(own[0])
    one, other = found
    for what in ("task", "strategy", "way", "data_sha256", "problems"):
        if one[what] != other[what]:
            raise Unmeasured(f"the two results differ in {what}: they cannot be compared")
    if "inference_failed" in (one["mode"], other["mode"]):
        raise Unmeasured("inference failed in one of the results")
    return {
        "task": one["task"],
        "problems": one["problems"],
        "artifact": one["percent"],
        "parent": other["percent"],
        "strategy": one["strategy"],
        "errors": [one["errors"], other["errors"]],
    }


def _row(file: Path) -> dict[str, Any]:
    try:
        result = json.loads(file.read_text(encoding="utf-8"))
        counts = [(int(p["n"]), int(p["passed"])) for p in result["problems"]]
        model, sampling, task = result["model"], dict(result["sampling"]), named(Path(str(result["task"])))
        percent = mean_pass_at_k(counts, (1,)).get("1")
    except (ValueError, KeyError, TypeError) as error:
        raise Unmeasured(f"{file.name} is no result of apr-qa eval: {type(error).__name__} {error}") from None
    whole = WHOLE.get(task)
    return {
        "task": task,
        "model": model["id"],
        "dtype": model["dtype"],
        "sha256": model["sha256"],
        "strategy": result["strategy"],
        "way": digest(sampling, result.get("prompting")),
        "data_sha256": result.get("data_sha256"),
        "mode": result["mode"],
        "problems": len(counts),
        "errors": sum(int(p.get("inference_errors", 0)) for p in result["problems"]),
        "whole": whole is None or len(counts) == whole,
        "percent": None if percent is None or result["mode"] != "inference" else 100 * percent,
    }
