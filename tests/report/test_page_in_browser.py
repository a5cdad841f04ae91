"""The report as a browser shows it, on a wide and on a narrow screen."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from igd_ray.catalog import Catalog
from igd_ray.report.html import write_report
from tests.toys.browser import NAMES, Browser, BrowserError, chromium
from tests.toys.catalog_rows import add_outcomes, add_plan, add_run, row

WIDTHS = [(1280, 800), (390, 844)]

pytestmark = pytest.mark.skipif(
    chromium() is None, reason=f"no browser: none of {', '.join(NAMES)} is installed (Debian: chromium)"
)


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    program = chromium()
    assert program is not None
    try:
        started = Browser(program)
    except BrowserError as error:
        # As where a container lets no browser start: what it would show is not known then.
        pytest.skip(str(error))
    with started:
        yield started


@pytest.fixture(scope="module")
def page(filled: Catalog) -> Path:
    return write_report(filled, None, filled.root.parent / "browser.html")


@pytest.fixture(params=WIDTHS, ids=lambda size: f"{size[0]} px")
def shown(request: pytest.FixtureRequest, browser: Browser, page: Path) -> Browser:
    browser.open(page, *request.param)
    return browser


def test_nothing_goes_wrong_and_nothing_is_loaded(shown: Browser, page: Path) -> None:
    assert shown.console == []
    assert page.stat().st_size < 5_000_000


def test_the_page_is_no_wider_than_the_window(shown: Browser) -> None:
    assert shown.run("document.documentElement.scrollWidth <= window.innerWidth")
    # A wide table or figure scrolls in a box of its own.
    assert shown.run("[...document.querySelectorAll('.wide, figure')].every(e => e.clientWidth <= window.innerWidth)")


def test_the_worst_case_is_seen_without_scrolling(shown: Browser) -> None:
    place = "document.querySelector('table').rows[{row}].cells[1].getBoundingClientRect()"
    head = shown.run("document.querySelector('table').rows[0].cells[1].textContent.trim()")
    assert head == "Worst case"
    for number in (0, 1):
        box = {edge: shown.run(f"{place.format(row=number)}.{edge}") for edge in ("left", "right", "top", "bottom")}
        assert box["left"] >= 0
        assert box["right"] <= shown.run("window.innerWidth")
        assert box["bottom"] <= shown.run("window.innerHeight"), box
    for claim in ("gains 45.0 points: 65.0 % against 20.0 %", "shows no gain: 25.0 % against 20.0 %"):
        bottom = shown.run(
            f"[...document.querySelectorAll('.claims li')].find(e => e.innerText.includes('{claim}'))"
            ".getBoundingClientRect().bottom"
        )
        assert bottom <= shown.run("window.innerHeight")


def test_no_text_is_smaller_than_12_pixels(shown: Browser) -> None:
    small = shown.run(
        """(() => {
            const found = [];
            for (const element of document.querySelectorAll("body *")) {
                const own = [...element.childNodes].some((node) => node.nodeType === 3 && node.textContent.trim());
                if (!own || ["SCRIPT", "STYLE"].includes(element.tagName)) continue;
                let size = parseFloat(getComputedStyle(element).fontSize);
                const drawing = element.closest("svg");
                if (drawing) size *= drawing.getBoundingClientRect().width / drawing.viewBox.baseVal.width;
                if (size < 11.99) found.push(`${element.tagName} ${size} ${element.textContent}`);
            }
            return found.join("; ");
        })()"""
    )
    assert small == ""


def test_the_first_column_stays_where_a_table_scrolls(shown: Browser) -> None:
    shown.run("document.querySelector('.wide').scrollLeft = 120")
    left = shown.run(
        "document.querySelector('table').rows[1].cells[0].getBoundingClientRect().left"
        " - document.querySelector('.wide').getBoundingClientRect().left"
    )
    assert left == pytest.approx(0, abs=1)


def test_columns_sort_by_keyboard_and_what_is_unknown_stands_last(browser: Browser, page: Path) -> None:
    browser.open(page, 1280, 800)
    first = "document.querySelector('table').tBodies[0]"
    before = browser.run(f"[...{first}.rows].map(r => r.cells[0].innerText).join()")
    assert before == "none,cdir-12,hedge,loir-12,random-12"
    for _ in range(30):
        browser.press("Tab")
        if browser.run("document.activeElement.textContent.trim()") == "Worst case":
            break
    assert browser.run("getComputedStyle(document.activeElement).outlineStyle") == "solid"
    orders = []
    for _ in range(2):
        browser.press("Enter")
        orders.append(browser.run(f"[...{first}.rows].map(r => r.cells[0].innerText).join()"))
    assert orders == ["loir-12,random-12,none,cdir-12,hedge", "none,random-12,loir-12,cdir-12,hedge"]
    assert browser.run("document.querySelector('th:nth-child(2)').ariaSort") == "ascending"


def test_every_box_that_scrolls_and_every_fold_is_reached_by_keyboard(browser: Browser, page: Path) -> None:
    browser.open(page, 390, 844)
    assert browser.run(
        "[...document.querySelectorAll('.wide, figure:has(svg), summary, a, button')].every(e => e.tabIndex === 0)"
    )


def test_it_is_read_without_script(browser: Browser, page: Path) -> None:
    browser.ask("Emulation.setScriptExecutionDisabled", value=True)
    try:
        browser.open(page, 1280, 800)
        assert browser.run("document.querySelector('table').rows[1].cells[1].innerText.split('\\n')[0]") == "20.0 %"
        assert browser.run("document.querySelectorAll('button').length") == 0
    finally:
        browser.ask("Emulation.setScriptExecutionDisabled", value=False)


def test_verdicts_differ_by_more_than_their_colour(browser: Browser, page: Path) -> None:
    browser.open(page, 1280, 800)
    signs = browser.run("[...document.querySelectorAll('.claims .sign')].map(e => e.innerText.trim()).join('')")
    assert signs == "??▲○"


HOSTILE = "\"><img src=x onerror=alert(1)><script>alert(2)</script>]]>$x$ '"


def test_whatever_a_catalog_holds_stays_text(browser: Browser, catalog: Catalog) -> None:
    """The page's own policy would say on the console what it kept from running."""
    add_run(catalog, model=HOSTILE, dataset=HOSTILE, split=HOSTILE, notes=[HOSTILE], config=json.dumps({"n": HOSTILE}))
    add_plan(catalog, {f"u{place}": (defense, HOSTILE, [HOSTILE]) for place, defense in enumerate(("none", HOSTILE))})
    add_outcomes(catalog, "u0", "none", HOSTILE, {HOSTILE: "robust"})
    add_outcomes(catalog, "u1", HOSTILE, HOSTILE, {HOSTILE: "broken"})
    told = {"check": HOSTILE, "severity": HOSTILE, "defense": HOSTILE, "attack": HOSTILE, "message": HOSTILE}
    catalog.commit("checks", "check", [row("checks", run_id="run", **told)])
    ranking = {"ranking_id": "r", "method": HOSTILE, "model_id": "m0", "layer": HOSTILE, "class_name": HOSTILE}
    neuron = {"class_id": 0, "neuron": 0, "score": 1.0, "rank": 0}
    catalog.commit("rankings", "r", [row("rankings", **ranking, **neuron)])
    page = write_report(catalog, None, catalog.root.parent / "hostile.html")
    for size in WIDTHS:
        browser.open(page, *size)
        assert browser.console == []
        assert browser.run("document.querySelectorAll('script').length") == 1
        assert browser.run("document.querySelectorAll('img').length") == 0
        assert browser.run("document.body.innerText").count("onerror=alert(1)") > 10
        assert browser.run("document.documentElement.scrollWidth <= window.innerWidth")
