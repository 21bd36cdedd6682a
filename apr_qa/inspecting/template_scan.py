"""A chat template looked at as a program: what it says, what it reaches for, what it does with each role.

Parsing runs nothing; rendering happens in the sandbox of `inference.chat_template` alone.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from apr_qa.comparison.generation import ids_of, stated_ids, token_ids, token_text
from apr_qa.errors import InferenceFailed
from apr_qa.formats import OpenModel
from apr_qa.inference import chat_template
from apr_qa.inspecting.turn_ends import TURN_ENDS

SHOWN = 10
MAX_CHARACTERS = 1 << 20
SENTINELS = {"system": "Zyxsysqa", "user": "Zyxuserqb", "assistant": "Zyxassistqc", "again": "Zyxagainqd"}
"""Words that no template contains; what is told of a turn is told by where they come out."""
_TOKENS = ("bos_token", "eos_token", "pad_token", "unk_token")
_GADGETS = frozenset(("cycler", "joiner", "lipsum", "self", "get_flashed_messages"))
"""Globals that chat templates have no use for and that template injections start from."""
_REFLECTING_FILTERS = frozenset(("attr",))
_DUNDER = re.compile(r"\w{0,40}__\w{0,40}")
_GENERATION = re.compile(r"\{%[-+]?\s*(?:end)?generation\s*[-+]?%\}")
_WORD = re.compile(r"[^\W\d_][\w '-]{2,60}")
_INSTRUCTED = re.compile(r"(?:^|[-_ .])(?:instruct|chat|it)(?:$|[-_ .])", re.IGNORECASE)
_MAX_TRIGGERS = 60


def literals(template: str) -> list[str]:
    """Return every text that stands in a template; the whole source where it cannot be parsed."""
    from jinja2 import TemplateError, nodes

    try:
        tree = _parsed(template)
    except (TemplateError, RecursionError):
        return [template]
    texts = [node.value for node in tree.find_all(nodes.Const) if isinstance(node.value, str)]
    return [*texts, *(node.data for node in tree.find_all(nodes.TemplateData))]


def rendered(model: OpenModel, messages: Sequence[Mapping[str, Any]], *, prompt: bool) -> str | None:
    """Return what the artifact's template makes of a conversation, None where it refuses or there is none."""
    settings = model.tokenizer_config
    tokens = {name: text for name in _TOKENS if (text := token_text(settings.get(name))) is not None}
    try:
        return chat_template.render(
            model.chat_template or "", messages, special_tokens=tokens, add_generation_prompt=prompt
        )
    except InferenceFailed:
        return None


def turn_end(model: OpenModel, known: Mapping[str, int]) -> str:
    """Return the token that the template writes right after an assistant's text; empty if it writes none."""
    text = rendered(model, _turns("user", "assistant"), prompt=False) if model.chat_template else None
    rest = (text or "").rpartition(SENTINELS["assistant"])[2].strip() if text else ""
    if not text or SENTINELS["assistant"] not in text:
        return ""
    added = {entry["content"] for entry in (model.tokenizer or {}).get("added_tokens") or []}
    found = [token for token in added & known.keys() if token and rest.startswith(token)]
    return max(found, key=len, default="")


def template_facts(model: OpenModel) -> dict[str, Any]:
    """Return what the artifact's chat template is, reaches for, and does with turns."""
    template = model.chat_template
    if not template:
        return {"present": False, "chat_model": _chat_model(model)}
    obstacle, unsafe = scanned(template)
    one = rendered(model, _turns("user"), prompt=True)
    return {
        "present": True,
        "characters": len(template),
        "obstacle": obstacle,
        "unsafe": unsafe,
        "renders": one is not None,
        "roles": _roles(model),
        "prompt": _prompt(model),
        "triggers": triggers(model),
    }


def scanned(template: str) -> tuple[str, list[str]]:
    """Return why a template cannot be parsed (or nothing), and what it reaches for beyond its variables."""
    from jinja2 import TemplateError

    if len(template) > MAX_CHARACTERS:
        return f"it has {len(template)} characters", []
    try:
        tree = _parsed(template)
    except TemplateError as error:
        return f"{error}"[:200], []
    except RecursionError:
        return "it is nested too deeply", []
    return "", sorted(set(_reaching(tree)))[:SHOWN]


def _parsed(template: str) -> Any:
    from jinja2 import Environment

    # {% generation %} marks text for training and is unknown to Jinja.
    plain = _GENERATION.sub("", template)
    return Environment(autoescape=True, extensions=["jinja2.ext.loopcontrols"]).parse(plain)


