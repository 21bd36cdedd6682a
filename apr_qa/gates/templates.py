"""The chat template of one artifact: harmless, complete, and true to what each turn says."""

from __future__ import annotations

from typing import Any

from apr_qa.gates import Check, Facts, Gate, corroborated, enter, falsified, inapplicable
from apr_qa.vocabulary import Judgement, Severity

_NONE = "the artifact has no chat template"


def chat_models_have_one(facts: Facts) -> Judgement:
    if facts["present"]:
        return corroborated(f"a chat template of {facts['characters']} characters is there")
    if facts["chat_model"]:
        return falsified(f"there is no chat template, yet {facts['chat_model']}")
    return inapplicable(
        "there is no chat template, and nothing says that the model is meant for conversations"
    )


def it_is_harmless(facts: Facts) -> Judgement:
    if not facts["present"]:
        return inapplicable(_NONE)
    if facts["unsafe"]:
        return falsified(
            f"the chat template reaches for Python's inner parts: {', '.join(facts['unsafe'][:5])}"
        )
    if facts["obstacle"]:
        return falsified(f"the chat template cannot be read: {facts['obstacle']}")
    return corroborated("the chat template uses messages and its own variables only")


def every_turn_is_told(facts: Facts) -> Judgement:
    if not facts["present"]:
        return inapplicable(_NONE)
    if not facts["renders"]:
        return falsified("the chat template refuses a single question")
    lost = [role for role in ("user", "system", "assistant", "again") if facts["roles"][role] == 0]
    if lost:
        names = {"again": "a second question", "user": "the question", "assistant": "the answer before"}
        return falsified(
            f"the chat template drops {', '.join(names.get(r, 'the ' + r + ' message') for r in lost)}"
        )
    refused = [role for role in ("system", "assistant") if facts["roles"][role] is None]
    rest = (
        f"; it refuses conversations with {', '.join(refused)} turns, as some families do" if refused else ""
    )
    return corroborated(f"every turn comes out{rest}")


def the_answer_is_opened(facts: Facts) -> Judgement:
    if not facts["present"]:
        return inapplicable(_NONE)
    prompt = facts["prompt"]
    if not prompt["known"]:
        return inapplicable("the chat template refuses the conversations that would show it")
    if prompt["always"]:
        return falsified(f"the start of an answer is written unasked: {prompt['always']!r}")
    if not prompt["extends"]:
        return falsified("asking for the start of an answer changes what was before it")
    header, tail = prompt["header"].strip(), prompt["tail"].strip()
    if header and not tail:
        return falsified(f"the start of an answer, {header!r}, is not written where it is asked for")
    if header and not (header.startswith(tail) or tail.startswith(header)):
        return falsified(f"an answer is opened with {tail!r}, earlier answers with {header!r}")
    return corroborated(f"an answer is opened with {tail!r}" if tail else "an answer needs no opening")


def words_trigger_nothing(facts: Facts) -> Judgement:
    if not facts["present"]:
        return inapplicable(_NONE)
    if facts["triggers"]:
        shown = ", ".join(repr(word) for word in facts["triggers"][:5])
        return falsified(f"words in a question change the prompt around it: {shown}")
    return corroborated("no word of the template changes the prompt when a question contains it")


def its_source_is_the_same(facts: Facts) -> Judgement:
    if not (facts["truth"] and facts["artifact"]):
        return inapplicable("one side has no chat template")
    if not facts.get("same_source", True):
        return falsified(
            "the chat template is another text than the ground truth's: one of them is out of date"
        )
    return corroborated("both sides have the same chat template, letter for letter")


_GOOD = {
    **{"present": True, "characters": 200, "obstacle": "", "unsafe": [], "renders": True, "chat_model": ""},
    "roles": {"user": 1, "system": 1, "assistant": 1, "again": 1},
    "prompt": {
        "known": True,
        "extends": True,
        "tail": "<|im_start|>assistant\n",
        "header": "<|im_start|>assistant\n",
        "always": "",
    },
    "triggers": [],
}


def _gate(gate_id: str, hypothesis: str, check: Check, bad: dict[str, Any], **rest: Any) -> None:
    enter(
        Gate(
            id=gate_id,
            category="integrity",
            hypothesis=hypothesis,
            check=check,
            corroborates=_GOOD,
            falsifies={**_GOOD, **bad},
            **{"severity": Severity.P1, **rest},
        )
    )


_gate(
    "G0-TEMPLATE-001",
    "A model that was made for conversations carries a chat template",
    chat_models_have_one,
    {"present": False, "chat_model": "generation ends with <|im_end|>"},
    measure="chat template; whether generation ends with an end of turn, or the name says it",
    threshold="there, for such models",
    source="ollama/ollama#8982",
)
_gate(
    "G0-TEMPLATE-SAFE",
    "The chat template runs nothing but itself",
    it_is_harmless,
    {"unsafe": ["attribute __globals__"]},
    severity=Severity.P0,
    measure="syntax tree of the template: attributes and names with leading underscores, reflecting filters and "
    "globals, statements that load other templates",
    threshold="none; it can be parsed",
    source="abetlen/llama-cpp-python#1462; sgl-project/sglang#23660",
)
_gate(
    "G0-TEMPLATE-ROLES",
    "The chat template drops no turn",
    every_turn_is_told,
    {"roles": {"user": 1, "system": 0, "assistant": 1, "again": 1}},
    measure="a made-up word in each turn, looked for in the rendered prompt",
    threshold="at least once each; refusing a role aloud is healthy (Gemma, Mistral)",
    source="ollama/ollama#2334; ggml-org/llama.cpp#20733",
)
_gate(
    "G0-TEMPLATE-PROMPT",
    "The chat template opens the answer when asked, and only then",
    the_answer_is_opened,
    {"prompt": {**_GOOD["prompt"], "tail": ""}},  # type: ignore[dict-item]
    measure="renderings with and without generation prompt, and what stands before an earlier answer",
    threshold="the first extends the second by the beginning that earlier answers have",
    source="instructlab/training#232; unsloth.ai/blog/phi4",
)
_gate(
    "G0-TEMPLATE-TRIGGER",
    "No word in a question changes the prompt around it",
    words_trigger_nothing,
    {"triggers": ["invoice"]},
    measure="every wordy text of the template put into a question; the rendering around the question compared",
    threshold="unchanged",
    source="CycloneDX/specification#862",
)
enter(
    Gate(
        id="G0-TEMPLATE-TEXT",
        category="parity",
        severity=Severity.P2,
        hypothesis="The chat template is the ground truth's, not an earlier or later revision",
        measure="source texts, white space at the ends of lines set aside",
        threshold="equal; renderings are judged by another gate",
        source="ggml-org/llama.cpp#15019",
        check=its_source_is_the_same,
        corroborates={"truth": True, "artifact": True, "same_source": True},
        falsifies={"truth": True, "artifact": True, "same_source": False},
    )
)
