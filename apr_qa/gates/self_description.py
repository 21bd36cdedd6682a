"""A file describes itself, its damage would be noticed, and a run leaves it and its folder alone."""

from __future__ import annotations

from typing import Any

from apr_qa.gates import Check, Facts, Gate, corroborated, enter, falsified, inapplicable, inconclusive
from apr_qa.vocabulary import Judgement, Severity

APR_MAGICS = ("APR\0", "APR2")
APR_VERSION = [2, 0]


def architecture_is_named(facts: Facts) -> Judgement:
    if not facts["architecture"]:
        return falsified("the file does not say of which architecture it is")
    return corroborated(f"it says that it is {facts['architecture']}")


def _positive(value: Any) -> bool:
    """Say whether a value is a number above zero, or a list of such: one for each layer."""
    if isinstance(value, list):
        return bool(value) and all(map(_positive, value))
    return type(value) is int and value > 0


def numbers_are_told(facts: Facts) -> Judgement:
    if not facts["tensors"]:
        return falsified("the file holds no tensor")
    wrong = [
        f"{name} is {value!r}"
        for name, value in sorted(facts["numbers"].items())
        if not _positive(value) and not (value is None and name in facts["optional"])
    ]
    if wrong:
        return falsified("; ".join(wrong))
    return corroborated(
        ", ".join(f"{name} {value}" for name, value in sorted(facts["numbers"].items()) if value)
    )


def damage_is_noticed(facts: Facts) -> Judgement:
    if not facts["tried"]:
        return inconclusive("no damage was tried")
    missed = [one["damage"] for one in facts["tried"] if not one["refused"]]
    if missed:
        return falsified(
            f"a copy that was {' and one that was '.join(missed)} is read as if nothing were wrong"
        )
    return corroborated(f"{len(facts['tried'])} damaged copies are refused")


def types_are_known(facts: Facts) -> Judgement:
    if facts["unknown_types"]:
        return falsified(
            f"{len(facts['unknown_types'])} types are unknown, first {facts['unknown_types'][0]}"
        )
    if not facts["tensors"]:
        return inconclusive("there is no tensor")
    return corroborated(f"the types of {facts['tensors']} tensors are those of version 2")


def places_are_aligned(facts: Facts) -> Judgement:
    if facts["misplaced"]:
        return falsified(
            f"{len(facts['misplaced'])} places are no multiple of 64, first {facts['misplaced'][0]}"
        )
    if not facts["tensors"]:
        return inconclusive("there is no tensor")
    return corroborated(f"{facts['tensors']} tensors start at multiples of 64")


def magic_and_version_fit(facts: Facts) -> Judgement:
    if facts["magic"] not in APR_MAGICS or facts["version"] != APR_VERSION:
        return falsified(f"it begins with {facts['magic']!r}, version {facts['version']}")
    return corroborated(f"{facts['magic'].rstrip(chr(0))}, version 2")


def nothing_lies_beside_it(facts: Facts) -> Judgement:
    if facts["origin"] == "derived":
        if facts["in_workspace"]:
            return corroborated("what was derived lies in a folder of our own")
        return falsified("what was derived lies outside of the folder for such files")
    if not facts["names_recorded"]:
        return inconclusive("it was not recorded what lay beside it")
    if facts["names"] != facts["names_recorded"]:
        return falsified("there are other files beside it than when the run began")
    return corroborated("there are the same files beside it as when the run began")


def it_is_unchanged(facts: Facts) -> Judgement:
    if facts["origin"] == "derived":
        return inapplicable("it was derived during the run")
    if not facts["recorded"]:
        return inconclusive("its hash was not recorded when the run began")
    if facts["sha256"] != facts["recorded"]:
        return falsified(
            f"its hash was {facts['recorded'][:12]}, and is {facts['sha256'][:12]} after the run"
        )
    return corroborated("its hash is the same after the run")


_HEADER = {"format": "gguf", "tensors": 2, "architecture": "llama"}
_NUMBERS: dict[str, Any] = {
    "tensors": 2,
    "numbers": {"hidden size": 64, "layers": 2, "heads": 4, "vocabulary": 512, "key-value heads": None},
    "optional": ["key-value heads"],
}
_TRIED: dict[str, Any] = {"tried": [{"damage": "truncated", "refused": True, "said": "it ends too early"}]}
_APR: dict[str, Any] = {
    "magic": "APR\0",
    "version": [2, 0],
    "tensors": 2,
    "unknown_types": [],
    "misplaced": [],
}
_LEFT: dict[str, Any] = {
    **{"origin": "found", "recorded": "ab" * 32, "sha256": "ab" * 32},
    **{"names_recorded": "ab", "names": "ab", "in_workspace": False},
}
_P0, _P1, _P2 = Severity.P0, Severity.P1, Severity.P2
_BYTES = "bytes of the header and the tensor index, read without our own reader"
_ROWS: tuple[tuple[str, str, Severity, str, str, str, Check, dict[str, Any], dict[str, Any]], ...] = (
    (
        "F-INSPECT-002",
        "inspection",
        _P1,
        "A file says of which architecture it is",
        "header",
        "a name",
        architecture_is_named,
        _HEADER,
        {"architecture": ""},
    ),
    (
        "F-INSPECT-META-001",
        "inspection",
        _P1,
        "A file tells the numbers that an engine needs",
        "hidden size, layers, heads, vocabulary; key-value heads where there are any",
        "integers above zero",
        numbers_are_told,
        _NUMBERS,
        {"numbers": {"heads": 0}},
    ),
    (
        "F-VALIDATE-003",
        "inspection",
        _P1,
        "Damage to this file would be noticed",
        "copies that are cut off, overwritten at the beginning, and emptied",
        "each refused",
        damage_is_noticed,
        _TRIED,
        {"tried": [{"damage": "truncated", "refused": False, "said": ""}]},
    ),
    (
        "F-APR-FORMAT-001",
        "format",
        _P0,
        "Types of tensors are those of version 2 of the format",
        _BYTES,
        "0 unknown codes",
        types_are_known,
        _APR,
        {"unknown_types": ["lm_head.weight: 99"]},
    ),
    (
        "F-APR-FORMAT-002",
        "format",
        _P0,
        "Tensors start where the format wants them",
        _BYTES,
        "multiples of 64",
        places_are_aligned,
        _APR,
        {"misplaced": ["lm_head.weight: 63"]},
    ),
    (
        "F-APR-FORMAT-003",
        "format",
        _P0,
        "The file begins as the format wants it",
        _BYTES,
        "magic APR, version 2.0",
        magic_and_version_fit,
        _APR,
        {"version": [1, 0]},
    ),
    (
        "ISO-OUT-001",
        "isolation",
        _P1,
        "What a run makes lies in a folder of its own",
        "names of the files beside the artifact before and after the run; the folder of derived files",
        "no new name; derived files in our cache",
        nothing_lies_beside_it,
        _LEFT,
        {"names": "cd"},
    ),
    (
        "ISO-OUT-002",
        "isolation",
        _P0,
        "A run does not write to a source",
        "SHA-256 of the artifact before and after the run",
        "equal",
        it_is_unchanged,
        _LEFT,
        {"sha256": "cd" * 32},
    ),
)

for _id, _category, _severity, _hypothesis, _measure, _threshold, _check, _good, _bad in _ROWS:
    enter(
        Gate(
            id=_id,
            category=_category,
            severity=_severity,
            hypothesis=_hypothesis,
            measure=_measure,
            threshold=_threshold,
            check=_check,
            corroborates=_good,
            falsifies={**_good, **_bad},
        )
    )
