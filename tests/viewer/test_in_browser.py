"""The pages of a catalog as a browser shows them, on a wide and on a narrow screen."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from igd_ray.catalog import Catalog
from tests.report.test_page_in_browser import HOSTILE
from tests.toys.browser import NAMES, Browser, BrowserError, chromium
from tests.toys.catalog_rows import add_outcomes, add_plan, add_run, row
from tests.viewer.conftest import served

WIDTHS = [(1280, 800), (390, 844)]

PAGES = {
    "runs": "",
    "run": "run?id=run",
    "compare": "compare?run=run&run=second",
    "images": "images?id=run",
    "sql": "sql?file=table8",
    "error": "run?id=none",
}

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


@pytest.mark.parametrize("size", WIDTHS, ids=lambda size: f"{size[0]} px")
@pytest.mark.parametrize("name", PAGES)
def test_a_page_fits_its_window_and_asks_for_nothing_else(
    browser: Browser, address: str, pictures: Path, name: str, size: tuple[int, int]
) -> None:
    browser.open(address + PAGES[name], *size)
    # The console says what the page's policy kept from loading, and what was asked for beside the viewer's pages.
    assert browser.console == ([] if name != "error" else [_REFUSED])
    assert browser.run("document.documentElement.scrollWidth <= window.innerWidth")
    assert (
        browser.run("[...document.querySelectorAll('nav a')].map(e => e.textContent).slice(0, 2).join()") == "Runs,SQL"
    )
    picture = pictures / f"{name}-{size[0]}.png"
    browser.picture(picture)
    assert picture.read_bytes().startswith(b"\x89PNG")


_REFUSED = "Failed to load resource: the server responded with a status of 400 (Bad Request)"


def test_runs_are_filtered_chosen_and_compared(browser: Browser, address: str) -> None:
    browser.open(address, 1280, 800)
    browser.run("document.querySelector('input[type=search]').value = 'demo'")
    browser.follow("document.querySelector('form.line button').click()")
    assert browser.run("document.querySelectorAll('tbody tr').length") == 1
    browser.open(address, 1280, 800)
    browser.run("document.querySelectorAll('input[type=checkbox]').forEach(box => box.click())")
    browser.follow("[...document.querySelectorAll('button')].find(b => b.textContent.startsWith('Compare')).click()")
    assert browser.run("document.querySelector('h1').innerText") == "2 runs compared"
    assert browser.console == []


def test_sql_is_typed_and_asked(browser: Browser, address: str) -> None:
    browser.open(address + "sql", 1280, 800)
    browser.run("document.querySelector('textarea').value = 'SELECT run_id FROM runs ORDER BY ALL'")
    browser.follow("document.querySelector('section form button').click()")
    assert browser.run("[...document.querySelectorAll('tbody td')].map(e => e.innerText).join()") == "run,second"
    browser.run("document.querySelector('textarea').value = 'DROP TABLE runs'")
    browser.follow("document.querySelector('section form button').click()")
    assert "not DROP" in browser.run("document.querySelector('[role=alert]').innerText")
    assert browser.run("document.querySelector('textarea').value") == "DROP TABLE runs"


@pytest.mark.parametrize("size", WIDTHS, ids=lambda size: f"{size[0]} px")
def test_whatever_a_catalog_holds_stays_text(browser: Browser, catalog: Catalog, size: tuple[int, int]) -> None:
    add_run(catalog, model=HOSTILE, dataset=HOSTILE, split=HOSTILE, config=json.dumps({"data": HOSTILE}))
    add_run(catalog, "harmless")
    units = {f"u{place}": (defense, HOSTILE, [HOSTILE]) for place, defense in enumerate(("none", HOSTILE))}
    add_plan(catalog, units)
    add_outcomes(catalog, "u0", "none", HOSTILE, {HOSTILE: "robust"})
    add_outcomes(catalog, "u1", HOSTILE, HOSTILE, {HOSTILE: "broken"})
    point = {"point": "returned", "shape": [1, 1, 1], "pixels": [0.5]}
    for key in ("u0", "u1"):
        catalog.commit("adversarials", key, [row("adversarials", unit_key=key, image_id=HOSTILE, **point)])
    ranking = {"ranking_id": "r", "method": HOSTILE, "model_id": "m0", "layer": HOSTILE, "class_name": HOSTILE}
    neuron = {"class_id": 1, "neuron": 0, "score": 1.0, "rank": 0}
    catalog.commit("rankings", "r", [row("rankings", **ranking, **neuron)])
    address = served(catalog)
    browser.open(address, *size)
    for follow in (
        None,
        "[...document.querySelectorAll('td a')].find(e => e.textContent === 'run').click()",
        "[...document.querySelectorAll('nav a')].at(-1).click()",
    ):
        if follow is not None:
            browser.follow(follow)
        assert browser.console == []
        assert browser.run("document.querySelectorAll('script').length") == 1
        assert browser.run("[...document.images].every(e => e.src.startsWith('data:image/png'))")
        assert browser.run("document.body.innerText").count("onerror=alert(1)") >= 2
        assert browser.run("document.documentElement.scrollWidth <= window.innerWidth")
    for page in ("compare?run=harmless&run=run", "sql?sql=FROM runs", "?q=" + HOSTILE):
        browser.open(address + page.replace('"', "%22").replace("<", "%3C").replace(">", "%3E"), *size)
        assert browser.console == []
        assert "onerror=alert(1)" in browser.run("document.documentElement.outerHTML")
        assert browser.run("document.querySelectorAll('script').length") == 1
        assert browser.run("document.documentElement.scrollWidth <= window.innerWidth")
