"""Chat templates that are missing, foreign, stale, or lose part of a conversation."""

from __future__ import annotations

import functools
import re
from typing import Any

from apr_qa.defects import Inexpressible, Specimen
from apr_qa.defects import _text as text
from apr_qa.defects._editing import editing, planted

_ALL = ("safetensors", "gguf", "apr")
_OPENING = re.compile(r"\{%-?\s*if\s+add_generation_prompt[^%]*?-?%\}(.*?)\{%-?\s*endif\s*-?%\}", re.DOTALL)
_INST = (
    "{{ bos_token }}{% for message in messages %}{% if message['role'] == 'user' %}"
    "{{ '[INST] ' + message['content'] + ' [/INST]' }}{% else %}{{ ' ' + message['content'] + eos_token }}{% endif %}"
    "{% endfor %}"
)
_HEADERS = (
    "{% for message in messages %}{{ '<|start_header_id|>' + message['role'] + '<|end_header_id|>\\n\\n' "
    "+ message['content'] + '<|eot_id|>' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}{% endif %}"
)
_CHATML = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>\\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)

_planted = functools.partial(planted, "template")


@_planted("template-missing", _ALL, "ollama/ollama#8982, ollama/ollama#6371, Jeffser/Alpaca#1032")
def _missing(specimen: Specimen) -> None:
    """A model for conversations comes without its chat template."""
    with editing(specimen) as image:
        text.template(image)
        text.set_template(image, None)


@_planted("template-no-generation-prompt", _ALL, "instructlab/training#232, stanford-crfm/helm#3698")
def _never_opened(specimen: Specimen) -> None:
    """The template does not open the answer when it is asked to."""
    with editing(specimen) as image:
        text.set_template(image, _without_opening(text.template(image), ""))


@_planted("template-always-generation-prompt", _ALL, "unsloth.ai/blog/phi4")
def _always_opened(specimen: Specimen) -> None:
    """The template opens an answer even where none is wanted."""
    with editing(specimen) as image:
        text.set_template(image, _without_opening(text.template(image), r"\1"))


def _without_opening(template: str, kept: str) -> str:
    changed, count = _OPENING.subn(kept, template)
    if not count:
        raise Inexpressible("needs a template that asks for add_generation_prompt")
    return changed


@_planted("template-wrong-family", _ALL, "ollama/ollama#4210, ollama/ollama#3767")
def _another_family(specimen: Specimen) -> None:
    """The template writes the markers of another family."""
    with editing(specimen) as image:
        present = text.template(image)
        text.set_template(
            image, _CHATML if "start_header_id" in present or "<|im_start|>" not in present else _HEADERS
        )


@_planted("template-wrong-family-plain", _ALL, "ollama/ollama#3767")
def _another_family_plain(specimen: Specimen) -> None:
    """The template writes markers that are plain text to this model."""
    with editing(specimen) as image:
        if "[INST]" in text.template(image):
            raise Inexpressible("needs a template of another family than Llama 2's")
        text.set_template(image, _INST)


@_planted("template-drops-system", _ALL, "ollama/ollama#2334, ggml-org/llama.cpp#20733")
def _no_system(specimen: Specimen) -> None:
    """The system message is left out of the prompt."""
    with editing(specimen) as image:
        present = text.template(image)
        dropped = "{% set messages = messages | rejectattr('role', 'equalto', 'system') | list %}"
        text.set_template(image, dropped + present)


@_planted("template-raises-on-system", _ALL, "ggml-org/llama.cpp#20733")
def _refuses_system(specimen: Specimen) -> None:
    """The template of a model that knows system messages refuses them."""
    with editing(specimen) as image:
        refusal = (
            "{% if messages[0]['role'] == 'system' %}{{ raise_exception('no system messages') }}{% endif %}"
        )
        text.set_template(image, refusal + text.template(image))


@_planted(
    "template-stale-vs-upstream", _ALL, "ggml-org/llama.cpp#15019, ggml-org/llama.cpp#12275", expected="warn"
)
def _stale(specimen: Specimen) -> None:
    """An earlier revision of the template, which trimmed what messages say."""
    with editing(specimen) as image:
        present = text.template(image)
        changed = re.sub(r"message(\['content'\]|\.content)(?!\s*\|)", r"(message\1 | trim)", present)
        if changed == present:
            raise Inexpressible("needs a template that writes message['content']")
        text.set_template(image, changed)


