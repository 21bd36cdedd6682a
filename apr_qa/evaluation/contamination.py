"""Decontamination: which documents of a training set share word n-grams with a benchmark.

Overlap of a document = its distinct n-grams that the benchmark has too / its distinct n-grams; a document is
contaminated at ``threshold`` or above, and so is one that holds a whole benchmark text. A text shorter than n
words is one n-gram. The corpus rate is contaminated documents / documents.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from apr_qa.errors import UsageError
from apr_qa.vocabulary import Record

N = 10
DOCUMENT_THRESHOLD = 0.5
CORPUS_THRESHOLD = 0.01

_WORD = re.compile(r"\w+")
_TEXT_FIELDS = ("text", "content", "prompt", "instruction", "input", "question", "completion", "response", "output",
                "answer", "code", "canonical_solution", "chosen", "messages")  # fmt: skip

Gram = tuple[str, ...]


class Pair(Record, frozen=True):
    """A document and a benchmark text that share n-grams."""

    document: str
    benchmark: str
    shared: int
    overlap: float
    """Of the document's n-grams."""
    covered: float
    """Of the benchmark text's n-grams."""
    example: str


def grams(text: str, n: int = N) -> frozenset[Gram]:
    """Return the distinct word n-grams of a text, case and punctuation aside; empty for a text without words."""
    words = _WORD.findall(text.lower())
    if not words:
        return frozenset()
    return frozenset(tuple(words[i : i + n]) for i in range(max(1, len(words) - n + 1)))


def document_text(row: Mapping[str, Any], where: str) -> str:
    """Return all text of a training row, chats included; raises UsageError if it has none."""
    parts = [_flat(row[name]) for name in _TEXT_FIELDS if name in row]
    text = "\n".join(filter(None, parts))
    if not text.strip():
        raise UsageError("holds no text", where=where, fix=f"known fields: {', '.join(_TEXT_FIELDS)}")
    return text


def _flat(value: Any) -> str:
    if isinstance(value, str):
        return value
    if isinstance(value, Mapping):
        return "\n".join(_flat(item) for item in value.values())
    return "\n".join(_flat(item) for item in value) if isinstance(value, Sequence) else ""


def compare(
    documents: Iterable[tuple[str, str]], benchmark: Iterable[tuple[str, str]], n: int, threshold: float
) -> dict[str, Any]:
    """Return the report over (name, text) of both sides; an empty side is an error, never cleanliness."""
    index: dict[Gram, list[str]] = defaultdict(list)
    sizes: dict[str, int] = {}
    for name, text in benchmark:
        found = grams(text, n)
        sizes[name] = len(found)
        for gram in found:
            index[gram].append(name)
    if not index:
        raise UsageError("the benchmark holds no words")
    total, pairs, overlaps = 0, [], {}
    for name, text in documents:
        total += 1
        own = grams(text, n)
        shared = [gram for gram in own if gram in index]
        overlaps[name] = len(shared) / len(own) if own else 0.0
        pairs += _pairs(name, own, shared, index, sizes)
    if not total:
        raise UsageError("there is no document to check")
    contaminated = {
        pair.document for pair in pairs if overlaps[pair.document] >= threshold or pair.covered >= 1.0
    }
    guilty = [pair for pair in pairs if pair.document in contaminated]
    return {
        "n": n,
        "threshold": threshold,
        "documents": total,
        "benchmark_texts": len(sizes),
        "contaminated": len(contaminated),
        "rate": len(contaminated) / total,
        "pairs": [_row(pair, overlaps[pair.document]) for pair in sorted(guilty, key=_order)],
        "below_threshold": len({pair.document for pair in pairs} - contaminated),
    }


def _pairs(
    name: str,
    own: frozenset[Gram],
    shared: Sequence[Gram],
    index: Mapping[Gram, list[str]],
    sizes: Mapping[str, int],
) -> list[Pair]:
    counts = Counter(other for gram in shared for other in index[gram])
    examples = {other: gram for gram in sorted(shared, reverse=True) for other in index[gram]}
    return [
        Pair(
            document=name,
            benchmark=other,
            shared=count,
            overlap=count / len(own),
            covered=count / sizes[other],
            example=" ".join(examples[other]),
        )
        for other, count in counts.items()
    ]


def _order(pair: Pair) -> tuple[float, str, str]:
    return (-pair.overlap, pair.document, pair.benchmark)


def _row(pair: Pair, overlap: float) -> dict[str, Any]:
    return {name: getattr(pair, name) for name in Pair.__struct_fields__} | {"document_overlap": overlap}
