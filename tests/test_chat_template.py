"""Chat templates render as transformers renders them, and cannot do harm."""

from __future__ import annotations

import datetime as dt

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tiny_models import CHAT_TEMPLATE

from apr_qa.errors import InferenceFailed
from apr_qa.inference.chat_template import MAX_CHARACTERS, render

SPECIAL = {"bos_token": "<s>", "eos_token": "</s>"}
USER = [{"role": "user", "content": "hi"}]

LLAMA_2 = """{% for message in messages %}
    {% if message['role'] == 'user' %}
{{ bos_token + '[INST] ' + message['content'].strip() + ' [/INST]' }}
    {%- elif message['role'] == 'system' -%}
        {{ '<<SYS>>\\n' + message['content'] + '\\n<</SYS>>\\n\\n' }}
    {% else %}
{{ ' ' + message['content'] | trim + ' ' + eos_token }}
    {% endif %}
{% endfor %}"""

LOOPS = """{% set ns = namespace(seen=0) %}
{%- for message in messages %}
{%- if message.role == 'system' %}{% continue %}{% endif %}
{%- set ns.seen = ns.seen + 1 %}
{{- loop.index0 }}: {{ message | tojson }}{% generation %}{{ message.content }}{% endgeneration %}
{%- if ns.seen == 3 %}{% break %}{% endif %}
{%- endfor %}
{{ (tools or []) | length }}{{ {'b': 1, 'a': '<é>'} | tojson(indent=2, sort_keys=true) }}"""

MESSAGES = st.lists(
    st.fixed_dictionaries(
        {
            "role": st.sampled_from(["user", "assistant", "system"]),
            "content": st.text(st.characters(exclude_categories=("Cs",)), max_size=30),
        }
    ),
    min_size=1,
    max_size=5,
)


@pytest.mark.parametrize("template", [CHAT_TEMPLATE, LLAMA_2, LOOPS], ids=["chatml", "llama-2", "loops"])
@given(messages=MESSAGES, prompt=st.booleans())
def test_the_text_is_the_one_transformers_renders(
    template: str, messages: list[dict[str, str]], prompt: bool
) -> None:
    from transformers.utils.chat_template_utils import render_jinja_template

    [theirs], _ = render_jinja_template(
        [messages], chat_template=template, add_generation_prompt=prompt, **SPECIAL
    )
    assert render(template, messages, special_tokens=SPECIAL, add_generation_prompt=prompt) == theirs


def test_the_date_of_today_can_be_asked_for() -> None:
    before = dt.datetime.now().strftime("%Y-%m-%d")
    shown = render("{{ strftime_now('%Y-%m-%d') }}", USER, special_tokens={})
    assert shown in (before, dt.datetime.now().strftime("%Y-%m-%d"))


def test_the_reason_of_the_template_reaches_the_reader() -> None:
    with pytest.raises(InferenceFailed, match="roles must alternate"):
        render("{{ raise_exception('roles must alternate') }}", USER, special_tokens={})


def test_a_syntax_error_names_its_line() -> None:
    with pytest.raises(InferenceFailed) as caught:
        render("a\nb\n{% if %}", USER, special_tokens={})
    assert caught.value.where == "chat template, line 3"


@pytest.mark.parametrize(
    "template",
    [
        "{{ ''.__class__.__mro__[1].__subclasses__() }}",
        "{{ messages.append(1) }}",
        "{{ messages[0].update({'content': 'other'}) }}",
        "{{ raise_exception.__globals__['json'].loads }}",
        "{{ '{0.__class__.__init__.__globals__}'.format(raise_exception) }}",
        "{% include '/etc/passwd' %}",
    ],
)
def test_a_template_reaches_nothing_outside_and_changes_nothing(template: str) -> None:
    messages = [{"role": "user", "content": "hi"}]
    with pytest.raises(InferenceFailed):
        render(template, messages, special_tokens={})
    assert messages == USER


@pytest.mark.parametrize(
    "template",
    [
        "{% for i in range(1000000000) %}{% endfor %}",
        "{{ 'a' * 1000000000000 }}",
        "{{ 1000000000000 * ['a'] }}",
        "{{ 2 ** 1000000000 }}",
        "{{ 10 ** 64 ** 64 ** 64 ** 64 ** 64 }}",
        "{% for i in range(90000) %}{{ 'aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa' }}{% endfor %}",
        "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}",
        "{{ 1 // 0 }}",
        "{{ messages[7].content + 'x' }}",
        "{{ messages + 1 }}",
        "{{ {}['a']['b'] }}",
        "a" * (MAX_CHARACTERS + 1),
    ],
    ids=lambda template: template[:30],
)
def test_a_template_that_breaks_or_never_ends_is_an_answer_not_a_crash(template: str) -> None:
    with pytest.raises(InferenceFailed, match="chat template"):
        render(template, USER, special_tokens={})


def test_output_up_to_the_limit_is_allowed() -> None:
    assert len(render(f"{{{{ 'a' * {MAX_CHARACTERS} }}}}", USER, special_tokens={})) == MAX_CHARACTERS
