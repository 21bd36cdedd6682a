"""Claims that a model harms nobody who loads, unpacks or reads it."""

from __future__ import annotations

from typing import Any

from apr_qa.gates import Check, Facts, Gate, corroborated, enter, falsified, inconclusive
from apr_qa.vocabulary import Judgement, Severity

MAX_PROMPT_BYTES = 1_000_000
MAX_GROWTH = 100
"""Bytes rendered for each byte asked; the shortest conversation that is rendered has 246 bytes."""


def pickles_are_harmless(facts: Facts) -> Judgement:
    if facts["suspicious"]:
        first = facts["suspicious"][0]
        return falsified(f"{first['file']} would import {', '.join(first['names'][:5])} when it is loaded")
    if facts["unreadable"]:
        first = facts["unreadable"][0]
        return falsified(f"{first['file']} cannot be looked through: {first['why']}")
    return corroborated(f"{facts['files']} pickles, none of which imports anything that weights do not need")


def no_code_is_wanted(facts: Facts) -> Judgement:
    if facts["wanted"]:
        return falsified(f"it asks for code of its own, which was not run: {'; '.join(facts['wanted'][:3])}")
    python = facts["python"]
    beside = f"; {len(python)} Python files beside it, which nothing refers to" if python else ""
    return corroborated(f"it needs no code of its own{beside}")


def paths_stay_inside(facts: Facts) -> Judgement:
    if facts["escaping"]:
        return falsified(
            f"{len(facts['escaping'])} lead out of the folder: {'; '.join(facts['escaping'][:3])}"
        )
    return corroborated(f"{facts['checked']} files and file names stay inside")


def names_are_no_paths(facts: Facts) -> Judgement:
    if facts["paths"]:
        return falsified(f"{len(facts['paths'])} tensor names are paths: {', '.join(facts['paths'][:3])}")
    return corroborated(f"{facts['checked']} tensor names, none of which is a path")


def texts_inject_nothing(facts: Facts) -> Judgement:
    if facts["injecting"]:
        return falsified(
            f"{len(facts['injecting'])} texts inject something: {'; '.join(facts['injecting'][:3])}"
        )
    return corroborated(f"{facts['checked']} texts hold no escape sequence and no control token")


def growth_is_bounded(facts: Facts) -> Judgement:
    if facts["limit"]:
        return falsified(str(facts["limit"]))
    for rendering in facts["renderings"]:
        asked, rendered = rendering["asked"], rendering["rendered"]
        if rendered > MAX_PROMPT_BYTES or rendered > MAX_GROWTH * asked:
            return falsified(f"{asked} bytes of conversation become a prompt of {rendered} bytes")
    if not facts["template"]:
        return corroborated("there is no template")
    return corroborated(f"{len(facts['renderings'])} long conversations stay within the limits")


def length_triggers_nothing(facts: Facts) -> Judgement:
    if facts["changes"]:
        return falsified(f"the length of what is asked changes the prompt around it: {facts['changes'][0]}")
    if not facts["template"]:
        return corroborated("there is no template")
    if facts["compared"] < 2:
        return inconclusive("fewer than two renderings show what was asked")
    return corroborated(
        f"{facts['compared']} questions and conversations of all lengths have one surrounding"
    )


def words_are_words(facts: Facts) -> Judgement:
    if facts["words"]:
        return falsified(f"ordinary words are control tokens: {', '.join(map(repr, facts['words'][:5]))}")
    return corroborated(f"none of {facts['special']} special tokens is an ordinary word")


def _gate(gate_id: str, hypothesis: str, check: Check, examples: tuple[Any, Any], **rest: Any) -> None:
    severity = rest.pop("severity", Severity.P0)
    corroborates, falsifies = examples
    enter(
        Gate(
            id=gate_id,
            category="security",
            severity=severity,
            hypothesis=hypothesis,
            check=check,
            corroborates=corroborates,
            falsifies=falsifies,
            **rest,
        )
    )


_CLEAN: dict[str, Any] = {"files": 1, "suspicious": [], "unreadable": []}
_gate(
    "F-SEC-PICKLE-001",
    "Loading the pickles beside the weights would run nothing",
    pickles_are_harmless,
    (_CLEAN, {**_CLEAN, "suspicious": [{"file": "pytorch_model.bin", "names": ["os.system"]}]}),
    measure="opcodes of every pickle, in zip archives too, read without executing: imported names against a list",
    threshold="only names that weights, optimizers and training settings need; every pickle readable to its end",
    source="arxiv 2508.19774; ReversingLabs on nullifAI; CPython pickletools",
)
_gate(
    "F-SEC-REMOTE-CODE-001",
    "The model runs without code of its own",
    no_code_is_wanted,
    (
        {"wanted": [], "python": ["handler.py"]},
        {"wanted": ["config: auto_map {'AutoModel': 'modeling_x.X'}"], "python": []},
    ),
    severity=Severity.P1,
    measure="auto_map, trust_remote_code and custom_pipelines in the settings; Python files in the folder",
    threshold="no setting asks for code",
)
_gate(
    "F-SEC-PATH-001",
    "No path in the model leads out of its folder",
    paths_stay_inside,
    ({"checked": 9, "escaping": []}, {"checked": 9, "escaping": ["vocab.json is a link to a file outside"]}),
    measure="links among the files of the folder; file names in its settings; names in an index are checked on opening",
    threshold="0 lead out; links of a Hugging Face cache into its own blobs are inside",
)
_gate(
    "F-SEC-001",
    "No tensor name is a path",
    names_are_no_paths,
    ({"checked": 272, "paths": []}, {"checked": 272, "paths": ["../../.ssh/authorized_keys"]}),
    severity=Severity.P1,
    measure="tensor names with drive, root, NUL or a part ..",
    threshold="0",
)
_gate(
    "F-SEC-002",
    "The descriptive texts of the file inject nothing into what shows or reads them",
    texts_inject_nothing,
    ({"checked": 20, "injecting": []}, {"checked": 20, "injecting": ["general.name: '\x1b'"]}),
    severity=Severity.P2,
    measure="metadata outside of tokenizer and template: terminal escapes, direction overrides, control tokens",
    threshold="0",
)
_gate(
    "F-SEC-003",
    "The chat template keeps prompts within limits",
    growth_is_bounded,
    (
        {"template": True, "limit": "", "renderings": [{"asked": 11250, "rendered": 11400}]},
        {"template": True, "limit": "the chat template failed: it takes more than 1 s", "renderings": []},
    ),
    severity=Severity.P1,
    measure="a question of 11 KB and a conversation of 41 turns rendered: time, memory, bytes",
    threshold=f"no limit of the sandbox hit; <= {MAX_PROMPT_BYTES} bytes, <= {MAX_GROWTH} times what was asked",
)
_gate(
    "F-SEC-TEMPLATE-001",
    "The length of a question or a conversation changes nothing around it",
    length_triggers_nothing,
    (
        {"template": True, "compared": 12, "changes": []},
        {"template": True, "compared": 12, "changes": ["256 words instead of 1 words"]},
    ),
    severity=Severity.P0,
    measure="questions of 1 to 1024 words and conversations of 1 to 41 turns rendered; text before and after them",
    threshold="unchanged",
    source="CycloneDX/specification#862",
)
_gate(
    "F-SEC-INJECT-001",
    "No ordinary word is a control token",
    words_are_words,
    ({"special": 17, "words": []}, {"special": 17, "words": ["system"]}),
    severity=Severity.P1,
    measure="special tokens that consist of letters and spaces alone",
    threshold="0",
)
