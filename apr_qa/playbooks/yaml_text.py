"""YAML as playbooks use it: plain values, the line of every one of them, and all faults at once.

Only text, numbers, true, false and null are values (YAML 1.2: ``no`` and ``12:30`` are text). Duplicate keys,
tags and values without end are faults. ``${NAME}`` in text is replaced after parsing, so that what is
put in cannot become structure; ``$${`` stands for a literal ``${``.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import yaml

MAX_BYTES = 2**20
MAX_DEPTH = 32
MAX_VALUES = 20_000
"""An alias counts with everything that it stands for."""

Location = tuple[str | int, ...]

MERGE = "<<"
"""The key that brings in the fields of another mapping; those beside it win."""

_VARIABLE = re.compile(r"\$(\$?)\{([^{}\s]*)\}")
_PREFIX = "tag:yaml.org,2002:"


class _TooDeep(Exception):
    """Raised before libyaml, which has no limit of its own, recurses further."""

    def __init__(self, line: int) -> None:
        super().__init__(line)
        self.line = line


class _Loader(getattr(yaml, "CSafeLoader", yaml.SafeLoader)):  # type: ignore[misc]
    """Parses and composes only; resolves plain scalars by the core schema of YAML 1.2."""

    yaml_implicit_resolvers: dict[str, list[tuple[str, re.Pattern[str]]]] = {}  # noqa: RUF012
    depth = 0

    def descend_resolver(self, parent: yaml.Node | None, _index: Any) -> None:
        """Called on the way into every node."""
        if self.depth > MAX_DEPTH:
            raise _TooDeep(parent.start_mark.line + 1 if parent else 1)
        self.depth += 1

    def ascend_resolver(self) -> None:
        """Called on the way out."""
        self.depth -= 1


_Loader.add_implicit_resolver(
    _PREFIX + "bool", re.compile(r"(?:true|True|TRUE|false|False|FALSE)\Z"), list("tTfF")
)
_Loader.add_implicit_resolver(_PREFIX + "null", re.compile(r"(?:~|null|Null|NULL|)\Z"), ["~", "n", "N", ""])
_Loader.add_implicit_resolver(_PREFIX + "int", re.compile(r"[-+]?[0-9]{1,20}\Z"), list("-+0123456789"))
_Loader.add_implicit_resolver(
    _PREFIX + "float",
    re.compile(r"[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]{1,3})?\Z"),
    list("-+.0123456789"),
)


@dataclass
class Document:
    """A parsed file: its value, and the line of each value by its location."""

    value: Any = None
    lines: dict[Location, int] = field(default_factory=dict)
    faults: list[tuple[int, str]] = field(default_factory=list)
    """(line, text) of everything wrong with the file as YAML."""

    def line(self, location: Location) -> int:
        """Return the line of the deepest known value on the way to ``location``, without unknown parts."""
        known: Location = ()
        for part in location:
            if (*known, part) in self.lines:
                known = (*known, part)
        return self.lines.get(known, 1)


def parse(content: bytes, variables: Mapping[str, str]) -> Document:
    """Return the document, or one whose ``faults`` say why it cannot be used."""
    document = Document()
    node = _composed(content, document)
    if node is not None:
        _Builder(document, variables).build(node)
    return document


def _composed(content: bytes, document: Document) -> yaml.Node | None:
    """Parse without building anything."""
    if len(content) > MAX_BYTES:
        document.faults.append((1, f"larger than {MAX_BYTES} bytes"))
        return None
    try:
        text = content.decode("utf-8-sig")
        node: yaml.Node | None = yaml.compose(text, Loader=_Loader)
    except _TooDeep as limit:
        document.faults.append((limit.line, f"nested deeper than {MAX_DEPTH} levels"))
        return None
    except UnicodeDecodeError as error:
        document.faults.append((content[: error.start].count(b"\n") + 1, "not UTF-8"))
        return None
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        said = " ".join(part for part in (error.context, error.problem) if part)
        line = mark.line + 1 if mark else 1
        unquoted = "${" in "".join(text.splitlines()[line - 1 : line])
        hint = "; between braces or brackets, ${…} stands in quotes" if unquoted else ""
        document.faults.append((line, f"not YAML: {said}{hint}"))
        return None
    except yaml.YAMLError as error:
        document.faults.append((1, f"not YAML: {' '.join(str(error).split())}"))
        return None
    if node is None:
        document.faults.append((1, "the file is empty"))
    return node


class _Builder:
    """Turns composed nodes into values, noting lines and faults."""

    def __init__(self, document: Document, variables: Mapping[str, str]) -> None:
        self.document = document
        self.variables = variables
        self.values = 0
        self.overflow = False

    def build(self, node: yaml.Node) -> None:
        """Set the value of the document."""
        self.document.value = self._value(node, ())

    def _value(self, node: yaml.Node, location: Location) -> Any:
        line = node.start_mark.line + 1
        self.document.lines.setdefault(location, line)
        self.values += 1
        if self.values > MAX_VALUES or len(location) > MAX_DEPTH:
            if not self.overflow:
                self._fault(line, f"more than {MAX_VALUES} values, or aliases without end")
            self.overflow = True
        if self.overflow:
            return None
        if isinstance(node, yaml.CollectionNode) and node.tag not in (_PREFIX + "map", _PREFIX + "seq"):
            self._fault(line, f"the tag {node.tag} is not allowed")
            return None
        if isinstance(node, yaml.MappingNode):
            return self._mapping(node, location)
        if isinstance(node, yaml.SequenceNode):
            return [self._value(item, (*location, index)) for index, item in enumerate(node.value)]
        return self._scalar(node, line)

    def _mapping(self, node: yaml.MappingNode, location: Location) -> dict[str, Any]:
        mapping: dict[str, Any] = {}
        merged: list[dict[str, Any]] = []
        for key_node, value_node in node.value:
            line = key_node.start_mark.line + 1
            if not isinstance(key_node, yaml.ScalarNode):
                self._fault(line, "a key must be plain text")
                continue
            key = key_node.value
            if key == MERGE and not key_node.style:
                merged += self._merged(value_node, location, line)
                continue
            if key in mapping:
                first = self.document.lines[(*location, key)]
                self._fault(line, f"{_dotted((*location, key))}: given twice, first in line {first}")
                continue
            self.document.lines[(*location, key)] = line
            mapping[key] = self._value(value_node, (*location, key))
        for other in merged:
            mapping = {**other, **mapping}
        return mapping

    def _merged(self, node: yaml.Node, location: Location, line: int) -> list[dict[str, Any]]:
        """Return the mappings that ``<<`` brings in, the first of which goes before the others."""
        nodes = node.value if isinstance(node, yaml.SequenceNode) else [node]
        if not all(isinstance(one, yaml.MappingNode) for one in nodes):
            self._fault(line, f"{_dotted((*location, MERGE))}: a mapping or a list of mappings goes here")
            return []
        found = (self._value(one, location) for one in nodes)
        return [one for one in found if isinstance(one, dict)]

    def _scalar(self, node: yaml.Node, line: int) -> Any:
        kind = node.tag.removeprefix(_PREFIX)
        text: str = node.value
        if kind == "str":
            return self._substituted(text, line)
        if kind == "null":
            return None
        if kind == "bool":
            return text.lower() == "true"
        try:
            if kind == "int":
                return int(text)
            if kind == "float":
                return float(text)
        except ValueError:
            self._fault(line, f"{text!r} is no number")
            return None
        self._fault(line, f"the tag {node.tag} is not allowed")
        return None

    def _substituted(self, text: str, line: int) -> str:
        def value_of(match: re.Match[str]) -> str:
            if match[1]:
                return match[0][1:]
            if match[2] not in self.variables:
                self._fault(
                    line,
                    f"${{{match[2]}}} has no value: give it with --var {match[2]}=VALUE "
                    f"(write $${{{match[2]}}} for the text itself)",
                )
                return match[0]
            return self.variables[match[2]]

        return _VARIABLE.sub(value_of, text)

    def _fault(self, line: int, text: str) -> None:
        self.document.faults.append((line, text))


def _dotted(location: Location) -> str:
    return ".".join(map(str, location))
