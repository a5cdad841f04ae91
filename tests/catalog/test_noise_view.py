"""How often noise alone makes a defense wrong, by hand; and nothing before every planned image was asked."""

from collections.abc import Mapping, Sequence

import pytest

from igd_ray.catalog import Catalog, run_query
from tests.toys.catalog_rows import add_run, row

Answers = Mapping[str, int | None]


def plan(catalog: Catalog, units: Sequence[tuple[str, str, str]], run_id: str = "run") -> None:
    """Commit a plan: (unit key, defense, image ids of a letter each)."""
    rows = [
        row(
            "run_units", run_id=run_id, unit_key=key, kind="noise", defense=defense, reported=False, image_ids=list(ids)
        )
        for key, defense, ids in units
    ]
    catalog.commit("run_units", run_id, rows)


def answer(catalog: Catalog, key: str, failures: Answers) -> None:
    """Commit what a unit found: image id → wrong answers of ten, None where the image is not right at first."""
    rows = [
        row(
            "noise",
            unit_key=key,
            defense="whatever",
            image_id=image_id,
            clean_correct=count is not None,
            draws=None if count is None else 10,
            failures=count,
        )
        for image_id, count in failures.items()
    ]
    catalog.commit("noise", key, rows)


def view(catalog: Catalog) -> dict[tuple[object, object], dict[str, object]]:
    rows = run_query(catalog, "FROM noise_failures").to_pylist()
    found = {(each["run_id"], each["defense"]): each for each in rows}
    assert len(found) == len(rows)
    return found


def test_by_hand_over_units_and_defenses(catalog: Catalog) -> None:
    add_run(catalog)
    plan(catalog, [("u", "loir-2", "abc"), ("v", "loir-2", "d"), ("w", "two-pass", "abcd")])
    answer(catalog, "u", {"a": 0, "b": 3, "c": None})
    answer(catalog, "v", {"d": 1})
    answer(catalog, "w", {"a": 0, "b": 0, "c": 0, "d": 0})
    found = view(catalog)
    assert found["run", "loir-2"] == {
        "run_id": "run",
        "model": "demo",
        "dataset": "digits",
        "defense": "loir-2",
        "images": 4,
        "n": 3,
        "draws": 10,
        "rate": pytest.approx(4 / 30),
        "failed_images": 2,
    }
    assert (found["run", "two-pass"]["rate"], found["run", "two-pass"]["failed_images"]) == (0, 0)


def test_nothing_is_said_until_every_planned_image_was_asked(catalog: Catalog) -> None:
    plan(catalog, [("u", "loir-2", "ab"), ("v", "loir-2", "cd")])
    answer(catalog, "u", {"a": 0, "b": 3})
    (found,) = view(catalog).values()
    assert [found[name] for name in ("images", "n", "draws", "rate", "failed_images")] == [4, None, None, None, None]
    answer(catalog, "v", {"c": 0, "d": 0})
    (found,) = view(catalog).values()
    assert found["rate"] == pytest.approx(3 / 40)


def test_without_a_right_image_there_is_no_rate(catalog: Catalog) -> None:
    plan(catalog, [("u", "loir-2", "ab")])
    answer(catalog, "u", {"a": None, "b": None})
    (found,) = view(catalog).values()
    assert [found[name] for name in ("images", "n", "rate", "failed_images")] == [2, 0, None, 0]


def test_a_unit_counts_for_each_run_and_label_that_uses_it(catalog: Catalog) -> None:
    plan(catalog, [("u", "loir-2", "ab"), ("u", "again", "ab")], "one")
    plan(catalog, [("u", "loir-2", "ab")], "two")
    answer(catalog, "u", {"a": 0, "b": 5})
    found = view(catalog)
    assert set(found) == {("one", "loir-2"), ("one", "again"), ("two", "loir-2")}
    assert {each["rate"] for each in found.values()} == {5 / 20}


def test_parts_stand_for_a_unit_that_was_split(catalog: Catalog) -> None:
    plan(catalog, [("u", "loir-2", "ab")])
    splits = [row("splits", unit_key="u", part_key=part, images=1) for part in ("p", "q")]
    catalog.commit("splits", "u", splits)
    answer(catalog, "p", {"a": 2})
    assert view(catalog)["run", "loir-2"]["rate"] is None
    answer(catalog, "q", {"b": 0})
    assert view(catalog)["run", "loir-2"]["rate"] == pytest.approx(2 / 20)
    (state,) = run_query(catalog, "SELECT state FROM unit_states").to_pylist()
    assert state == {"state": "done"}
