"""Special tokens of one artifact: where texts begin, where turns end, and whether all places say the same."""

from __future__ import annotations

from typing import Any

from apr_qa.gates import Check, Facts, Gate, corroborated, enter, falsified, inapplicable
from apr_qa.vocabulary import Judgement, Severity

_NO_TOKENIZER = "there is no tokenizer that could be asked"


def tokens_are_whole(facts: Facts) -> Judgement:
    if not facts["present"]:
        return inapplicable(_NO_TOKENIZER)
    if facts["absent"]:
        return falsified(
            f"tokens that the settings name are not in the vocabulary: {', '.join(facts['absent'])}"
        )
    if facts["split"]:
        return falsified(f"special tokens are cut into pieces: {', '.join(facts['split'][:5])}")
    if facts["ordinary"]:
        return falsified(f"special tokens are typed as ordinary text: {', '.join(facts['ordinary'][:5])}")
    if not facts["checked"]:
        return inapplicable("neither settings nor chat template name a special token")
    return corroborated(f"each of {facts['checked']} special tokens in use is one control token")


def template_speaks_the_vocabulary(facts: Facts) -> Judgement:
    if not facts["present"]:
        return inapplicable(_NO_TOKENIZER)
    if facts["foreign"]:
        return falsified(
            f"the chat template writes markers that are no tokens here: {', '.join(facts['foreign'][:5])}"
        )
    if facts["unused_start"]:
        return falsified(
            f"turns of this model begin with {facts['unused_start']}, which its chat template never writes"
        )
    return corroborated("the chat template writes markers of this vocabulary")


def ends_agree(facts: Facts) -> Judgement:
    stated = facts["stated"]
    if facts["contradicting"]:
        one, other = facts["contradicting"]
        return falsified(f"generation ends at {stated[one]} by {one}, at {stated[other]} by {other}")
    if not stated:
        return inapplicable("no end of generation is named")
    return corroborated(f"generation ends at {facts['stops']} by {' and '.join(stated)}")


def turns_end(facts: Facts) -> Judgement:
    if not facts["turn_end"]:
        return inapplicable("the chat template ends a turn with no special token")
    if facts["turn_end_id"] in facts["stops"]:
        if facts["looks_like_end"]:
            return corroborated(f"generation stops at {facts['turn_end']}, the end of a turn")
        return falsified(
            f"generation ends first of all at {facts['eos_text']!r}, a turn of the chat template at {facts['turn_end']}"
        )
    if facts["one_for_all"] or not facts["looks_like_end"]:
        return falsified(
            f"turns of the chat template end with {facts['turn_end']}, generation stops at {facts['eos_text']!r} only"
        )
    return inapplicable(
        f"generation does not stop at {facts['turn_end']}, with which the chat template ends a turn: so do base models"
    )


def beginning_is_single(facts: Facts) -> Judgement:
    if facts["adds"] and facts["named"] is None:
        return falsified("a first token is to be added to every text, and none is named")
    if not facts["present"]:
        return inapplicable(_NO_TOKENIZER)
    put, stated = facts["put_before"], facts["stated"]
    if facts["leading"] > 1:
        return falsified(f"the chat template begins with {facts['leading']} first tokens")
    if stated and set(put) - set(stated) and not set(put) & set(stated):
        return falsified(f"texts begin with {put}, the first token is said to be {stated}")
    if put and facts["leading"] and facts["in_turns"] > 1:
        return falsified("the token that begins every turn is put before the text once more")
    return corroborated(f"texts begin with {put}" if put else "nothing is put before a text")


def padding_is_apart(facts: Facts) -> Judgement:
    if not facts["pad"]:
        return inapplicable("no padding token is named")
    if set(facts["pad"]) & set(facts["stops"]) and facts["pad_token"]:
        return falsified(
            f"padding is an end of generation ({facts['pad']}) although the vocabulary has {facts['pad_token']!r}"
        )
    return corroborated(f"padding is {facts['pad']}, generation ends at {facts['stops']}")


def rows_have_tokens(facts: Facts) -> Judgement:
    if facts["listed"] is None or facts["rows"] is None:
        return inapplicable("only GGUF lists a token for every embedding row")
    if facts["listed"] != facts["rows"]:
        return falsified(f"{facts['listed']} tokens are listed for {facts['rows']} embedding rows")
    if facts["mistyped"]:
        return falsified(f"padding is typed as tokens in use: {', '.join(facts['mistyped'][:5])}")
    return corroborated(f"{facts['listed']} tokens for as many embedding rows")


_LEAST_MADE = 0.98


