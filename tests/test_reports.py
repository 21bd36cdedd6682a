"""Reports: equal numbers everywhere, hostile text harmless, nothing that the page would have to fetch."""

from __future__ import annotations

import json
import re
from collections import Counter
from html.parser import HTMLParser
from typing import Any
from xml.etree import ElementTree

import msgspec
import pytest
from fixed_run import HOSTILE, fixed_run
from hypothesis import given, settings
from hypothesis import strategies as st
from syrupy.assertion import SnapshotAssertion

from apr_qa import certificate
from apr_qa.errors import UsageError
from apr_qa.rendering import report_outline
from apr_qa.rendering.visible import STEERING, excerpt, one_line, visible
from apr_qa.reports import REPORTS, Run
from apr_qa.reports.html import MAX_ENTRIES, Html
from apr_qa.reports.junit import JUnit
from apr_qa.reports.markdown import Markdown, fenced
from apr_qa.vocabulary import Claim, Evidence, Outcome, Response

OURS = ("junit", "html", "markdown")


def rendered(name: str, run: Run | None = None) -> str:
    return REPORTS.get(name).render(run or fixed_run())


def changed(run: Run, **fields: Any) -> Run:
    return msgspec.structs.replace(run, **fields)


def with_text(text: str) -> Run:
    """Return the run with ``text`` wherever text of unknown origin can stand."""

    def entry(item: Evidence) -> Evidence:
        claim = msgspec.structs.replace(item.scenario.claim, prompt=text)
        return msgspec.structs.replace(
            item,
            reason=text,
            scenario=msgspec.structs.replace(item.scenario, claim=claim),
            response=Response(text=text, facts={"key": text}),
            metrics={text: text},
        )

    run = fixed_run()
    model = msgspec.structs.replace(run.header.model, id=f"org/{text}")
    environment = {text: text}
    header = msgspec.structs.replace(run.header, model=model, environment=environment, playbook=text)
    issued = {**run.certificate, "reason": text, "model_id": model.id}
    return changed(run, header=header, certificate=issued, evidence=tuple(map(entry, run.evidence[5:9])))


def parsed(document: str) -> ElementTree.Element:
    return ElementTree.fromstring(document)  # noqa: S314 - we wrote it ourselves a moment ago


