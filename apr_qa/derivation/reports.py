"""What other tools and data say: their JSON reports, read field by field, and training data against benchmarks.

A tool's exit status proves nothing (``apr check --json`` ends with 0 whatever it found), so that only a stated
field of its report counts; without a report the criterion cannot be judged here.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from typing import Any

from apr_qa.derivation.behaviour import tasks
from apr_qa.derivation.members import Unmeasured, file_of, hashed
from apr_qa.errors import AprQaError, ModelUnavailable
from apr_qa.evaluation import contamination, datasets


def tool(recipe: Mapping[str, Any]) -> dict[str, Any]:
    """Return one field of a tool's report with the bound that it has to keep; ``missing`` where there is none."""
    name = str(recipe.get("tool") or "the tool")
    if not recipe.get("report"):
        there = "is installed" if shutil.which(name) else "is not installed here"
        lacks = recipe.get("lacks") or "a report of it"
        return {"missing": f"only {name} can show it, which {there}; lacking: {lacks}"}
    field = str(recipe.get("field") or recipe.get("true") or "")
    if not field:
        raise Unmeasured("the recipe names no field of the report")
    file = file_of(recipe["report"], "report")
    try:
        value: Any = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise Unmeasured(f"{file.name} is no JSON: {error}") from None
    for part in field.split("."):
        value = value.get(part) if isinstance(value, dict) else None
    bounds = {key: recipe[key] for key in ("least", "most") if recipe.get(key) is not None}
    return {
        "tool": name,
        "field": field,
        "value": value,
        "wants_true": "true" in recipe,
        **bounds,
        "report": hashed(file),
    }


def contaminated(recipe: Mapping[str, Any]) -> dict[str, Any]:
    """Compare training documents with benchmarks by word 10-grams; the pairs are told."""
    file = file_of(recipe.get("documents"), "file of documents")
    named = [one for one in recipe.get("benchmarks") or () if one]
    if not named:
        raise Unmeasured("the recipe names no benchmark to compare with")
    absent = [name for name in named if name in datasets.HUB and not _to_be_had(name)]
    if absent:
        return {"missing": f"not in the cache or on the hub, and not given: {' and '.join(absent)}"}
    texts = [
        (f"{name} {problem.task_id}", problem.text)
        for name in named
        for problem in tasks({"task": name}).problems
    ]
    try:
        rows = datasets.read_rows(file)
        documents = [
            (f"{file.name}:{n}", contamination.document_text(row, file.name)) for n, row in enumerate(rows, 1)
        ]
        report = contamination.compare(documents, texts, contamination.N, contamination.DOCUMENT_THRESHOLD)
    except AprQaError as error:
        raise Unmeasured(error.what) from None
    kept = ("n", "threshold", "documents", "benchmark_texts", "contaminated", "rate")
    return {**{name: report[name] for name in kept}, "pairs": report["pairs"][:10]}


def _to_be_had(task: str) -> bool:
    try:
        datasets.load(task)
    except ModelUnavailable:
        return False
    return True
