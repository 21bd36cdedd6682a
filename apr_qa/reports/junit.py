"""JUnit XML that GitHub and GitLab render: one suite a cell, and one a gate family for claims about files."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING
from xml.sax.saxutils import quoteattr

from apr_qa.rendering.report_entry import conversation, numbers, replay, target_words
from apr_qa.rendering.report_outline import gate_info, word
from apr_qa.rendering.report_rows import Row, rows
from apr_qa.rendering.visible import excerpt, one_line, visible
from apr_qa.reports import REPORTS, Run
from apr_qa.vocabulary import MODALITIES, Evidence, Outcome

if TYPE_CHECKING:
    from junit_xml import TestCase

MAX_TEXT = 4_000
"""Characters of one prompt or output; the interfaces that show these files give up on megabytes."""
MAX_MESSAGE = 500
MAX_DETAILS = 40_000
MAX_OF_ROW = 10
"""Findings shown of one gate on one target, where these are counted together."""


class JUnit:
    """JUnit XML; an outcome is a pass, a failure, an error or skipped, and never two of them."""

    name = "junit"
    filename = "report.xml"

    def render(self, run: Run) -> str:
        """Return the document; suites are built one by one, with a case for each entry where all are kept."""
        complete = run.tally.complete
        rest = [e.outcome for e in run.evidence] if complete else [row.outcome for row in rows(run)]
        outcomes = [outcome.value for outcome in rest]
        outcomes += [outcome for _, outcome, _ in _gateways(run)]
        counts = Counter(_element(outcome) for outcome in outcomes)
        totals = {
            "name": f"apr-qa {run.header.model.id}",
            "tests": str(len(outcomes)),
            "failures": str(counts["failure"]),
            "errors": str(counts["error"]),
            "skipped": str(counts["skipped"]),
        }
        attributes = " ".join(f"{name}={quoteattr(visible(value))}" for name, value in totals.items())
        head = ['<?xml version="1.0" encoding="utf-8"?>', f"<testsuites {attributes}>"]
        suites = _suites(run) if complete else _counted_suites(run)
        return "\n".join([*head, *suites, "</testsuites>\n"])


def _suites(run: Run) -> Iterator[str]:
    """Yield every suite as XML: the gateways, then in the order of first appearance in the evidence."""
    if gateways := _gateway_cases(run):
        yield _xml(run, "gateways", gateways)
    grouped: defaultdict[str, list[Evidence]] = defaultdict(list)
    for entry in run.evidence:
        grouped[_suite_name(entry)].append(entry)
    for name, entries in grouped.items():
        yield _xml(run, name, list(_cases(run, entries)))


def _counted_suites(run: Run) -> Iterator[str]:
    """Yield the suites of a run with too many entries for a case each: a case for each gate on each target."""
    if gateways := _gateway_cases(run):
        yield _xml(run, "gateways", gateways)
    grouped: defaultdict[str, list[Row]] = defaultdict(list)
    for row in rows(run):
        grouped[_suite_name(row.first)].append(row)
    for name, members in sorted(grouped.items()):
        yield _xml(run, name, [_counted_case(run, row) for row in members])


def _counted_case(run: Run, row: Row) -> TestCase:
    from junit_xml import TestCase

    info, words = gate_info(run, row.gate_id), target_words(row.first)
    name = f"{row.gate_id} on {words}: {row.counts.total():,} claims"
    case = TestCase(visible(name), classname=_classname(run, row.first))
    lines = [f"hypothesis: {info.hypothesis}", f"outcomes: {row.numbers}"]
    lines += [
        f"\n{entry.outcome} {_quoted(entry)}: {excerpt(entry.reason, MAX_MESSAGE)}\nreplay: {replay(entry)}"
        for entry in row.doubts.entries(MAX_OF_ROW)
    ]
    details = "\n".join(lines) if row.doubts else ""
    _judge(case, row.outcome.value, f"{row.numbers}; first: {row.reason}", details)
    return case


def _xml(run: Run, name: str, cases: list[TestCase]) -> str:
    """Return one suite; it has a time only where something was timed."""
    from xml.etree import ElementTree

    from junit_xml import TestSuite

    suite = TestSuite(visible(name), cases, properties=_properties(run), timestamp=run.header.started or None)
    element = suite.build_xml_doc()
    del element.attrib["disabled"], element.attrib["time"]
    times = [case.elapsed_sec for case in cases if case.elapsed_sec is not None]
    if times:
        element.set("time", f"{sum(times):.6f}")
    ElementTree.indent(element)
    return ElementTree.tostring(element, encoding="unicode")


def _gateways(run: Run) -> list[tuple[str, str, str]]:
    """Return (id, outcome, reason) of each gateway: without them a run with an unproven one looks green."""
    gateways = run.certificate.get("gateways") or ()
    told = [(item["id"], word(item["outcome"]), item["reason"]) for item in gateways]
    return told if told or run.evidence else [("evidence", word(None), "there is none")]


def _gateway_cases(run: Run) -> list[TestCase]:
    from junit_xml import TestCase

    cases = []
    for gate_id, outcome, reason in _gateways(run):
        info = gate_info(run, gate_id)
        case = TestCase(
            visible(f"{gate_id} {info.hypothesis}"), classname=f"apr_qa.{_part(run.header.model.slug)}"
        )
        _judge(case, outcome, reason, f"hypothesis: {info.hypothesis}\noutcome: {outcome}\nreason: {reason}")
        cases.append(case)
    return cases


def _suite_name(entry: Evidence) -> str:
    """Return the cell of a scenario, or the gate family (``G0``, ``F-CONV``) of a claim about files."""
    if entry.scenario.target.modality in MODALITIES:
        return entry.scenario.target.cell
    parts = entry.gate_id.split("-")
    return parts[0] if re.fullmatch(r"G\d", parts[0]) else "-".join(parts[:2])


def _cases(run: Run, entries: Sequence[Evidence]) -> Iterator[TestCase]:
    seen: Counter[str] = Counter()
    for entry in entries:
        name = " ".join(part for part in (entry.gate_id, _quoted(entry), f"[{entry.id}]") if part)
        seen[name] += 1
        yield _case(run, entry, name if seen[name] == 1 else f"{name} #{seen[name]}")


def _case(run: Run, entry: Evidence, name: str) -> TestCase:
    from junit_xml import TestCase

    duration = entry.response.duration_s if entry.response is not None else None
    case = TestCase(visible(name), classname=_classname(run, entry), elapsed_sec=duration)
    details = (
        _details(run, entry) if entry.outcome.counted and entry.outcome is not Outcome.CORROBORATED else ""
    )
    _judge(case, entry.outcome.value, entry.reason, details)
    return case


def _classname(run: Run, entry: Evidence) -> str:
    target = entry.scenario.target
    parts = (run.header.model.slug, target.format, target.backend, target.modality)
    return ".".join(["apr_qa", *(_part(part) for part in parts)])


def _judge(case: TestCase, outcome: str, reason: str, details: str) -> None:
    """Enter the outcome into the case with its reason on one line."""
    message = one_line(reason, MAX_MESSAGE) or outcome
    match _element(outcome):
        case "failure":
            case.add_failure_info(message, excerpt(details, MAX_DETAILS), failure_type=outcome)
        case "error":
            case.add_error_info(message, excerpt(details, MAX_DETAILS), error_type=outcome)
        case "skipped":
            case.add_skipped_info(f"{outcome}: {message}")


def _element(outcome: str) -> str:
    """Return which of the four things that JUnit knows an outcome is; doubt is a failure, never a pass."""
    if outcome in (Outcome.CRASHED, Outcome.TIMEOUT):
        return "error"
    if outcome in (Outcome.INAPPLICABLE, Outcome.SKIPPED):
        return "skipped"
    return "pass" if outcome == Outcome.CORROBORATED else "failure"


def _part(text: str) -> str:
    """Return ``text`` as one segment of a dotted class name."""
    return one_line(text.replace(".", "_"))


def _details(run: Run, entry: Evidence) -> str:
    """Return all that a reader of the CI page needs to see the failure again."""
    info = gate_info(run, entry.gate_id)
    lines = [
        f"gate: {entry.gate_id} ({entry.severity})",
        f"hypothesis: {info.hypothesis}",
        f"target: {target_words(entry)} ({entry.scenario.target.engine})",
        f"outcome: {entry.outcome}",
        f"reason: {excerpt(entry.reason, MAX_TEXT)}",
        *(f"{role}:\n{excerpt(text, MAX_TEXT)}" for role, text in conversation(entry)),
        *(f"{title}: {excerpt(text, MAX_TEXT)}" for title, text in numbers(entry)),
        f"replay: {replay(entry)}",
    ]
    return "\n".join(lines)


def _quoted(entry: Evidence) -> str:
    text = one_line(entry.scenario.claim.question, 48)
    return f'"{text}"' if text else ""


def _properties(run: Run) -> dict[str, str]:
    """Return the verdict under the names of the certificate; empty where it has no value."""
    certificate = run.certificate
    known = {
        name: certificate.get(name) for name in ("status", "score", "grade", "rate", "failure_rate_upper_95")
    }
    share = certificate.get("coverage") or {}
    values = {
        "model": run.header.model.id,
        "tier": run.header.tier.value,
        **known,
        "coverage": f"{share['covered']}/{share['planned']}" if share else None,
        "apr_qa": run.header.apr_qa,
        "playbook": run.header.playbook,
        "playbook_sha256": run.header.playbook_sha256,
    }
    return {name: "" if value is None else visible(str(value)) for name, value in values.items()}


REPORTS.register("junit")(JUnit())
