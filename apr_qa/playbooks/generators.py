"""Generators of questions as playbooks name them: by words, or as a strategy with its texts written out.

``multi_turn_chat(turns: 3)`` and ``code_prompt(lang: rust)`` are known by the words in their names;
``Union::new(vec![Just("2+2="), …])`` by the texts that it holds. What of either means nothing here is told.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

_FILLERS = (
    "prompt prompts random generator generate gen test tests task tasks input inputs case cases strategy sample "
    "samples simple basic short the of and with any"
)
"""Words that say nothing about the kind of question."""

_BY_ORACLE = {
    "arithmetic": "arithmetic math maths mathematical sum sums addition subtraction multiplication calculation "
    "calculations calculator number numbers numeric numerical equation equations algebra",
    "code_syntax": "code coding program programming programs function functions syntax python rust javascript go "
    "java snippet snippets algorithm algorithms fibonacci",
    "response": "chat chats turn turns multi conversation conversations dialog dialogue qa question questions answer "
    "instruction instructions instruct following reasoning logic knowledge fact facts factual trivia summary "
    "summarize summarization translate translation explain explanation general story stories creative writing "
    "json sql list classification sentiment commonsense science history geography",
    "garbage": "edge unicode emoji empty blank whitespace long context special tokens token adversarial injection "
    "jailbreak hostile malformed fuzz fuzzing text texts string strings ascii alphanumeric multilingual "
    "language languages chinese arabic japanese boundary stress safety",
}
ORACLE_OF: Mapping[str, str] = {
    word: oracle for oracle, words in _BY_ORACLE.items() for word in words.split()
}
"""Word in the name of a generator -> oracle whose questions it draws and that judges the answers."""

KNOWN = (
    "arithmetic",
    "code_prompt",
    "chat_prompt",
    "qa_prompt",
    "reasoning_prompt",
    "edge_prompt",
    "any_prompt",
)
"""Names to suggest."""
MEANT: Mapping[str, tuple[str, ...]] = {"arithmetic": ("a", "b", "op"), "code_syntax": ("lang", "language")}
"""Arguments that change what is drawn."""

_CALL = re.compile(r"\s*(\w+)\s*(?:\((.*)\))?\s*", re.DOTALL)
_ARGUMENT = re.compile(r"(\w+)\s*:\s*([^,]+)")
_TEXT = re.compile(r'Just\(\s*(?:String::from\(\s*)?"((?:[^"\\]|\\.)*)"')
_STRATEGY = re.compile(r"\bproptest\b|\bprop_oneof!|\bprop::|\bJust\(|\.prop_map\(|\bUnion::new\b")
_ESCAPES = {"n": "\n", "t": "\t", "r": "\r", "0": "\0"}


def called(text: str) -> str:
    """Return the name of the generator that a call names; a text that is no call is its own name."""
    match = _CALL.fullmatch(text)
    return match[1] if match else text.strip()


def arguments(text: str) -> dict[str, str]:
    """Return the arguments of a call by name.

    >>> arguments("code_prompt(lang: python|rust, size: small)")
    {'lang': 'python|rust', 'size': 'small'}
    """
    match = _CALL.fullmatch(text)
    return {name: value.strip() for name, value in _ARGUMENT.findall((match and match[2]) or "")}


def oracle_of(text: str) -> str:
    """Return the oracle that draws what a call asks for, or nothing where no word of its name is known.

    >>> oracle_of("multi_turn_chat(turns: 3)"), oracle_of("any_prompt()"), oracle_of("frobnicate()")
    ('response', 'garbage', '')
    """
    words = [word for word in re.split(r"[\W_\d]+", called(text).lower()) if word]
    telling = [word for word in words if word not in _FILLERS.split()]
    if not telling:
        return "garbage" if words else ""
    return next((ORACLE_OF[word] for word in telling if word in ORACLE_OF), "")


def is_strategy(text: str) -> bool:
    """Say whether a generator is an expression of a property-testing library and not a call by name."""
    return bool(_STRATEGY.search(text))


def texts(text: str) -> tuple[str, ...]:
    """Return the texts that a strategy writes out, each once.

    >>> texts('Union::new(vec![Just("2+2="), Just("say \\\\"hi\\\\"")])')
    ('2+2=', 'say "hi"')
    """
    found = (re.sub(r"\\(.)", lambda m: _ESCAPES.get(m[1], m[1]), raw) for raw in _TEXT.findall(text))
    return tuple(dict.fromkeys(one for one in found if one))


def unmeant(text: str, oracle: str) -> str:
    """Say which part of a generator changes nothing about what is drawn, or nothing."""
    if is_strategy(text):
        drawn = text.count("prop_map") + text.count("any::<")
        return "patterns; the texts that it writes out are asked" if drawn else ""
    known = MEANT.get(oracle, ())
    loose = [f"{name}: {value}" for name, value in arguments(text).items() if name not in known]
    return ", ".join(loose)
