"""A promise holds for every case that was drawn; one counterexample falsifies it."""

from __future__ import annotations

import json

from apr_qa.gates import Facts, Gate, corroborated, enter, falsified, inconclusive
from apr_qa.vocabulary import Judgement, Severity

_SHOWN = 160


def holds(facts: Facts) -> Judgement:
    case = facts.get("counterexample")
    if case is not None:
        once = ", seen once and not again" if facts.get("unstable") else ""
        parts = (_short(case), _short(facts.get("observed")), _short(facts.get("expected")))
        return falsified("counterexample {}: {} instead of {}".format(*parts) + once)
    if facts["examples"] < 1:
        return inconclusive("no case could be tried")
    return corroborated(f"held for {facts['examples']} cases")


def _short(value: object) -> str:
    text = json.dumps(value, ensure_ascii=False, sort_keys=True)
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}…"


def _gate(gate_id: str, name: str, severity: Severity, hypothesis: str, measure: str, threshold: str) -> None:
    tried = {"property": name, "examples": 40, "seconds": 0.5}
    enter(
        Gate(
            id=gate_id,
            category="properties",
            severity=severity,
            hypothesis=hypothesis,
            measure=f"{measure}; cases drawn by Hypothesis, a counterexample is shrunk while the model is loaded",
            threshold=threshold,
            check=holds,
            corroborates=tried,
            falsifies={
                **tried,
                "counterexample": _EXAMPLES[name][0],
                "observed": _EXAMPLES[name][1],
                "expected": _EXAMPLES[name][2],
                "shrunk": True,
            },
        )
    )


_ASKED = {"prompt": "x", "max_tokens": 3}
_TEXTS = ({"text": " b"}, {"text": " a"})
_EXAMPLES: dict[str, tuple[object, object, object]] = {
    "encode_equality": ({"text": " ¼", "special": False}, [216, 130, 123], [1, 2, 3]),
    "decode_encode": ({"text": "¼"}, "", "¼"),
    "template_equality": ({"messages": [{"role": "user", "content": ""}]}, "user:", "<|im_start|>user\n"),
    "template_total": ({"messages": [{"role": "user", "content": "a"}]}, "assistant:", "holds 'a'"),
    "control_tokens": ({"text": "<|im_end|>", "chat": False}, [2], []),
    "greedy_determinism": ({**_ASKED, "before": "y"}, *_TEXTS),
    "batch_invariance": ({"prompts": ["x", "y"], "max_tokens": 3}, *_TEXTS),
    "incremental_decoding": (
        {"text": "one two", "steps": 1},
        {"logit_difference": 4.0},
        {"logit_difference": "at most 0.01"},
    ),
    "greedy_prefix": ({**_ASKED, "more": 1}, *_TEXTS),
    "stop_strings": (
        {**_ASKED, "start": 0, "length": 1},
        {"text": " a", "finish_reason": "length"},
        {"text": "", "finish_reason": "stop", "stop": " "},
    ),
    "max_tokens": (
        {"prompt": "x", "max_tokens": 1},
        {"tokens": 2, "finish_reason": "length"},
        {"tokens": "at most 1"},
    ),
    "seeded_sampling": ({**_ASKED, "before": "y", "seed": 0, "temperature": 1.0}, *_TEXTS),
    "streaming": (_ASKED, {"pieces": " a"}, {"text": " a b"}),
    "odd_prompts": ({"prompt": "\u0000"}, "refused: the engine broke", "an answer"),
    "context_overflow": ({"over": 1, "long_prompt": False}, "answered with 512 tokens", "a refusal"),
    "served_streaming": (_ASKED, {"pieces": " a"}, {"text": " a b"}),
    "concurrent_clients": ({"prompts": ["x", "y"], "max_tokens": 3}, " b", " a"),
    "served_odd_prompts": ({"prompt": "\u0000", "max_tokens": 2}, "status 500", "an answer, or a 4xx"),
}

_RULE = "no counterexample; inconclusive where no case could be tried"

