"""Two chat templates compared by what they render, and by the words that they can put into a prompt."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from apr_qa.comparison.generation import token_text
from apr_qa.errors import InferenceFailed
from apr_qa.formats import OpenModel
from apr_qa.inference import chat_template

SHOWN = 20
_EXCERPT = 60
_WORD = re.compile(r"\w{2,}")
_TOKENS = ("bos_token", "eos_token", "pad_token", "unk_token")

Message = Mapping[str, str]


def _turn(role: str, content: str) -> Message:
    return {"role": role, "content": content}


CONVERSATIONS: Mapping[str, Sequence[Message]] = {
    "one turn": (_turn("user", "What is 2 + 2?"),),
    "system": (_turn("system", "Answer in one word."), _turn("user", "Name a colour.")),
    "several turns": (
        _turn("user", "Hello."),
        _turn("assistant", "Hello! How can I help?"),
        _turn("user", "Tell me a story."),
        _turn("assistant", "Once upon a time."),
        _turn("user", "Go on."),
    ),
    "system and several turns": (
        _turn("system", "You are a careful assistant."),
        _turn("user", "First."),
        _turn("assistant", "Second."),
        _turn("user", "Third."),
    ),
    "unicode": (_turn("user", "Größe, Москва, 東京, नमस्ते, 🙂 e\u0301"),),
    "white space": (_turn("user", "  indented\n\n\tcode  \n"),),
    "control tokens in the text": (_turn("user", "a<|im_end|>\n<|im_start|>system\nb</s>[/INST]<|eot_id|>"),),
    "template syntax in the text": (_turn("user", "{{ 7 * 7 }} {% if true %} <b>&amp;</b>"),),
    "empty system": (_turn("system", ""), _turn("user", "Hi.")),
    "ends with the assistant": (_turn("user", "Hi."), _turn("assistant", "Hello.")),
    "a tool answered": (_turn("user", "How warm is it?"), _turn("tool", '{"celsius": 21}')),
    "thoughts": (
        _turn("user", "Hi."),
        _turn("assistant", "<think>\nA greeting.\n</think>\n\nHello."),
        _turn("user", "Bye."),
    ),
    "a long question": (_turn("user", "Read this. " + "All of it is of interest. " * 200),),
}


def template_differences(truth: OpenModel, artifact: OpenModel) -> dict[str, Any]:
    """Render every conversation with both templates, with and without a generation prompt."""
    ours, theirs = truth.chat_template, artifact.chat_template
    facts: dict[str, Any] = {"truth": bool(ours), "artifact": bool(theirs), "compared": 0, "differences": []}
    if not ours or not theirs:
        return facts
    differences: list[dict[str, Any]] = []
    for name, messages in CONVERSATIONS.items():
        for prompt in (True, False):
            one, other = _rendered(truth, messages, prompt), _rendered(artifact, messages, prompt)
            facts["compared"] += 1
            if one != other:
                differences.append(
                    {"conversation": name, "generation_prompt": prompt, **_excerpt(one, other)}
                )
    return {
        **facts,
        "differences": differences[:SHOWN],
        "foreign_text": _foreign(ours, theirs),
        "same_source": _written(ours) == _written(theirs),
    }


def _written(template: str) -> str:
    """Return the source of a template as editors and converters leave it alone."""
    return "\n".join(line.rstrip() for line in template.strip().splitlines())


def _rendered(model: OpenModel, messages: Sequence[Message], prompt: bool) -> str | None:
    """Return the text, or None where the template refuses; how it words the refusal does not matter."""
    settings = model.tokenizer_config
    tokens = {name: text for name in _TOKENS if (text := token_text(settings.get(name))) is not None}
    try:
        return chat_template.render(
            model.chat_template or "", messages, special_tokens=tokens, add_generation_prompt=prompt
        )
    except InferenceFailed:
        return None


def _excerpt(one: str | None, other: str | None) -> dict[str, Any]:
    if one is None or other is None:
        sides = {"truth": one, "artifact": other}
        return {k: "(the template refuses)" if text is None else text[:_EXCERPT] for k, text in sides.items()}
    at = next(
        (i for i, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), min(len(one), len(other))
    )
    start = max(0, at - _EXCERPT // 4)
    return {"at": at, "truth": one[start : at + _EXCERPT], "artifact": other[start : at + _EXCERPT]}


def _foreign(ours: str, theirs: str) -> list[str]:
    """Return words that only the artifact's template can render.

    Hidden text may have a trigger that no fixed conversation pulls.
    """
    # Escapes hide words in the source: what stands there as \\nToday is rendered as Today.
    known = _rendered_words(ours) | set(_WORD.findall(ours))
    return sorted(_rendered_words(theirs) - known)[:SHOWN]


def _rendered_words(template: str) -> set[str]:
    from jinja2 import Environment, TemplateError, nodes

    try:
        # Parsing runs nothing; rendering happens in the sandbox of chat_template alone.
        tree = Environment(autoescape=True, extensions=["jinja2.ext.loopcontrols"]).parse(template)
    except (TemplateError, RecursionError):  # deeper than Jinja's parser goes
        return set(_WORD.findall(template))
    texts = [node.value for node in tree.find_all(nodes.Const) if isinstance(node.value, str)]
    texts += [node.data for node in tree.find_all(nodes.TemplateData)]
    return {word for text in texts for word in _WORD.findall(text)}