@_planted("template-stale-in-a-branch", _ALL, "lmstudio-ai/lmstudio-bug-tracker#2012", expected="warn")
def _stale_branch(specimen: Specimen) -> None:
    """An earlier revision that differs only where tools are described."""
    with editing(specimen) as image:
        branch = "{% if tools and tools | length > 1000 %}{% set several = true %}{% endif %}"
        text.set_template(image, branch + text.template(image))


# ---- healthy

_control = functools.partial(planted, "control", expected="pass", alone=True)


def _writing(template: str) -> Any:
    def plant(specimen: Specimen) -> None:
        with editing(specimen) as image:
            known = text.tokens(image)
            if "<|im_start|>" not in known or "<|im_end|>" not in known:
                raise Inexpressible("needs a vocabulary with <|im_start|> and <|im_end|>")
            text.set_template(image, template)

    return plant


_HEALTHY = {
    "template-refuses-system": (
        "{% if messages[0]['role'] == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}"
        + _CHATML,
        "google/gemma-2",
        "a template that refuses system messages aloud",
    ),
    "template-with-namespace-and-tools": (
        "{%- set ns = namespace(found=false, index=0) -%}{%- for message in messages -%}"
        "{%- if message.role == 'user' -%}{%- set ns.found = true -%}{%- set ns.index = loop.index0 -%}{%- endif -%}"
        "{%- endfor -%}{%- if not ns.found -%}{{- raise_exception('no user') -}}{%- endif -%}"
        "{%- if tools -%}{{- '<|im_start|>system\\n' -}}{%- for tool in tools -%}{{- tool | tojson -}}{%- endfor -%}"
        "{{- '<|im_end|>\\n' -}}{%- endif -%}" + _CHATML,
        "Qwen/Qwen3",
        "a template with a namespace, loops and tools",
    ),
    "template-with-today": (
        "{%- set today = strftime_now('%d %b %Y') if strftime_now is defined else '26 Jul 2024' -%}"
        "{{ '<|im_start|>system\\nToday Date: ' + today + '<|im_end|>\\n' }}" + _CHATML,
        "meta-llama/Llama-3.2",
        "a template that writes today's date",
    ),
    "template-with-thinking": (
        "{% for message in messages %}{% set content = message['content'] %}"
        "{% if message['role'] == 'assistant' and '</think>' in content %}"
        "{% set content = content.split('</think>')[-1] %}"
        "{% endif %}{{ '<|im_start|>' + message['role'] + '\\n' + content + '<|im_end|>\\n' }}{% endfor %}"
        "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n<think>\\n' }}{% endif %}",
        "deepseek-ai/DeepSeek-R1",
        "a template that leaves earlier thoughts out and opens new ones",
    ),
    "template-that-marks-answers": (
        "{% for message in messages %}{% if message['role'] == 'assistant' %}{{ '<|im_start|>assistant\\n' }}"
        "{% generation %}{{ message['content'] + '<|im_end|>' }}{% endgeneration %}{{ '\\n' }}{% else %}"
        "{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>\\n' }}{% endif %}{% endfor %}"
        "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}",
        "HuggingFaceTB/SmolLM3",
        "a template that marks answers for training",
    ),
}
for _name, (_source, _seen, _said) in _HEALTHY.items():
    _control(_name, ("safetensors",), _seen, description=_said)(_writing(_source))


@_control("base-model-without-template", ("safetensors",), "HuggingFaceTB/SmolLM2-135M")
def _base_model(specimen: Specimen) -> None:
    """A base model: no template, and generation ends with the end of a text."""
    with editing(specimen) as image:
        known = text.tokens(image)
        end = next(
            (token for token in ("<|endoftext|>", "<eos>", "<|end_of_text|>", "</s>") if token in known), None
        )
        if end is None:
            raise Inexpressible("needs a token for the end of a text")
        text.template(image)
        text.set_template(image, None)
        text.settings(image)["eos_token"] = end
        text.state_id(image, "eos", known[end])
