"""The figures draw the numbers that their queries give."""

import re

import pytest

from igd_ray.catalog import Catalog, named_query, run_query
from igd_ray.catalog.query import ask
from igd_ray.report.broken import Broken, attacks_on, read_broken, sets_of, sole_breaker_sentence, sole_breaker_table
from igd_ray.report.evaluation import robustness_panels
from igd_ray.report.figures.overlap import MOST_SETS, overlap
from igd_ray.report.figures.panels import Panel, Point
from igd_ray.report.figures.robustness import robustness
from igd_ray.report.results import find_run, read_results
from tests.toys.catalog_rows import add_outcomes, add_plan, add_run

NO = Point(None, None, None, "")


def _broken(catalog: Catalog) -> Broken:
    return ask(catalog, lambda reader: read_broken(reader, "run"))


def test_the_accuracies_drawn_are_those_of_the_views(filled: Catalog) -> None:
    results = ask(filled, lambda reader: read_results(reader, find_run(reader, "run")))
    rows, panels = robustness_panels(results)
    assert rows == ["worst case", "clean", "aa", "rays-1000", "tr-aa"]
    worst = {row["defense"]: row for row in run_query(filled, "FROM worst_case").to_pylist()}
    single = {(row["defense"], row["attack"]): row for row in run_query(filled, "FROM accuracy").to_pylist()}
    for panel in panels:
        row = worst[panel.defense]
        assert panel.points[0][:3] == (row["robust_accuracy"], row["low"], row["high"])
        assert panel.points[1][:3] == (row["clean_accuracy"], row["clean_low"], row["clean_high"])
        for attack, point in zip(rows[2:], panel.points[2:], strict=True):
            of_attack = single[panel.defense, attack]
            assert point.value == of_attack["robust_accuracy"]
            if point.value is not None:
                assert (point.low, point.high) == (of_attack["low"], of_attack["high"])
    # The transfer to none skipped 14 of 40 images and broke 15 of 23: 8 are robust, 22 at most.
    assert panels[0].points[4] == Point(None, 8 / 40, 22 / 40, "broke 15 of 23")
    assert "40 failed" in [point.note for point in next(p for p in panels if p.defense == "cdir-12").points]


def test_what_is_not_known_is_said_and_not_drawn() -> None:
    unknown = Point(None, None, None, "7 failed")
    drawn = robustness(["worst case", "aa"], [Panel("<b>$x$", [unknown, Point(0.5, 0.4, 0.6)])], worst=1, baseline=None)
    assert "7 failed" in drawn
    assert "&lt;b&gt;$x$" in drawn
    assert "<b>" not in drawn


def test_the_sets_drawn_are_those_of_the_query(filled: Catalog) -> None:
    broken = _broken(filled)
    rows = run_query(filled, named_query("broken_by")).to_pylist()
    assert [dict(row) for sets in sets_of(broken).values() for row in sets] == rows
    for defense, sets in sets_of(broken).items():
        drawn = overlap(defense, attacks_on(broken, defense), sets)
        texts = re.findall(r"<text[^>]*>([^<]*)</text>", drawn)
        # One number above each column, after the numbers of the axis.
        assert [int(text) for text in texts if text.isdigit()][-len(sets) :] == [row["images"] for row in sets]
        for row in attacks_on(broken, defense):
            assert any(
                re.fullmatch(rf"{row['attack']} +{'–' if row['broken'] is None else row['broken']}", t) for t in texts
            )


def test_only_the_largest_sets_are_drawn() -> None:
    attacks = [{"attack": "aa", "broken": 900}]
    sets = [{"broken_by": "aa", "images": 901 + place, "unknown": place} for place in range(MOST_SETS + 3)]
    drawn = overlap("none", attacks, sets)
    assert f">{900 + MOST_SETS}<" in drawn
    assert f">{901 + MOST_SETS}<" not in drawn


def test_the_images_that_one_attack_alone_breaks(catalog: Catalog) -> None:
    images = "abcdefghij"
    add_run(catalog)
    add_plan(catalog, {attack: ("loir-2", attack, images) for attack in ("aa", "rays", "square")})
    add_outcomes(catalog, "aa", "loir-2", "aa", dict.fromkeys(images, "broken"))
    add_outcomes(catalog, "rays", "loir-2", "rays", {**dict.fromkeys(images, "robust"), "a": "broken", "b": "broken"})
    add_outcomes(catalog, "square", "loir-2", "square", dict.fromkeys(images, "robust"))
    broken = _broken(catalog)
    assert [dict(row) for row in sole_breaker_table(broken).rows] == [
        {
            "run_id": "run",
            "defense": "loir-2",
            "attack": "aa",
            "attacked": 10,
            "broken": 10,
            "alone": 8,
            "images": "c, d, e, f, g, h, …",
        }
    ]
    assert sole_breaker_sentence(broken) == ""


def test_what_a_missing_attack_leaves_unknown_is_said(filled: Catalog) -> None:
    sentence = sole_breaker_sentence(_broken(filled))
    assert sentence.startswith("How many images an attack alone breaks is not known of ")
    assert "on cdir-12, hedge" in sentence


@pytest.mark.parametrize("hostile", ['"><script>alert(1)</script>', "$\\frac{1}{2}$"])
def test_a_name_in_a_figure_stays_text(hostile: str) -> None:
    drawn = overlap(hostile, [{"attack": hostile, "broken": 1}], [{"broken_by": hostile, "images": 1, "unknown": 0}])
    assert "<script" not in drawn


def test_the_images_that_decide_are_those_of_the_query(filled: Catalog) -> None:
    broken = _broken(filled)
    rows = [row for row in run_query(filled, named_query("decisive_images")).to_pylist() if row["defense"] == "loir-12"]
    counted = {change: sum(row["change"] == change for row in rows) for change in ("gained", "lost")}
    # As the claim on loir-12 says.
    assert counted == {"gained": 20, "lost": 2}
    for change, count in counted.items():
        groups = [row for row in broken.decisive if (row["defense"], row["change"]) == ("loir-12", change)]
        assert sum(row["images"] for row in groups) == count
        for group in groups:
            ids = [r["image_id"] for r in rows if (r["change"], r["broken_by"]) == (change, group["broken_by"])]
            assert group["image_ids"] == ids[:6]
