"""Claims about generated text; the oracle that a claim names is the judge."""

from __future__ import annotations

from apr_qa.gates import Gate, enter, text_example
from apr_qa.vocabulary import Severity

_LOOP = "the the the the the the the the the the the the the the the the"

enter(
    Gate(
        id="F-QUAL-001",
        category="quality",
        severity=Severity.P1,
        hypothesis="The answer to an arithmetic question holds the right number",
        measure="oracle arithmetic: exact value of the expression, looked for as a whole number in the answer",
        threshold="present, and not contradicted by an earlier result",
        corroborates=text_example("F-QUAL-001", "arithmetic", "What is 2 + 2?", "The answer is 4."),
        falsifies=text_example("F-QUAL-001", "arithmetic", "What is 2 + 2?", "The answer is 14."),
    )
)
enter(
    Gate(
        id="F-QUAL-002",
        category="quality",
        severity=Severity.P1,
        hypothesis="Generated code parses",
        measure="oracle code_syntax: ast for Python, tree-sitter for JavaScript, Rust, Go and Java",
        threshold="no syntax error up to the last complete line",
        corroborates=text_example("F-QUAL-002", "code_syntax", "def add(a, b):\n", "    return a + b\n"),
        falsifies=text_example("F-QUAL-002", "code_syntax", "def add(a, b):\n", "    return a + + ) b\n"),
    )
)
enter(
    Gate(
        id="F-QUAL-003",
        category="quality",
        severity=Severity.P1,
        hypothesis="The answer is about the question",
        measure="oracle response: what the claim expects to find, or not to find, in the answer",
        threshold="all expectations met",
        corroborates=text_example(
            "F-QUAL-003", "response", "The capital of France is", " Paris.", {"contains": ["Paris"]}
        ),
        falsifies=text_example(
            "F-QUAL-003", "response", "The capital of France is", " a fish.", {"contains": ["Paris"]}
        ),
    )
)
enter(
    Gate(
        id="F-QUAL-004",
        category="quality",
        severity=Severity.P1,
        hypothesis="Generated text is language, not garbage",
        measure="oracle garbage: loops, entropy, U+FFFD, control characters, leaked special tokens, token soup",
        threshold="none of them",
        corroborates=text_example("F-QUAL-004", "garbage", "Say hello.", "Hello! How can I help you today?"),
        falsifies=text_example("F-QUAL-004", "garbage", "Say hello.", _LOOP),
    )
)