def merges_make_the_tokens(facts: Facts) -> Judgement:
    if not facts["tokens"]:
        return inapplicable("the tokenizer does not merge, or has tokens beside its merges by design")
    for what, said in (
        ("unmade", "tokens that no merge makes"),
        ("unknown", "merges of pieces that are no tokens"),
    ):
        if facts[what] > (1 - _LEAST_MADE) * facts["tokens"]:
            return falsified(
                f"{facts[what]} {said}, beside {facts['merges']} merges and {facts['tokens']} tokens"
            )
    return corroborated(
        f"{facts['merges']} merges make {facts['tokens'] - facts['unmade']} of {facts['tokens']} tokens"
    )


def _gate(gate_id: str, hypothesis: str, check: Check, good: Facts, bad: dict[str, Any], **rest: Any) -> None:
    enter(
        Gate(
            id=gate_id,
            category="integrity",
            hypothesis=hypothesis,
            check=check,
            corroborates=good,
            falsifies={**good, **bad},
            **{"severity": Severity.P1, **rest},
        )
    )


_TOKENS = {
    **{"present": True, "checked": 3, "absent": [], "split": [], "ordinary": [], "foreign": []},
    "unused_start": "",
}
_ENDS = {
    "stated": {"config.json": [2], "tokenizer_config.json": [2]},
    **{"contradicting": [], "turn_end": "<|im_end|>", "turn_end_id": 2, "eos_text": "<|im_end|>"},
    **{"looks_like_end": True, "one_for_all": False, "pad": [0], "stops": [2], "pad_token": "<pad>"},
}
_BEGINNING = {
    **{"present": True, "adds": True, "named": "<s>", "stated": [1], "put_before": [1]},
    **{"leading": 1, "in_turns": 1},
}

_gate(
    "G0-SPECIAL-001",
    "Every special token in use is one control token",
    tokens_are_whole,
    _TOKENS,
    {"split": ["<|im_start|>"]},
    severity=Severity.P0,
    measure="tokens that the settings name or the chat template writes, encoded one by one; their types",
    threshold="one id each; bos and eos special, in GGUF all markers of the template",
    source="unslothai/unsloth#5070; ggml-org/llama.cpp#15842",
)
_gate(
    "G0-SPECIAL-002",
    "The chat template writes the markers of this model's vocabulary",
    template_speaks_the_vocabulary,
    _TOKENS,
    {"foreign": ["<|start_header_id|>"]},
    measure="markers in the texts of the template against the vocabulary; start of turn of the model's end of turn",
    threshold="no foreign marker where others are tokens",
    source="ollama/ollama#4210",
)
_gate(
    "G0-STOP-001",
    "All places agree where generation ends",
    ends_agree,
    _ENDS,
    {
        "contradicting": ["config.json", "tokenizer_config.json"],
        "stated": {"config.json": [3], "tokenizer_config.json": [2]},
    },
    severity=Severity.P0,
    measure="eos ids of configuration, generation settings and tokenizer settings",
    threshold="an id in common",
    source="vllm-project/vllm#4180",
)
_gate(
    "G0-STOP-002",
    "Generation stops where the chat template ends a turn",
    turns_end,
    _ENDS,
    {"stops": [0], "eos_text": "<|endoftext|>", "one_for_all": True},
    measure="the token that the template writes after an assistant's text against the ids at which generation stops",
    threshold="among them; base models that stop at the end of a text only are set aside",
    source="unsloth.ai/blog/phi4",
)
_gate(
    "G0-BOS-001",
    "A text begins with one first token, the one that is named, or with none",
    beginning_is_single,
    _BEGINNING,
    {"leading": 2},
    severity=Severity.P0,
    measure="ids put before a text; first tokens at the start of a rendered conversation",
    threshold="named if added; at most one; not the token that begins every turn",
    source="ggml-org/llama.cpp#7332; ggml-org/llama.cpp#7898",
)
_gate(
    "G0-PAD-001",
    "Padding is not an end of generation where the vocabulary has a token for it",
    padding_is_apart,
    _ENDS,
    {"pad": [2]},
    severity=Severity.P2,
    measure="pad ids against ids at which generation stops",
    threshold="none in common; vocabularies without a padding token are healthy",
    source="unsloth.ai/blog/phi4; huggingface/trl#3091",
)
_gate(
    "G0-VOCAB-ROWS",
    "A GGUF file lists one token for every embedding row, padding typed as unused",
    rows_have_tokens,
    {"listed": 32064, "rows": 32064, "mistyped": []},
    {"listed": 32011},
    severity=Severity.P0,
    measure="length of the token list against the rows of the embedding; types of padding tokens",
    threshold="equal; unused",
    source="ggml-org/llama.cpp#4958",
)
_gate(
    "G0-MERGES-001",
    "The merges make the tokens of the vocabulary",
    merges_make_the_tokens,
    {"merges": 48900, "tokens": 48900, "unmade": 0, "unknown": 0},
    {"merges": 44010, "unmade": 4890},
    measure="tokens of several characters against the results of all merges, added tokens set aside",
    threshold="98 %; SentencePiece and whole-word vocabularies are set aside",
    source="SmolLM2 and Qwen2: all; Integral2u/SharpMind#4",
)
