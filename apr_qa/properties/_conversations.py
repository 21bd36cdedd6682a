"""Strategies of conversations, and the ground truth's rendering of them."""

from __future__ import annotations

from collections.abc import Collection
from typing import TYPE_CHECKING

from apr_qa.comparison.generation import token_text
from apr_qa.errors import Inapplicable, InferenceFailed
from apr_qa.inference import chat_template
from apr_qa.properties import Subject
from apr_qa.properties._texts import texts

if TYPE_CHECKING:
    from hypothesis.strategies import SearchStrategy

Message = dict[str, str]

_CONTENTS = (
    *(
        "",
        " ",
        "Hi.",
        "What is 2 + 2?",
        "  indented\n\n\tcode  \n",
        "Write a poem.\n",
        "yes",
        "user",
        "system",
    ),
    *("{{ 7 * 7 }}", "{% if true %}x{% endif %}", "<b>&amp;</b>", '{"a": [1]}', "```py\nx = 1\n```", "a\\nb"),
    *("<think>b</think>c", "[INST] b [/INST]", "### Response:", "assistant\n", "Größe", "日本", "🙂"),
)
_TOKENS = ("bos_token", "eos_token", "pad_token", "unk_token")


def contents(extra: Collection[str] = ()) -> SearchStrategy[str]:
    """Return what somebody may write in one turn."""
    from hypothesis import strategies as st

    return st.one_of(st.sampled_from([*_CONTENTS, *sorted(extra)]), texts(extra))


def conversations(extra: Collection[str] = (), *, system: bool = True) -> SearchStrategy[list[Message]]:
    """Return conversations of alternating turns that end with the user's; some begin with a system message."""
    from hypothesis import strategies as st

    def told(words: list[str]) -> list[Message]:
        roles = ["user", "assistant"]
        return [{"role": roles[i % 2], "content": text} for i, text in enumerate(words)]

    turns = st.sampled_from((1, 1, 3, 5)).flatmap(
        lambda count: st.lists(contents(extra), min_size=count, max_size=count).map(told)
    )
    if not system:
        return turns
    first = contents(extra).map(lambda text: [{"role": "system", "content": text}])
    return st.one_of(turns, st.tuples(first, turns).map(lambda parts: parts[0] + parts[1]))


def render_truth(subject: Subject, messages: list[Message]) -> str | None:
    """Render with the ground truth's template, None where it refuses; raises Inapplicable without one."""
    truth = subject.truth
    if not truth.chat_template:
        raise Inapplicable("the ground truth has no chat template")
    settings = truth.tokenizer_config
    special = {name: text for name in _TOKENS if (text := token_text(settings.get(name))) is not None}
    try:
        return chat_template.render(truth.chat_template, messages, special_tokens=special)
    except InferenceFailed:
        return None


def require_template(subject: Subject) -> None:
    """Raise Inapplicable if the artifact has no chat template."""
    if not subject.own.chat_template:
        raise Inapplicable("the artifact has no chat template")
