"""What differs between an artifact and the truth, sorted into the ways in which conversions go wrong.

Each class looks at data of its own: tokens, embedding rows, values, shapes. What differs and belongs to none
of them is the last class, so that nothing goes unnoticed because nobody had a name for it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from apr_qa.comparison.generation import token_ids
from apr_qa.comparison.names import SHOWN, comparable, weights
from apr_qa.comparison.tensors import Sweep, finite
from apr_qa.conversion.architectures import ARCHITECTURES, EMBEDDING, HEAD, expected_shapes
from apr_qa.errors import AprQaError, MalformedFile
from apr_qa.formats import OpenModel

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

_CLOSE = 0.2
"""Q4_0 costs 0.09; a transposed embedding is further away than 1."""
_TURNED = ("transposed", "reshaped instead of transposed")
_WORST_NORMS = 5


def tokenizer_whole(truth: OpenModel, artifact: OpenModel) -> dict[str, Any]:
    """Return whether the artifact carries every token and merge of the truth, whatever their rules."""
    stated = artifact.metadata.get("tokenizer.ggml.pre") or artifact.metadata.get("tokenizer.ggml.model")
    facts: dict[str, Any] = {
        "truth": truth.tokenizer is not None,
        "present": artifact.tokenizer is not None,
        "unreadable": str(stated) if stated and artifact.tokenizer is None else "",
    }
    if truth.tokenizer is None or artifact.tokenizer is None:
        return facts
    ours, theirs = token_ids(truth), token_ids(artifact)
    lost = sorted((index, token) for token, index in ours.items() if token not in theirs)
    merges = [len((m.tokenizer or {}).get("model", {}).get("merges") or []) for m in (truth, artifact)]
    return {
        **facts,
        "tokens": len(ours),
        "found": len(theirs),
        "lost": [token for _, token in lost[:SHOWN]],
        "lost_count": len(lost),
        "merges": merges,
    }


def embedding_rows(truth: OpenModel, artifact: OpenModel, found: Sweep) -> dict[str, Any]:
    """Return how the rows of embedding and head relate to those of the truth, dimensions included."""
    if found.unknown_architecture:
        return {"unknown_architecture": found.unknown_architecture}
    rows: list[dict[str, Any]] = []
    compared = {entry.name: entry for entry in found.compared}
    for name in (EMBEDDING, HEAD):
        counterpart = name if name in truth.tensors else EMBEDDING
        if name not in artifact.tensors or counterpart not in truth.tensors:
            continue
        shapes = [list(artifact.tensors[name].shape), list(truth.tensors[counterpart].shape)]
        entry = compared.get(name)
        if shapes[0] != shapes[1]:
            guess = _turned(artifact.read(name), truth.read(counterpart))
            rows.append({"name": name, "shapes": shapes, "looks_like": guess or "another shape"})
        elif entry is not None and not entry.healthy:
            guess = entry.looks_like if entry.looks_like in _TURNED else ""
            guess = (
                guess
                or _turned(artifact.read(name), truth.read(counterpart))
                or _misplaced(artifact.read(name), truth.read(counterpart))
            )
            rows.append(
                {"name": name, "shapes": shapes, "looks_like": guess, "error": finite(entry.distance.error)}
            )
    missing = EMBEDDING in truth.tensors and EMBEDDING not in artifact.tensors
    checked = [n for n in (EMBEDDING, HEAD) if n in compared]
    total = int(truth.tensors[EMBEDDING].shape[0]) if EMBEDDING in truth.tensors else 0
    return {"compared": checked, "rows": total, "missing": missing, "wrong": rows}


def _turned(values: npt.NDArray[np.float32], truth: npt.NDArray[np.float32]) -> str:
    """Say in which way two dimensions were exchanged, if that is what happened."""
    if values.ndim != 2 or values.size != truth.size:
        return ""
    ways = {"transposed": values.T, "reshaped instead of transposed": values.reshape(truth.shape[::-1]).T}
    if values.shape != truth.shape:
        ways["dimensions in reverse, data in order"] = values.reshape(truth.shape)
    return next((what for what, back in ways.items() if back.shape == truth.shape and _near(back, truth)), "")


def _misplaced(values: npt.NDArray[np.float32], truth: npt.NDArray[np.float32]) -> str:
    """Say whether most rows are those of the truth under another number, by looking for a few of them."""
    import numpy as np

    with np.errstate(all="ignore"):
        lengths = np.linalg.norm(truth, axis=1) + 1e-12
        picked = np.linspace(0, len(values) - 1, 64).astype(np.int64)
        rows = values[picked] / (np.linalg.norm(values[picked], axis=1, keepdims=True) + 1e-12)
        likeness = np.nan_to_num((rows @ truth.T) / lengths)
        best = likeness.argmax(axis=1)
        moved = (best != picked) & (likeness.max(axis=1) > 0.95)
    return "rows under other numbers" if moved.mean() > 0.25 else ""


def _near(values: npt.NDArray[np.float32], truth: npt.NDArray[np.float32]) -> bool:
    import numpy as np

    with np.errstate(all="ignore"):
        norm = float(np.linalg.norm(truth))
        return norm > 0 and float(np.linalg.norm(values - truth)) <= _CLOSE * norm


def corrupted(found: Sweep) -> dict[str, Any]:
    """Return the tensors whose values a known corruption explains."""
    if found.unknown_architecture:
        return {"unknown_architecture": found.unknown_architecture}
    wrong = [{"name": profile.name, "cause": profile.cause} for profile in found.profiles if profile.cause]
    return {"compared": len(found.profiles), "wrong": wrong[:SHOWN], "wrong_count": len(wrong)}


def shapes_against_config(truth: OpenModel, artifact: OpenModel) -> dict[str, Any]:
    """Return the tensors of the artifact whose shape does not follow from the truth's configuration."""
    unknown = comparable(artifact) or comparable(truth)
    name = truth.architecture
    if unknown or name not in ARCHITECTURES:
        return {"unknown_architecture": unknown or name or "(none)"}
    try:
        expected = expected_shapes(truth.config)
    except (AprQaError, KeyError, TypeError, ValueError, ZeroDivisionError) as error:
        raise MalformedFile(f"the configuration does not determine the tensors: {error!r}") from error
    found = weights(artifact)
    wrong = [
        {"name": name, "artifact": list(found[name].shape), "expected": list(shape)}
        for name, shape in expected.items()
        if name in found and found[name].shape != shape
    ]
    return {
        "checked": sum(name in found for name in expected),
        "wrong": wrong[:SHOWN],
        "wrong_count": len(wrong),
    }