class Reader(HTMLParser):
    """Collects what a browser would act on."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: Counter[str] = Counter()
        self.attributes: list[tuple[str, str, str]] = []
        self.text: list[str] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags[tag] += 1
        self.attributes += [(tag, name, value or "") for name, value in attrs]

    def handle_data(self, data: str) -> None:
        self.text.append(data)

    def values(self, name: str) -> list[str]:
        return [value for _, key, value in self.attributes if key == name]


# ---- all of them


def test_the_fixed_run_has_the_shape_of_a_real_certificate() -> None:
    certificate.from_json(json.dumps(fixed_run().certificate))
    counted = Counter(entry.outcome.value for entry in fixed_run().evidence)
    assert fixed_run().certificate["counts"] == counted


@pytest.mark.parametrize("name", OURS)
def test_the_rendering_of_the_fixed_run_is_the_stored_one(name: str, snapshot: SnapshotAssertion) -> None:
    assert rendered(name) == snapshot


@pytest.mark.parametrize("name", OURS)
def test_a_rendering_is_a_function_of_the_run_alone(name: str) -> None:
    assert rendered(name) == rendered(name)


@pytest.mark.parametrize(
    ("name", "file"), [("junit", "report.xml"), ("html", "report.html"), ("markdown", "report.md")]
)
def test_a_report_says_where_it_belongs(name: str, file: str) -> None:
    assert (REPORTS.get(name).name, REPORTS.get(name).filename) == (name, file)


def test_a_misspelt_report_is_answered_with_the_right_name() -> None:
    with pytest.raises(UsageError, match="did you mean 'markdown'"):
        REPORTS.get("markdwon")


@pytest.mark.parametrize("name", OURS)
def test_no_character_that_steers_reaches_a_rendering(name: str) -> None:
    text = rendered(name, with_text(HOSTILE))
    assert not STEERING.search(text)
    assert r"\x1b[31m" in text.replace("\\\\", "\\").replace(r"\[", "[").replace(
        '<span class="esc">', ""
    ).replace("</span>", "")
    text.encode("utf-8")


@pytest.mark.parametrize("name", OURS)
@given(text=st.text(max_size=60))
@settings(max_examples=25, deadline=None)
def test_any_text_anywhere_gives_a_well_formed_document(name: str, text: str) -> None:
    document = rendered(name, with_text(text))
    assert not STEERING.search(document)
    if name == "junit":
        parsed(document)
    if name == "html":
        reader = Reader(document)
        assert reader.tags["script"] == 1
        assert set(reader.tags) <= set(Reader(rendered("html")).tags)


@pytest.mark.parametrize("name", OURS)
def test_a_run_without_evidence_is_shown_as_one(name: str) -> None:
    run = fixed_run()
    issued = {**run.certificate, "status": "PENDING", "score": None, "grade": "-", "rate": None}
    issued |= {"failure_rate_upper_95": None, "gateways": [], "categories": {}}
    text = rendered(name, changed(run, evidence=(), verdicts=(), certificate=issued, gates={}))
    assert "PENDING" in text
    assert "100.0 %" not in text


@pytest.mark.parametrize("name", ["html", "markdown"])
def test_the_same_numbers_stand_in_every_rendering(name: str) -> None:
    text = " ".join("".join(Reader(rendered("html")).text).split()) if name == "html" else rendered(name)
    for words in (
        "14 of 20",
        "7 of 18 cells",
        "50.8 %",
        "BLOCKED",
        "no GPU on this machine",
        "1 claim could not be judged",
    ):
        assert words in text.replace("\\", ""), words


# ---- the numbers


def test_shares_are_rounded_towards_caution() -> None:
    assert report_outline.percent(0.9996) == "99.9 %"
    assert report_outline.percent(0.0001, up=True) == "0.1 %"
    assert (report_outline.percent(0.29), report_outline.percent(0.07, up=True)) == ("29.0 %", "7.0 %")
    assert report_outline.percent(None) == "–"


def test_a_cell_never_reads_as_held_without_evidence_for_it() -> None:
    grid = report_outline.matrix(fixed_run())
    cells = {(form, device, cell.modality): cell for form, device, row in grid.rows for cell in row if cell}
    assert cells["safetensors", "cpu", "run"].state == "held"
    assert cells["gguf", "cpu", "run"].state == "failed"
    assert cells["safetensors", "gpu", "run"].state == "inapplicable"
    assert cells["apr", "cpu", "serve"].state == "skipped"
    assert cells["apr", "cpu", "chat"].state == "untried"
    assert cells["safetensors", "gpu", "run"].reason.startswith("no GPU")
    assert "held" not in {cell.state for cell in cells.values() if not cell.counted}
    assert len([cell for cell in cells.values() if cell.modality in ("run", "chat", "serve")]) == 18


def test_a_cell_that_was_only_doubted_is_doubtful() -> None:
    cell = report_outline.Cell(
        "gguf", "cpu", "run", Counter({Outcome.INCONCLUSIVE: 1, Outcome.CORROBORATED: 5})
    )
    assert (cell.state, cell.held, cell.counted) == ("doubtful", 5, 6)


def test_a_speed_that_was_not_measured_is_none_and_no_zero() -> None:
    run = fixed_run()
    entry = msgspec.structs.replace(run.evidence[5], response=Response(text="4", time_to_first_token_s=0.5))
    (speed,) = report_outline.speeds(changed(run, evidence=(entry,)))
    assert (speed.tokens_per_s, speed.first_token_s) == (None, 0.5)
    assert report_outline.speeds(changed(run, evidence=(run.evidence[10],))) == []


def test_an_unproven_gateway_is_named_so() -> None:
    assert report_outline.word(None) == "unproven"
    assert "unproven" in rendered("markdown")


# ---- JUnit


def suites(run: Run | None = None) -> ElementTree.Element:
    return parsed(rendered("junit", run))


def test_junit_counts_are_those_of_its_cases() -> None:
    root = suites()
    found = Counter[str]()
    for suite in root.iter("testsuite"):
        cases = suite.findall("testcase")
        own = {kind: len(suite.findall(f"testcase/{kind}")) for kind in ("failure", "error", "skipped")}
        assert suite.get("tests") == str(len(cases))
        assert [suite.get(key) for key in ("failures", "errors", "skipped")] == [str(n) for n in own.values()]
        found.update(
            {
                "tests": len(cases),
                "failures": own["failure"],
                "errors": own["error"],
                "skipped": own["skipped"],
            }
        )
    assert {key: int(root.get(key, "-1")) for key in found} == found
    entries, gateways = len(fixed_run().evidence), 5
    assert found == {"tests": entries + gateways, "failures": 4 + 3, "errors": 2, "skipped": 4}


def test_no_junit_case_has_two_outcomes_and_none_is_silent() -> None:
    for case in suites().iter("testcase"):
        assert len([child for child in case if child.tag in ("failure", "error", "skipped")]) <= 1
        for child in case:
            assert child.get("message"), ElementTree.tostring(case)


@pytest.mark.parametrize(
    ("outcome", "tag", "kind"),
    [
        (Outcome.CORROBORATED, None, None),
        (Outcome.FALSIFIED, "failure", "falsified"),
        (Outcome.INCONCLUSIVE, "failure", "inconclusive"),
        (Outcome.TIMEOUT, "error", "timeout"),
        (Outcome.CRASHED, "error", "crashed"),
        (Outcome.INAPPLICABLE, "skipped", "skipped"),
        (Outcome.SKIPPED, "skipped", "skipped"),
    ],
)
def test_junit_tells_the_outcomes_apart(outcome: Outcome, tag: str | None, kind: str | None) -> None:
    run = fixed_run()
    entry = msgspec.structs.replace(run.evidence[5], outcome=outcome, reason="")
    root = suites(changed(run, evidence=(entry,), certificate={**run.certificate, "gateways": []}))
    (case,) = root.iter("testcase")
    assert [(child.tag, child.get("type")) for child in case] == ([(tag, kind)] if tag else [])


def test_junit_names_are_unique_even_for_equal_entries() -> None:
    run = fixed_run()
    root = suites(changed(run, evidence=run.evidence + run.evidence[:8]))
    names = [(case.get("classname"), case.get("name")) for case in root.iter("testcase")]
    assert len(set(names)) == len(names)
    assert "apr_qa.HuggingFaceTB--SmolLM2-135M-Instruct.gguf.cpu.run" in dict(names)


def test_junit_suites_are_cells_and_gate_families() -> None:
    names = [suite.get("name") for suite in suites().iter("testsuite")]
    assert {"gateways", "G0", "F-CONV", "gguf·cpu·run", "apr·cpu·serve"} <= set(names)
    assert len(set(names)) == len(names)


def test_an_unproven_gateway_is_no_green_test() -> None:
    cases = {str(case.get("name"))[:2]: case for case in suites().find("testsuite[@name='gateways']") or ()}
    failure = cases["G1"].find("failure")
    assert failure is not None
    assert failure.get("type") == "unproven"
    assert cases["G2"].find("failure") is None


def test_junit_has_a_time_only_where_one_was_measured() -> None:
    for entry, has_time in ((fixed_run().evidence[5], True), (fixed_run().evidence[13], False)):
        root = suites(changed(fixed_run(), evidence=(entry,), certificate={}))
        assert [
            node.get("time") is not None for node in (*root.iter("testsuite"), *root.iter("testcase"))
        ] == [has_time] * 2


def test_a_junit_failure_says_how_to_see_it_again() -> None:
    text = "".join(failure.text or "" for failure in suites().iter("failure"))
    for words in (
        "Simple arithmetic is answered correctly.",
        "(P1)",
        "gguf·cpu·run q4_1",
        "What is 2 + 2?",
        "The answer is 5.",
    ):
        assert words in text
    assert "apr-qa replay 0000000000000007" in text


def test_junit_properties_carry_the_verdict() -> None:
    suite = suites().find("testsuite")
    assert suite is not None
    values = {node.get("name"): node.get("value") for node in suite.iter("property")}
    expected = {
        "status": "BLOCKED",
        "score": "0",
        "grade": "F",
        "coverage": "7/18",
        "tier": "mvp",
        "apr_qa": "0.1.0",
    }
    assert expected.items() <= values.items()
    assert values["failure_rate_upper_95"] == "0.508"


# ---- HTML


def test_the_page_fetches_nothing() -> None:
    reader = Reader(
        rendered("html", with_text('<img src="https://evil.example/x"> url(https://evil.example)'))
    )
    assert not {"img", "iframe", "object", "embed", "video", "audio", "base"} & set(reader.tags)
    assert not reader.values("src")
    assert all(value.startswith("#") or value == "data:," for value in reader.values("href"))
    assert not reader.values("action")
    assert not re.search(r"@import|url\(", rendered("html"))


def test_the_page_allows_its_own_style_and_script_only() -> None:
    reader = Reader(rendered("html"))
    (policy,) = [value for value in reader.values("content") if "default-src" in value]
    assert policy.startswith("default-src 'none';")
    assert "unsafe" not in policy
    assert policy.count("'sha256-") == 2
    assert not reader.values("style")
    assert not [name for _, name, _ in reader.attributes if name.startswith("on")]


def test_hostile_text_adds_no_element() -> None:
    reader = Reader(rendered("html", with_text(HOSTILE)))
    assert reader.tags["script"] == 1
    assert reader.tags["img"] == 0
    assert "<img src=x onerror=alert(1)>" in "".join(reader.text)


def test_a_template_expression_in_the_evidence_stays_text() -> None:
    assert "{{ 7 * 7 }}" in rendered("html")


def test_a_long_output_is_folded_and_cut_with_a_note() -> None:
    page = rendered("html")
    assert '<details class="fold"><summary><b>output</b>' in page
    assert "82,500 more characters in evidence.jsonl" in page
    assert len(page) < 200_000


def test_every_link_of_the_page_leads_somewhere() -> None:
    reader = Reader(rendered("html"))
    targets = {value[1:] for value in reader.values("href") if value.startswith("#") and "=" not in value}
    assert targets <= set(reader.values("id"))
    assert len(set(reader.values("id"))) == len(reader.values("id"))


def test_a_reason_for_an_inapplicable_cell_is_on_the_page() -> None:
    assert "no GPU on this machine: torch.cuda.is_available() is false" in rendered("html")


def test_a_huge_run_lists_what_is_not_corroborated_and_counts_the_rest() -> None:
    run = fixed_run()
    many = tuple(msgspec.structs.replace(run.evidence[5], id=f"c{n:015x}") for n in range(MAX_ENTRIES))
    page = rendered("html", changed(run, evidence=run.evidence + many))
    reader = Reader(page)
    shown = [value for value in reader.values("id") if value.startswith("e-")]
    assert len(shown) == 6
    assert "2,004 corroborated, 1 falsified" in page
    assert "(2,008 not listed)" in page
    targets = {value[1:] for value in reader.values("href") if value.startswith("#") and "=" not in value}
    assert targets <= set(reader.values("id"))


def test_a_huge_run_of_failures_is_bounded_too() -> None:
    run = fixed_run()
    many = tuple(msgspec.structs.replace(run.evidence[6], id=f"f{n:015x}") for n in range(MAX_ENTRIES + 10))
    assert len(re.findall(r'id="e-', rendered("html", changed(run, evidence=many)))) == MAX_ENTRIES


def luminance(colour: str) -> float:
    channels = (int(colour[place : place + 2], 16) / 255 for place in (1, 3, 5))
    linear = (c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels)
    return sum(weight * value for weight, value in zip((0.2126, 0.7152, 0.0722), linear, strict=True))


@pytest.mark.parametrize("scheme", [0, 1], ids=["light", "dark"])
def test_text_has_enough_contrast_in_both_schemes(scheme: int) -> None:
    page = rendered("html")
    colours = dict(
        re.findall(r"--([\w-]+): (#[0-9a-f]{6})", page.split("(prefers-color-scheme: dark)")[scheme])
    )
    pairs = [
        (text, ground) for text in ("ink", "soft", "link") for ground in ("paper", "card", "sunk", "tile")
    ]
    pairs += [(name, f"{name}-bg") for name in ("good", "bad", "doubt", "mute", "crash")] + [("mute", "tile")]
    for text, ground in pairs:
        light, dark = sorted((luminance(colours[text]), luminance(colours[ground])), reverse=True)
        assert (light + 0.05) / (dark + 0.05) >= 4.5, (text, ground)


# ---- Markdown


@given(text=st.text(alphabet="`a\n~ ", max_size=40))
@settings(max_examples=50, deadline=None)
def test_no_text_closes_its_fence(text: str) -> None:
    _, *inside, last = fenced(text).split("\n")
    assert set(last) == {"`"}
    assert not any(line.strip().startswith(last) for line in inside)
    assert "\n".join(inside) == text


def test_every_row_of_a_markdown_table_has_as_many_cells_as_its_head() -> None:
    width = 0
    for line in rendered("markdown", with_text("a | b \\| c ` d\n| e")).split("\n"):
        cells = len(re.findall(r"(?<!\\)(?:\\\\)*\|", line)) if line.startswith("|") else 0
        assert not (width and cells) or cells == width, line
        width = cells


def test_markdown_stays_small_for_a_huge_run() -> None:
    run = fixed_run()
    many = tuple(msgspec.structs.replace(run.evidence[15], id=f"f{n:015x}") for n in range(500))
    text = rendered("markdown", changed(run, evidence=many))
    assert "and 450 more in `evidence.jsonl`" in text
    assert len(text) < 200_000


# ---- text made visible


@given(st.text())
@settings(max_examples=50, deadline=None)
def test_visible_text_holds_nothing_that_steers(text: str) -> None:
    shown = visible(text)
    assert not STEERING.search(shown)
    assert visible(shown) == shown
    assert STEERING.search(text) is not None or shown == text


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("\x1b[0m", "\\x1b[0m"),
        ("a\u202eb", "a\\u202eb"),
        ("\ud800", "\\ud800"),
        ("\U000e0041", "\\U000e0041"),
        ("👩\u200d💻\t\n", "👩\u200d💻\t\n"),
    ],
)
def test_a_steering_character_becomes_its_escape(text: str, shown: str) -> None:
    assert visible(text) == shown


def test_what_is_cut_is_counted() -> None:
    assert excerpt("a" * 1_500, 300) == "a" * 300 + "\n[… 1,200 more characters in evidence.jsonl]"
    assert excerpt("abc", 3) == "abc"
    assert one_line(" a \n b " * 90, 9) == "a b a b…"


def test_a_claim_without_gate_info_says_so() -> None:
    run = fixed_run()
    claim = Claim(gate_id="F-NEW-001", kind="generate")
    scenario = msgspec.structs.replace(run.evidence[5].scenario, claim=claim)
    entry = msgspec.structs.replace(run.evidence[5], gate_id="F-NEW-001", scenario=scenario)
    for report in (Html(), Markdown(), JUnit()):
        assert "F-NEW-001" in report.render(changed(run, evidence=(entry,), gates={}))