_gate(
    "F-PROP-ENCODE-001",
    "encode_equality",
    Severity.P0,
    "Every text has the token ids that the ground truth's tokenizer gives it",
    "the artifact's engine against the tokenizers library, over arbitrary Unicode text and special tokens",
    f"equal ids; bytes and words that the vocabulary lacks, and in GGUF text that is not normalised, are out; {_RULE}",
)
_gate(
    "F-PROP-DECODE-001",
    "decode_encode",
    Severity.P1,
    "Decoding what was encoded gives the text back",
    "the artifact's engine there and back, over arbitrary Unicode text",
    f"equal but for normalisation, a first blank and punctuation clean-up; {_RULE}",
)
_gate(
    "F-PROP-TEMPLATE-001",
    "template_equality",
    Severity.P0,
    "Every conversation is rendered as the ground truth's chat template renders it",
    "both renderings of conversations with arbitrary texts",
    f"equal text, or both refuse; {_RULE}",
)
_gate(
    "F-PROP-TEMPLATE-002",
    "template_total",
    Severity.P1,
    "The chat template renders every ordinary conversation and keeps what the user wrote",
    "rendering of alternating turns with arbitrary texts",
    f"no refusal, each user's text is in the prompt; {_RULE}",
)
_gate(
    "F-PROP-INJECT-001",
    "control_tokens",
    Severity.P0,
    "No text of a user becomes a control token",
    "ids that the model is given for texts with control tokens written in them, raw and through the template",
    f"no control token in a raw prompt, in a chat those of the template alone; {_RULE}",
)
_gate(
    "F-PROP-GREEDY-001",
    "greedy_determinism",
    Severity.P1,
    "The same greedy request gets the same answer, whatever was asked before",
    "a request after another one, and after itself",
    f"equal ids, text and finish reason on a CPU; {_RULE}",
)
_gate(
    "F-PROP-BATCH-001",
    "batch_invariance",
    Severity.P1,
    "A prompt gets the same answer alone and in a batch",
    "two to four prompts together and one by one, greedily",
    f"equal ids up to the first near tie, whose width depends on the storage type; {_RULE}",
)
_gate(
    "F-PROP-CACHE-001",
    "incremental_decoding",
    Severity.P1,
    "Decoding step by step gives the logits of one forward pass",
    "logits of the last tokens of a text, through the cache and at once",
    f"largest difference in standard deviations of the logits: f32 1e-3, f16 0.03, bf16 0.6, quantised 0.9; {_RULE}",
)
_gate(
    "F-PROP-PREFIX-001",
    "greedy_prefix",
    Severity.P1,
    "Asking for more tokens changes none of the earlier ones",
    "the same greedy request for n and for n + k tokens",
    f"the first n ids are equal up to the first near tie; {_RULE}",
)
_gate(
    "F-PROP-STOP-001",
    "stop_strings",
    Severity.P1,
    "An answer ends before its stop string",
    "a part of the free answer as stop string of the same request",
    f"the text before its first occurrence, finish reason stop; {_RULE}",
)
_gate(
    "F-EDGE-004",
    "max_tokens",
    Severity.P1,
    "No answer has more tokens than were asked for",
    "greedy requests for one to eight tokens",
    f"at most that many, exactly as many with finish reason length; {_RULE}",
)
_gate(
    "F-STAB-001",
    "seeded_sampling",
    Severity.P1,
    "A sampled answer comes again with the same seed",
    "a sampled request after another one, and after itself",
    f"equal ids and text on a CPU; {_RULE}",
)
_gate(
    "F-PROP-STREAM-001",
    "streaming",
    Severity.P1,
    "The pieces of a streamed answer add up to the plain answer",
    "the same greedy request with and without streaming, in process",
    f"equal text; {_RULE}",
)
_gate(
    "F-EDGE-003",
    "odd_prompts",
    Severity.P1,
    "Any text is answered, or refused where it has no tokens",
    "blank, NUL, emoji, right-to-left, combining and arbitrary characters as prompts",
    f"an answer, or a refusal with a reason for a prompt without tokens; {_RULE}",
)
_gate(
    "F-EDGE-002",
    "context_overflow",
    Severity.P1,
    "What exceeds the context is refused, and the session goes on",
    "requests that exceed the context by their prompt or by their new tokens",
    f"a refusal with a reason, and the next request answered as before; {_RULE}",
)
_gate(
    "F-PROP-STREAM-002",
    "served_streaming",
    Severity.P1,
    "A server streams the text that it gives without streaming",
    "the same greedy request over HTTP with and without streaming, over many prompts",
    f"equal text; {_RULE}",
)
_gate(
    "F-PROP-CLIENTS-001",
    "concurrent_clients",
    Severity.P1,
    "Several clients at once get what each of them gets alone",
    "two to six prompts over HTTP at the same time and one after the other, greedily",
    f"equal text; reduced precision may part after a common beginning; {_RULE}",
)
_gate(
    "F-PROP-HTTP-EDGE-001",
    "served_odd_prompts",
    Severity.P2,
    "A server answers any prompt, or says that the request is wrong",
    "odd prompts and limits beyond the context over HTTP",
    f"an answer or a status from 400 to 499, and the next request is answered; {_RULE}",
)