def unclassified(found: Sweep, parts: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """Return every difference that no other class explains; ``parts`` are the facts of the single comparisons."""
    if found.unknown_architecture:
        return {"unknown_architecture": found.unknown_architecture}
    rest: list[dict[str, str]] = []
    causes = {profile.name: profile.cause for profile in found.profiles}
    for entry in found.compared:
        turned = entry.name in (EMBEDDING, HEAD) and entry.looks_like in _TURNED
        if not entry.healthy and not causes.get(entry.name) and not turned:
            rest.append({"where": entry.name, "what": entry.looks_like or "other values"})
    for difference in parts["config"]["differences"]:
        text = f"{difference['truth']!r} became {difference['artifact']!r}"
        rest.append({"where": f"config {difference['field']}", "what": text})
    tokenizer = parts["tokenizer"]
    rest += [{"where": "tokenizer", "what": kind} for kind in sorted(tokenizer.get("kinds") or {})]
    rest += _of_template(parts["template"]) + _of_generation(parts["generation"])
    names = parts["tensor_set"]
    rest += [
        {"where": name, "what": f"is {what}"} for what in ("missing", "unexpected") for name in names[what]
    ]
    return {"compared": len(found.compared), "rest": rest[:SHOWN], "rest_count": len(rest)}


def _of_template(facts: Mapping[str, Any]) -> list[dict[str, str]]:
    if facts["truth"] != facts["artifact"]:
        return [{"where": "chat template", "what": "was lost" if facts["truth"] else "was added"}]
    found = [f"renders {entry['conversation']!r} differently" for entry in facts["differences"]]
    found += [f"can render the word {word!r}" for word in facts.get("foreign_text", ())]
    return [{"where": "chat template", "what": what} for what in found]


def _of_generation(facts: Mapping[str, Any]) -> list[dict[str, str]]:
    found = [f"{role} {ids} is foreign" for role, ids in facts["foreign"].items()]
    found += [f"no longer stops at {stop}" for stop in facts["lost_stops"]]
    found += [f"no longer begins with {token}" for token in facts["lost_begin"]]
    return [{"where": "generation", "what": what} for what in found]


def fingerprints(found: Sweep) -> dict[str, Any]:
    """Return what the statistics of single tensors say: finiteness, exact copies, moments of norms."""
    if found.unknown_architecture:
        return {"unknown_architecture": found.unknown_architecture}
    bad = [p for p in found.profiles if p.nonfinite]
    exact = [p for p in found.profiles if p.exact is not None]
    differing = [p.name for p in exact if not p.exact]
    norms: list[tuple[float, dict[str, Any]]] = []
    for profile in found.profiles:
        if "norm" in profile.name and profile.statistics is not None:
            mean, std, true_mean, true_std = profile.statistics
            values = {"mean": mean, "std": std, "truth_mean": true_mean, "truth_std": true_std}
            moved = max(abs(mean - true_mean), abs(std - true_std))
            norms.append((moved, {"name": profile.name, **{k: round(v, 9) for k, v in values.items()}}))
    norms.sort(key=lambda pair: -pair[0])
    return {
        "compared": len(found.profiles),
        "nonfinite": [{"name": p.name, "count": p.nonfinite} for p in bad][:SHOWN],
        "introduced": [p.name for p in bad if p.nonfinite > p.truth_nonfinite][:SHOWN],
        "same_type": len(exact),
        "differing": differing[:SHOWN],
        "differing_count": len(differing),
        "norms": len(norms),
        "furthest_norms": [facts for _, facts in norms[:_WORST_NORMS]],
    }
