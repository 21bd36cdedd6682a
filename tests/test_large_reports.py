"""Reports of a run too large to list: counted in rows, failures first, details in files of their own."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import TYPE_CHECKING
from xml.etree import ElementTree

import msgspec
import pytest
from fixed_run import HOSTILE, fixed_run
from test_reports import Reader, rendered, with_text

from apr_qa import certify, tally
from apr_qa.rendering import report_details, report_rows
from apr_qa.rendering.visible import STEERING
from apr_qa.reports import REPORTS, Run
from apr_qa.tally import tallied
from apr_qa.vocabulary import Outcome

if TYPE_CHECKING:
    from chromium import Page


def large(run: Run, monkeypatch: pytest.MonkeyPatch, copies: int = 30) -> Run:
    """Return a run in which every entry happened many times, and that is too large to be kept whole."""
    monkeypatch.setattr(tally, "WHOLE", 10)
    many = [
        msgspec.structs.replace(entry, id=f"{number:08x}{place:08x}")
        for number in range(copies)
        for place, entry in enumerate(run.evidence)
    ]
    counted = tallied(many)
    certificate = {**run.certificate, "findings_total": len(counted.all.where(report_details.is_doubt))}
    return msgspec.structs.replace(
        run, evidence=tuple(counted.entries()), counts=counted, certificate=certificate
    )


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch) -> Run:
    return large(fixed_run(), monkeypatch, copies=150)


def scripts(run: Run) -> dict[str, str]:
    return {name: text for name, text in certify.document("html", run).items() if name != "report.html"}


def entries_of(script: str) -> list[dict[str, object]]:
    found: list[dict[str, object]] = json.loads(script[script.index(", ") + 2 :].removesuffix(");\n"))
    return found


def test_a_row_counts_every_entry_of_its_gate_on_its_target(run: Run) -> None:
    rows = report_rows.rows(run)
    assert sum(row.counts.total() for row in rows) == run.tally.total == 150 * len(fixed_run().evidence)
    order = [row.outcome.failed for row in rows]
    assert order == sorted(order, reverse=True), "failures come first"


def test_junit_has_a_case_for_each_gate_on_each_target_and_its_counts_add_up(run: Run) -> None:
    root = ElementTree.fromstring(rendered("junit", run))  # noqa: S314 - we wrote it ourselves
    cases = root.findall(".//testcase")
    rows = report_rows.rows(run)
    assert len(cases) == len(rows) + len(run.certificate["gateways"]) == int(root.attrib["tests"])
    for tag, total in (("failure", "failures"), ("error", "errors"), ("skipped", "skipped")):
        assert (
            len(root.findall(f".//{tag}"))
            == int(root.attrib[total])
            == sum(int(suite.attrib[total]) for suite in root.findall("testsuite"))
        )
    failed = next(
        case for case in root.findall(".//testcase") if "F-STAB-002 on gguf·cpu·run" in case.attrib["name"]
    )
    failure = failed.find("failure")
    assert failure is not None and "150 falsified" in failure.attrib["message"]
    assert str(failure.text).count("replay: apr-qa replay") == 10


def test_a_single_failure_among_many_is_no_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    base = fixed_run()
    good = base.evidence[5]
    bad = msgspec.structs.replace(good, outcome=Outcome.FALSIFIED, id="f" * 16, reason="just once")
    lots = [msgspec.structs.replace(good, id=f"{number:016x}") for number in range(40)]
    monkeypatch.setattr(tally, "WHOLE", 10)
    counted = tallied([*lots, bad])
    run = msgspec.structs.replace(base, evidence=tuple(counted.entries()), counts=counted)
    root = ElementTree.fromstring(rendered("junit", run))  # noqa: S314
    messages = [node.attrib["message"] for node in root.findall(".//failure")]
    assert any(message.startswith("1 falsified, 40 corroborated; first: just once") for message in messages)


def test_the_page_lists_some_findings_of_each_gate_and_counts_the_rest(run: Run) -> None:
    page = rendered("html", run)
    reader = Reader(page)
    shown = [value for value in reader.values("id") if value.startswith("e-")]
    assert 0 < len(shown) <= 400
    assert len(page) < 2_000_000
    links = {value[1:] for value in reader.values("href") if value.startswith("#") and "=" not in value}
    assert links <= set(reader.values("id"))
    assert f"{run.tally.total:,} entries in {len(report_rows.rows(run)):,} rows" in page
    total = next(iter(re.findall(r"and ([\d,]+) more", page)))
    assert int(total.replace(",", "")) > 100


def test_details_lie_in_files_that_the_page_names(run: Run) -> None:
    named = {name for text in Reader(rendered("html", run)).values("data-files") for name in text.split()}
    files = scripts(run)
    assert named == set(files) and named
    for text in files.values():
        assert text.startswith("aprQa(") and len(entries_of(text)) <= report_details.ENTRIES_PER_FILE


def test_a_small_run_has_no_details_and_its_page_one_script() -> None:
    assert scripts(fixed_run()) == {}
    page = rendered("html")
    assert Reader(page).tags["script"] == 1 and "file:" not in page.split("</head>")[0]


def test_hostile_text_is_harmless_in_details(monkeypatch: pytest.MonkeyPatch) -> None:
    run = large(with_text(HOSTILE.replace("\ud800", "")), monkeypatch)
    for name, text in certify.document("html", run).items():
        assert not STEERING.search(text)
        if name.endswith(".js"):
            assert "<" not in text and text.count("\n") == 1
            assert not STEERING.search(json.dumps(entries_of(text), ensure_ascii=False))
    Reader(rendered("html", run))


def test_markdown_counts_what_it_does_not_list(run: Run) -> None:
    text = rendered("markdown", run)
    total = int(re.findall(r"## Findings \((\d+)\)", text)[0])
    assert total == len(run.tally.all.where(report_details.is_doubt)) and total > 150
    assert f"and {total - 50} more" in text
    assert len(text) < 200_000


def test_publishing_again_removes_details_that_nothing_names(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    certify.publish(run, tmp_path)
    folder = tmp_path / report_details.FOLDER
    assert list(folder.glob("*.js"))
    monkeypatch.setattr(tally, "WHOLE", 5_000)
    certify.publish(fixed_run(), tmp_path)
    assert not list(folder.glob("*.js"))


def test_a_rendering_does_not_depend_on_the_order_of_arrival(monkeypatch: pytest.MonkeyPatch) -> None:
    run = large(fixed_run(), monkeypatch)
    counted = tallied(reversed(run.evidence))
    other = tallied(run.evidence)
    first, second = (
        msgspec.structs.replace(run, evidence=tuple(one.entries()), counts=one) for one in (counted, other)
    )
    for name in ("junit", "html", "markdown"):
        assert REPORTS.get(name).render(first) == REPORTS.get(name).render(second)


@pytest.mark.browser
def test_details_are_loaded_on_demand_from_a_disk(run: Run, tmp_path: Path) -> None:
    from chromium import chromium

    certify.publish(run, tmp_path)
    with chromium(tmp_path / "profile") as page:
        _loads(page, tmp_path)


def _loads(page: Page, folder: Path) -> None:
    page.open((folder / "report.html").as_uri())
    assert page.evaluate("document.querySelectorAll('.more-entry').length") == 0
    page.evaluate("document.querySelector('.loaded button').click()")
    page.evaluate("new Promise(done => setTimeout(done, 500))")
    assert page.evaluate("document.querySelectorAll('.more-entry').length") > 0
    assert page.complaints() == []
    shown = "[...document.querySelectorAll('.rows-table tbody tr')].filter(row => !row.hidden).length"
    assert page.evaluate(shown) <= 50
