"""The HTML report in a real browser: silent, self-contained, filterable, and as wide as its window."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from fixed_run import fixed_run

from apr_qa.reports import REPORTS

if TYPE_CHECKING:
    from chromium import Page

pytestmark = pytest.mark.browser
SHOWN = "[...document.querySelectorAll('.entry')].filter(node => !node.hidden).length"
STATUS = "document.getElementById('shown').textContent"


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Page]:
    from chromium import chromium  # not above: only this session has a websocket client

    with chromium(tmp_path_factory.mktemp("profile")) as page:
        yield page


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("report") / "report.html"
    path.write_text(REPORTS.get("html").render(fixed_run()), encoding="utf-8")
    return path.as_uri()


@pytest.fixture
def page(browser: Page, address: str) -> Page:
    browser.resize(1200)
    browser.open(address)
    return browser


def settled(page: Page) -> None:
    """Let the page handle what was queued: events, then one frame."""
    page.evaluate("new Promise(done => requestAnimationFrame(() => setTimeout(done)))")


def test_the_page_asks_for_nothing_and_complains_of_nothing(page: Page, address: str) -> None:
    page.evaluate("document.querySelectorAll('details').forEach(node => { node.open = true })")
    settled(page)
    assert page.requests() == [address]
    assert page.complaints() == []


def test_a_page_with_a_foreign_script_would_be_caught(browser: Page, address: str, tmp_path: Path) -> None:
    page = REPORTS.get("html").render(fixed_run())
    spoilt = tmp_path / "spoilt.html"
    spoilt.write_text(page.replace("</main>", "<script>alert(1)</script></main>"), encoding="utf-8")
    browser.open(spoilt.as_uri())
    settled(browser)
    assert "Content Security Policy" in " ".join(browser.complaints())


def test_typing_filters_the_list_and_says_how_many_are_left(page: Page) -> None:
    assert page.evaluate(SHOWN) == 24
    page.evaluate("document.querySelector('[name=q]').focus()")
    page.type("story")
    settled(page)
    assert page.evaluate(SHOWN) == 1
    assert page.evaluate(STATUS) == "1 of 24 entries"
    assert page.evaluate("location.hash") == "#q=story"
    assert page.evaluate("document.querySelectorAll('.gate:not([hidden])').length") == 1
    page.evaluate("document.querySelector('button[type=reset]').click()")
    settled(page)
    assert page.evaluate(SHOWN) == 24


def test_a_cell_of_the_matrix_leads_to_its_entries(page: Page) -> None:
    page.evaluate("document.querySelector('.matrix .failed a').click()")
    settled(page)
    assert page.evaluate("location.hash") == "#format=apr&device=cpu&modality=run"
    assert page.evaluate(SHOWN) == 2
    assert page.evaluate("document.querySelector('[name=format]').value") == "apr"
    assert page.evaluate("document.activeElement.id") == "evidence"


def test_every_cell_shows_as_many_entries_as_it_counts(page: Page) -> None:
    for index in range(page.evaluate("document.querySelectorAll('.matrix a b i').length")):
        count = page.evaluate(f"+document.querySelectorAll('.matrix a b i')[{index}].textContent.slice(1)")
        page.evaluate(f"document.querySelectorAll('.matrix a b i')[{index}].closest('a').click()")
        settled(page)
        assert page.evaluate(SHOWN) == count


def test_the_state_of_the_list_is_in_the_address(browser: Page, address: str) -> None:
    browser.open(f"{address}#outcome=open&severity=P1")
    assert browser.evaluate(SHOWN) == 4
    browser.open(f"{address}#outcome=nonsense")
    assert browser.evaluate(SHOWN) == 24


def test_a_link_to_an_entry_opens_it_even_when_it_is_filtered_out(page: Page) -> None:
    page.evaluate("location.hash = '#outcome=corroborated'")
    settled(page)
    page.evaluate("document.querySelector('.finding .rows a').click()")
    settled(page)
    assert page.evaluate("document.querySelector('.entry[open]').id") == "e-0000000000000003"
    assert not page.evaluate("document.querySelector('.entry[open]').hidden")


def test_the_list_is_worked_with_the_keyboard_alone(page: Page) -> None:
    page.evaluate("document.querySelector('.entry summary').focus()")
    page.call(
        "Input.dispatchKeyEvent",
        type="keyDown",
        key="Enter",
        code="Enter",
        text="\r",
        windowsVirtualKeyCode=13,
    )
    page.call("Input.dispatchKeyEvent", type="keyUp", key="Enter", code="Enter", windowsVirtualKeyCode=13)
    settled(page)
    assert page.evaluate("document.querySelector('.entry').open")


def test_hostile_text_is_text_in_the_page(page: Page) -> None:
    assert page.evaluate("document.querySelectorAll('script').length") == 1
    assert page.evaluate("document.images.length") == 0
    assert "</script></pre>" in page.evaluate(
        "document.querySelector('.entry.falsified pre').closest('main').textContent"
    )


@pytest.mark.parametrize("width", [320, 360, 768, 1200])
@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
def test_the_page_is_never_wider_than_its_window(browser: Page, address: str, width: int, dark: bool) -> None:
    browser.resize(width, dark=dark)
    browser.open(address)
    browser.evaluate("document.querySelectorAll('details').forEach(node => { node.open = true })")
    assert browser.evaluate("document.documentElement.scrollWidth") <= width
    table = "document.querySelector('.scroll')"
    assert browser.evaluate(f"{table}.scrollWidth <= {table}.clientWidth")


def test_dark_mode_follows_the_reader(browser: Page, address: str) -> None:
    colours = []
    for dark in (False, True):
        browser.resize(1200, dark=dark)
        browser.open(address)
        colours.append(browser.evaluate("getComputedStyle(document.documentElement).backgroundColor"))
    assert colours == ["rgb(250, 249, 246)", "rgb(21, 23, 26)"]


def test_the_page_reads_without_scripts(browser: Page, address: str) -> None:
    browser.resize(1200)
    browser.call("Emulation.setScriptExecutionDisabled", value=True)
    try:
        browser.open(address)
        nodes = browser.call("DOM.getDocument")["root"]["nodeId"]
        form = browser.call("DOM.querySelector", nodeId=nodes, selector="#filters")["nodeId"]
        entries = browser.call("DOM.querySelectorAll", nodeId=nodes, selector=".entry:not([hidden])")[
            "nodeIds"
        ]
        assert len(entries) == 24
        browser.call("CSS.enable")
        style = browser.call("CSS.getComputedStyleForNode", nodeId=form)["computedStyle"]
        assert {"name": "display", "value": "none"} in style
    finally:
        browser.call("Emulation.setScriptExecutionDisabled", value=False)


def test_nothing_moves_while_the_page_loads(browser: Page, address: str) -> None:
    browser.resize(1200)
    browser.open(address)
    shift = """new Promise(done => {
        let sum = 0;
        new PerformanceObserver(list => { for (const entry of list.getEntries()) sum += entry.value })
            .observe({ type: "layout-shift", buffered: true });
        setTimeout(() => done(sum), 200);
    })"""
    assert browser.evaluate(shift) == 0