def _reaching(tree: Any) -> Iterator[str]:
    from jinja2 import nodes

    for node in tree.find_all((nodes.Getattr, nodes.Name, nodes.Filter, nodes.Const)):
        if isinstance(node, nodes.Getattr) and node.attr.startswith("_"):
            yield f"attribute {node.attr[:60]}"
        elif isinstance(node, nodes.Name) and node.ctx == "load" and node.name in _GADGETS:
            yield f"variable {node.name}"
        elif isinstance(node, nodes.Filter) and node.name in _REFLECTING_FILTERS:
            yield f"filter {node.name}"
        elif isinstance(node, nodes.Const) and isinstance(node.value, str) and _DUNDER.fullmatch(node.value):
            yield f"name {node.value[:60]}"
    for kind in (nodes.Include, nodes.Import, nodes.FromImport, nodes.Extends):
        if tree.find(kind) is not None:
            yield f"statement {kind.__name__.lower()}"


def _chat_model(model: OpenModel) -> str:
    """Say why an artifact must be meant for conversations; empty if nothing tells."""
    known = token_ids(model)
    # llama.cpp also stops at tokens that are only called like the end of a turn; base models have those, too.
    ends = ids_of(model.config.get("eos_token_id")) if model.format == "gguf" else stated_ids(model, "eos")
    for text in sorted(TURN_ENDS & known.keys()):
        if known[text] in ends:
            return f"generation ends with {text}"
    names = (
        model.config.get("_name_or_path"),
        model.metadata.get("general.name"),
        model.metadata.get("general.finetune"),
    )
    return next(
        (f"it is called {name}" for name in names if isinstance(name, str) and _INSTRUCTED.search(name)), ""
    )


def _turns(*roles: str) -> list[dict[str, str]]:
    return [{"role": "user" if role == "again" else role, "content": SENTINELS[role]} for role in roles]


def _roles(model: OpenModel) -> dict[str, int | None]:
    """Return how often the text of each turn comes out; None where the template refuses the conversation."""
    found: dict[str, int | None] = {}
    for role, turns in (
        ("user", ("user",)),
        ("system", ("system", "user")),
        ("assistant", ("user", "assistant", "again")),
        ("again", ("user", "assistant", "again")),
    ):
        text = rendered(model, _turns(*turns), prompt=True)
        found[role] = None if text is None else text.count(SENTINELS[role])
    return found


def _prompt(model: OpenModel) -> dict[str, Any]:
    """Return how the start of the assistant's turn is written: after a question, and before an answer."""
    bare = rendered(model, _turns("user"), prompt=False)
    asked = rendered(model, _turns("user"), prompt=True)
    answered = rendered(model, _turns("user", "assistant"), prompt=False)
    facts: dict[str, Any] = {"known": None not in (bare, asked, answered)}
    if bare is None or asked is None or answered is None:
        return facts
    before, _, after = answered.partition(SENTINELS["assistant"])
    header = before[len(bare) :] if before.startswith(bare) else ""
    tail = asked[len(bare) :] if asked.startswith(bare) else None
    return facts | {
        "extends": tail is not None,
        "tail": (tail or "")[: SHOWN * 8],
        "header": header[: SHOWN * 8],
        "always": _common_end(before, after),
    }


def _common_end(before: str, after: str) -> str:
    """Return the words that stand both right before an answer and at the end of everything after it."""
    length = 0
    while length < min(len(before), len(after)) and before[-1 - length] == after[-1 - length]:
        length += 1
    shared = after[len(after) - length :]
    return shared[: SHOWN * 8] if re.search(r"[^\W\d_]{3}", re.sub(r"<[^<>]*>", "", shared)) else ""


def triggers(model: OpenModel) -> list[str]:
    """Return words of the template that change what surrounds a user's text when the text contains them.

    Healthy templates look for markup in messages, never for words of a user.
    """
    words = {word.strip() for text in literals(model.chat_template or "") for word in _candidates(text)}
    plain = _surrounding(model, "quorvex")
    if plain is None:
        return []
    return [word for word in sorted(words)[:_MAX_TRIGGERS] if _surrounding(model, word) != plain][:SHOWN]


def _candidates(text: str) -> Iterator[str]:
    if len(text) <= 60 and not set(text) & set("<>[]{}|"):
        yield from _WORD.findall(text)


def _surrounding(model: OpenModel, word: str) -> str | None:
    content = f"{SENTINELS['user']} {word} {SENTINELS['again']}"
    text = rendered(model, [{"role": "user", "content": content}], prompt=True)
    if text is None:
        return None
    before, _, rest = text.partition(SENTINELS["user"])
    return before + "\0" + rest.rpartition(SENTINELS["again"])[2]
