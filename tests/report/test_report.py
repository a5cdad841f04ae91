"""The HTML report: what it says, and that it needs nothing else."""

import base64
import hashlib
import html
import re
from datetime import UTC, datetime
from html.parser import HTMLParser
from pathlib import Path

import pytest

from igd_ray.catalog import Catalog
from igd_ray.errors import IgdError, InputError
from igd_ray.report.html import write_report
from tests.toys.catalog_rows import add_failure, add_outcomes, add_plan, add_run, row

VOID = {"link", "meta", "img", "br"}


class _Page(HTMLParser):
    """Collects addresses and checks that every element is closed in order."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.addresses: list[str] = []
        self.tags: list[str] = []
        self.open: list[str] = []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        if tag not in VOID:
            self.open.append(tag)
        self.addresses += [value or "" for name, value in attrs if name in ("src", "href", "xlink:href", "data")]

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        if tag not in VOID:
            self.open.pop()

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def _report(catalog: Catalog, run_id: str | None = None) -> str:
    return write_report(catalog, run_id, catalog.root.parent / "report.html").read_text()


def _section(text: str, title: str) -> str:
    (found,) = re.findall(rf"<section[^>]*>\s*<h2>{title}</h2>.*?</section>", text, flags=re.DOTALL)
    return html.unescape(re.sub(r"\s+", " ", re.sub(r"<[^>]+>", " ", found)))


@pytest.fixture(scope="module")
def page(filled: Catalog) -> str:
    return _report(filled)


def test_it_needs_nothing_from_elsewhere(page: str) -> None:
    parsed = _Page(page)
    # The icon is empty: without one a browser asks whoever serves the page for it.
    assert all(
        address.startswith(("data:image/png;base64,", "#")) or address == "data:," for address in parsed.addresses
    )
    assert not re.search(r"https?://|@import|url\((?!#)", page)
    # One script, which the page's own policy knows by its digest; none other would run.
    assert parsed.tags.count("script") == 1
    (script,) = re.findall("<script>(.*?)</script>", page, flags=re.DOTALL)
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert f"script-src 'sha256-{digest}'" in html.unescape(page)
    # Accuracies, five defenses of which images were broken, a ranking and a search.
    assert parsed.tags.count("svg") == 8
    assert parsed.tags.count("img") == 12


def test_what_the_catalog_holds_is_text_and_not_markup(page: str) -> None:
    assert "<b>bold" not in page
    assert "<i>seen" not in page
    assert "<script>alert" not in page
    assert "&lt;b&gt;bold&lt;/b&gt; &amp; $x$" in page
    assert "$3 &lt;digit&gt;" in page


def test_numbers_claims_and_reasons(page: str) -> None:
    accuracy = _section(page, "Accuracy")
    # Of 40 images 3 are misclassified and 14 skipped; of the 23 attacked 8 stay robust.
    assert "▲ gain p = 0.00012, Holm: 0.00024 92.5 % 80.1–97.4" in accuracy
    assert "(15 of 23) 14 skipped" in accuracy
    assert (
        "▲ loir-12 gains 45.0 points: 65.0 % against 20.0 % of 40 images "
        "(20 images gained, 2 lost, p = 0.00012, Holm: 0.00024)." in accuracy
    )
    assert (
        "○ random-12 shows no gain: 25.0 % against 20.0 %, undecided at 40 images (8 images gained, 6 lost" in accuracy
    )
    assert "? cdir-12 nothing can be claimed (failed on cdir-12: aa)." in accuracy
    assert "? hedge nothing can be claimed (not finished on hedge: rays-1000)." in accuracy
    assert "– 40 failed" in accuracy
    assert "– 40 of 40 missing" in accuracy
    assert accuracy.count("not finished, or nothing to compare with") == 2


def test_findings_come_gravest_first(page: str) -> None:
    checks = _section(page, "Checks")
    assert checks.index("error outside the ball") < checks.index("warning zero gradient") < checks.index("info noise")
    assert "2 findings" in checks
    assert "2 for information, of 1 check" in checks
    # What only informs is folded.
    folded = page[page.index('<section id="checks">') :]
    assert folded.index("zero gradient") < folded.index("<details>") < folded.index("noise only")


def test_what_was_not_measured(page: str) -> None:
    gaps = _section(page, "What was not measured")
    for sentence in (
        "rays was not run; in its place, with another budget: rays-1000.",
        "tr-rays was not run.",
        "1 of 15 units have not finished",
        "Unit cdir-12-aa (cdir-12 / aa) failed, attempts: 1; CUDA out of memory",
        "gradients averaged over the noise",
    ):
        assert sentence in gaps
    assert "tr-aa was not run" not in gaps
    assert "belong to the nine whose worst case, image by image, the paper reports" in gaps


def test_protocol_search_and_ranking(page: str) -> None:
    protocol = _section(page, "Protocol")
    assert "linf, ε = 8/255" in protocol
    assert "which flatters clean accuracy" in protocol
    assert "loir-12 penultimate 12 4/255 0.01 1 1" in protocol
    assert "loir penultimate 12 4/255 0.01 1 90.5 % 92.0 % 2.0 % 300 train search" in _section(page, "Search")
    assert "chosen: k = 12" in _section(page, "Search")
    assert "10 classes × 64 neurons, 500 probe images of digits" in _section(page, "Rankings")


def test_the_same_catalog_gives_the_same_bytes(filled: Catalog, page: str) -> None:
    assert _report(filled) == page


def test_none_is_the_latest_evaluation(catalog: Catalog) -> None:
    for run_id, verb, day in (("old", "evaluate", 1), ("new", "evaluate", 2), ("search", "search", 3)):
        add_run(catalog, run_id, verb=verb, created_at=datetime(2026, 1, day, tzinfo=UTC))
    assert "new (evaluate" in _report(catalog)
    assert "old (evaluate" in _report(catalog, "old")
    assert "This run planned no attacks." in _report(catalog, "search")
    assert "The catalog holds no finding" in _report(catalog, "search")


def test_an_unknown_run_or_none_at_all_is_refused(catalog: Catalog) -> None:
    with pytest.raises(InputError, match="no run to report on"):
        _report(catalog)
    add_run(catalog, "evening")
    with pytest.raises(InputError, match="no run 'evenin'; did you mean 'evening'"):
        _report(catalog, "evenin")
    assert not (catalog.root.parent / "report.html").exists()


def test_a_run_that_has_only_begun(catalog: Catalog) -> None:
    add_run(catalog, config=None, notes=None, model_id=None, epsilon=None)
    add_plan(catalog, {"u": ("loir-2", "aa", "ab"), "rank": (None, None, "")})
    add_failure(catalog, "rank", "a neuron is missing")
    text = _report(catalog)
    assert "2 of 2 missing" in _section(text, "Accuracy")
    gaps = _section(text, "What was not measured")
    assert "1 of 2 units have not finished" in gaps
    assert "Unit rank (ranking) failed, attempts: 1; a neuron is missing" in gaps


def test_a_complete_protocol_leaves_nothing_open(catalog: Catalog) -> None:
    attacks = (
        "aa",
        "rays",
        "apgd-eot",
        *(f"tr-{name}" for name in ("apgd-ce", "apgd-cw", "apgd-t-dlr", "aa", "rays", "apgd-eot")),
    )
    add_run(catalog)
    add_plan(catalog, {attack: ("loir-2", attack, "a") for attack in attacks})
    for attack in attacks:
        add_outcomes(catalog, attack, "loir-2", attack, {"a": "robust"})
    gaps = _section(_report(catalog), "What was not measured")
    assert "everything planned has finished" in gaps
    assert "belong to the nine" not in gaps


def test_pictures_of_the_wrong_size_are_left_out(catalog: Catalog) -> None:
    add_run(catalog)
    add_plan(catalog, {"u": ("none", "aa", "abcd")})
    add_outcomes(catalog, "u", "none", "aa", dict.fromkeys("abcd", "broken"))
    shapes: dict[str, tuple[list[int], int]] = {
        "a": ([1, 2, 2], 4),
        "b": ([1, 9, 9], 4),
        "c": ([4], 4),
        "d": ([1, 0, 0], 0),
    }
    points = [
        row("adversarials", unit_key="u", image_id=image, point="returned", shape=shape, pixels=[0.5] * size)
        for image, (shape, size) in shapes.items()
    ]
    catalog.commit("adversarials", "u", points)
    assert _Page(_report(catalog)).tags.count("img") == 1


def test_a_half_written_result_is_set_aside_and_the_report_written(
    catalog: Catalog, capsys: pytest.CaptureFixture[str]
) -> None:
    add_run(catalog)
    (catalog.root / "outcomes" / "z.parquet").write_bytes(b"PAR1 junk")
    assert _report(catalog)
    assert "outcomes/z.parquet is damaged, not read" in capsys.readouterr().err
    assert (catalog.root / "outcomes" / "z.parquet").exists()


def test_a_place_that_cannot_be_written_is_one_line(filled: Catalog, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "folder").mkdir()
    for path in (tmp_path / "file" / "report.html", tmp_path / "folder"):
        with pytest.raises(IgdError, match="cannot") as caught:
            write_report(filled, None, path)
        assert "\n" not in str(caught.value)
