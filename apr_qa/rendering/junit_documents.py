"""JUnit documents of several models as one file, which is what a CI page can show."""

from __future__ import annotations

import re
from collections.abc import Sequence
from xml.sax.saxutils import quoteattr

from apr_qa.rendering.visible import one_line

_HEAD = re.compile(r"<testsuites\b[^>]*>")
_END = "</testsuites>"
_TOTALS = ("tests", "failures", "errors", "skipped")


def together(documents: Sequence[str]) -> str:
    """Return one document with the suites of all; a single one is returned as it is."""
    if len(documents) == 1:
        return documents[0]
    heads = [_HEAD.search(document) for document in documents]
    totals = {name: sum(_total(head[0], name) for head in heads if head) for name in _TOTALS}
    attributes = " ".join(f'{name}="{value}"' for name, value in totals.items())
    suites = [d[h.end() : d.rindex(_END)].strip("\n") for d, h in zip(documents, heads, strict=True) if h]
    opening = f'<?xml version="1.0" encoding="utf-8"?>\n<testsuites name="apr-qa" {attributes}>'
    return "\n".join([opening, *suites, f"{_END}\n"])


def unavailable(model_id: str, reason: str) -> str:
    """Return the document of a model that could not be obtained: one error, so that nobody takes it for a pass."""
    name, message = quoteattr(f"apr-qa {one_line(model_id)}"), quoteattr(one_line(reason, 500))
    return (
        '<?xml version="1.0" encoding="utf-8"?>\n'
        f'<testsuites name={name} tests="1" failures="0" errors="1" skipped="0">\n'
        f'<testsuite name={name} tests="1" failures="0" errors="1" skipped="0">\n'
        f'  <testcase classname="apr_qa" name={quoteattr(f"{one_line(model_id)} can be obtained")}>\n'
        f'    <error type="unavailable" message={message} />\n'
        f"  </testcase>\n</testsuite>\n{_END}\n"
    )


def _total(head: str, name: str) -> int:
    found = re.search(rf'\b{name}="(\d+)"', head)
    return int(found[1]) if found else 0
