"""What stands beside SafeTensors weights: config, tokenizer, generation settings and chat template."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from apr_qa.containers.byte_layout import FLOAT_NAMES
from apr_qa.containers.file_access import file_size, open_binary, require_inside
from apr_qa.containers.memory_bill import Bill
from apr_qa.containers.strict_json import dump_bytes, read_object
from apr_qa.containers.tokenizer_shape import check_tokenizer
from apr_qa.errors import MalformedFile
from apr_qa.formats import ModelContent

CONFIG = "config.json"
TOKENIZER = "tokenizer.json"
TOKENIZER_CONFIG = "tokenizer_config.json"
GENERATION_CONFIG = "generation_config.json"
TEMPLATE = "chat_template.jinja"
TEMPLATE_JSON = "chat_template.json"
SPECIAL_TOKENS = "special_tokens_map.json"
COMPANIONS = (CONFIG, TOKENIZER, TOKENIZER_CONFIG, GENERATION_CONFIG, TEMPLATE, TEMPLATE_JSON, SPECIAL_TOKENS)
MAX_TEMPLATE_BYTES = 16 * 2**20


@dataclass(frozen=True)
class Companions:
    """The parsed companion files of one folder."""

    files: tuple[Path, ...]
    config: dict[str, Any]
    tokenizer: dict[str, Any] | None
    tokenizer_config: dict[str, Any]
    generation_config: dict[str, Any]
    chat_template: str | None
    problems: list[str] = field(default_factory=list)
    """What a gate may object to although the reader does not."""


def read_companions(folder: Path, bill: Bill | None = None) -> Companions:
    """Read what is there; an absent file is a recorded problem, an unparsable one raises MalformedFile.

    ``bill`` pays for the content; without one the files may cost what their own size allows.
    """
    files = tuple(path for path in (folder / name for name in COMPANIONS) if path.is_file())
    for path in files:
        require_inside(path, folder)
    found = {path.name: path for path in files}
    bill = bill or Bill(sum(file_size(path) for path in files))
    parsed = {name: read_object(path, bill) for name, path in found.items() if name != TEMPLATE}
    tokenizer_config = parsed.get(TOKENIZER_CONFIG, {})
    return Companions(
        files=files,
        config=parsed.get(CONFIG, {}),
        tokenizer=check_tokenizer(parsed.get(TOKENIZER), TOKENIZER),
        tokenizer_config=tokenizer_config,
        generation_config=parsed.get(GENERATION_CONFIG, {}),
        chat_template=_template(found, tokenizer_config, parsed.get(TEMPLATE_JSON, {})),
        problems=[f"{name} is missing" for name in (CONFIG, TOKENIZER) if name not in found],
    )


def write_companions(folder: Path, content: ModelContent, dtype: str) -> None:
    """Write the companion files of ``content``, whose weights are stored mostly as ``dtype``."""
    documents = {
        CONFIG: stated_dtype(content.config, dtype),
        TOKENIZER: content.tokenizer,
        TOKENIZER_CONFIG: _tokenizer_settings(content),
        GENERATION_CONFIG: content.generation_config or None,
    }
    for name, document in documents.items():
        if document is not None:
            (folder / name).write_bytes(dump_bytes(document, indent=2) + b"\n")
    if content.chat_template is not None:
        (folder / TEMPLATE).write_bytes(content.chat_template.encode("utf-8"))


def stated_dtype(config: dict[str, Any], dtype: str) -> dict[str, Any]:
    """Return ``config`` with the dtype it states (``dtype``, older ``torch_dtype``) set to what is stored."""
    if dtype not in FLOAT_NAMES:
        return dict(config)
    keys = [key for key in ("dtype", "torch_dtype") if key in config] or ["dtype"]
    return {**config, **dict.fromkeys(keys, FLOAT_NAMES[dtype])}


def default_template(value: Any, where: str) -> str | None:
    """Return the template in a ``chat_template`` value: a string, or a list of which ``default`` counts."""
    if value is None or isinstance(value, str):
        return value
    named: dict[str, str] = {}
    for entry in value if isinstance(value, list) else [value]:
        fields = entry if isinstance(entry, dict) else {}
        name, template = fields.get("name"), fields.get("template")
        if not (isinstance(name, str) and isinstance(template, str)):
            raise MalformedFile("chat_template is neither text nor a list of named templates", where=where)
        named[name] = template
    return named.get("default")


def _template(
    found: dict[str, Path], tokenizer_config: dict[str, Any], template_json: dict[str, Any]
) -> str | None:
    # transformers lets the .jinja file win over everything in JSON.
    if TEMPLATE in found:
        return _text(found[TEMPLATE])
    stated = default_template(tokenizer_config.get("chat_template"), TOKENIZER_CONFIG)
    return stated or default_template(template_json.get("chat_template"), TEMPLATE_JSON)


def _text(path: Path) -> str:
    size = file_size(path)
    if size > MAX_TEMPLATE_BYTES:
        raise MalformedFile(f"larger than {MAX_TEMPLATE_BYTES} bytes", where=path.name)
    with open_binary(path) as handle:
        try:
            return handle.read(size).decode("utf-8")
        except UnicodeDecodeError as error:
            raise MalformedFile(f"not UTF-8: {error.reason} at byte {error.start}", where=path.name) from None


def _tokenizer_settings(content: ModelContent) -> dict[str, Any] | None:
    settings = dict(content.tokenizer_config)
    if content.chat_template is not None and isinstance(settings.get("chat_template"), str):
        del settings["chat_template"]
    if settings or content.tokenizer is None:
        return settings or None
    # Without a class, transformers picks one by model_type, and some of those rebuild the pre-tokenizer
    # instead of taking it from tokenizer.json.
    return {"tokenizer_class": "PreTrainedTokenizerFast"}
