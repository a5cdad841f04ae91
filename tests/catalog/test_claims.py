"""What may be claimed of a defense, in SQL: the same as in Python, and by the test that the looks allow."""

import json
from datetime import UTC, datetime

import pytest

from igd_ray.catalog import Catalog, ask, connect, run_query
from igd_ray.report.results import find_run, read_results
from igd_ray.statistics import anytime_p, confidence_sequence, holm, mcnemar
from tests.toys.catalog_rows import add_outcomes, add_plan, add_run

IMAGES = [f"image-{number:02d}" for number in range(24)]

Rows = list[dict[str, object]]


def rows(catalog: Catalog, sql: str) -> Rows:
    found: Rows = run_query(catalog, sql).to_pylist()
    return found


def evaluate(
    catalog: Catalog, run_id: str, robust: dict[str, int], *, images: int = 24, hour: int = 3, **run: object
) -> None:
    """Commit a run in which the first so many images are robust under each defense."""
    known = {"config": json.dumps({"defenses": list(robust)}), **run}
    add_run(catalog, run_id, n=images, created_at=datetime(2026, 1, 2, hour, tzinfo=UTC), **known)
    add_plan(catalog, {f"{run_id}-{name}": (name, "aa", IMAGES[:images]) for name in robust}, run_id)
    for name, count in robust.items():
        statuses = {image: "robust" if place < count else "broken" for place, image in enumerate(IMAGES[:images])}
        add_outcomes(catalog, f"{run_id}-{name}", name, "aa", statuses)


def test_the_macros_are_the_functions(catalog: Catalog) -> None:
    pairs = [(0, 0), (1, 0), (0, 7), (6, 0), (3, 3), (40, 21), (500, 700), (0, 5000), (30_000, 29_000)]
    with connect(catalog) as connection:
        for gained, lost in pairs:
            answer = connection.execute("SELECT mcnemar($1, $2), anytime_p($1, $2)", [gained, lost]).fetchone()
            assert answer == pytest.approx((mcnemar(gained, lost), anytime_p(gained, lost)), rel=1e-6, abs=1e-12)
        for successes, images in [(0, 1), (1, 1), (0, 40), (3, 7), (20, 40), (65, 200), (9000, 10_000)]:
            share = [successes / images, images]
            answer = connection.execute("SELECT sequence_low($1, $2), sequence_high($1, $2)", share).fetchone()
            assert answer == pytest.approx(confidence_sequence(successes, images), abs=1e-9)
        nothing = connection.execute("SELECT sequence_low(NULL, 5), sequence_high(NULL, 5), sequence_low(0.5, 0)")
        assert nothing.fetchone() == (None, None, None)


def test_a_run_of_one_look_claims_by_mcnemar(catalog: Catalog) -> None:
    evaluate(catalog, "run", {"none": 4, "loir-2": 10, "hedge": 6})
    hedge, loir = rows(catalog, "SELECT * EXCLUDE (model, dataset) FROM claims ORDER BY defense")
    assert loir == {
        "run_id": "run",
        "defense": "loir-2",
        "images": 24,
        "gained": 6,
        "lost": 0,
        "none_accuracy": pytest.approx(4 / 24),
        "test": "mcnemar",
        "p": 0.03125,
        "holm_p": 0.0625,
        "claim": "gain",
    }
    assert (hedge["p"], hedge["holm_p"], hedge["claim"]) == (0.5, 0.5, "undecided")
    assert [row["holm_p"] for row in (hedge, loir)] == holm([0.5, 0.03125])
    worst = {row["defense"]: row for row in rows(catalog, "FROM worst_case")}
    assert [(worst[name]["test"], worst[name]["claim"]) for name in ("none", "loir-2")] == [
        (None, None),
        ("mcnemar", "gain"),
    ]
    assert list(worst["none"])[-4:] == ["test", "claim", "sequence_low", "sequence_high"]


def test_a_run_until_decided_claims_by_the_test_for_every_look(catalog: Catalog) -> None:
    evaluate(catalog, "run", {"none": 4, "loir-2": 10, "hedge": 11}, config=json.dumps({"until": "decided"}))
    hedge, loir = rows(catalog, "FROM claims ORDER BY defense")
    assert (loir["test"], loir["claim"], hedge["claim"]) == ("anytime", "undecided", "gain")
    assert (loir["p"], hedge["p"]) == (pytest.approx(anytime_p(6, 0)), pytest.approx(anytime_p(7, 0)))


@pytest.mark.parametrize("config", ["", "no JSON", "[1]", '{"until": null}', '{"model_arg": {"until": "decided"}}'])
def test_other_settings_are_not_taken_for_it(catalog: Catalog, config: str) -> None:
    evaluate(catalog, "run", {"none": 4, "loir-2": 10}, config=config)
    assert [row["test"] for row in rows(catalog, "FROM claims")] == ["mcnemar"]


def test_who_enlarges_n_after_a_look_has_looked_before(catalog: Catalog) -> None:
    evaluate(catalog, "first", {"none": 4, "loir-2": 10}, images=16, hour=3)
    evaluate(catalog, "second", {"none": 4, "loir-2": 10, "hedge": 10}, images=24, hour=4)
    tests = {(row["run_id"], row["defense"]): (row["test"], row["claim"]) for row in rows(catalog, "FROM claims")}
    assert tests == {
        ("first", "loir-2"): ("mcnemar", "gain"),
        ("second", "loir-2"): ("anytime", "undecided"),
        ("second", "hedge"): ("mcnemar", "gain"),  # nobody had seen it before
    }


def test_a_defense_of_a_search_has_been_seen_where_the_search_was_used_before(catalog: Catalog) -> None:
    def config(search: str) -> str:
        return json.dumps({"defenses": ["none"], "from_search": [search]})

    for run_id, images, hour, search in [("a", 8, 3, "s"), ("b", 16, 4, "t"), ("c", 24, 5, "s")]:
        evaluate(catalog, run_id, {"none": 2, "loir-2": 7}, images=images, hour=hour, config=config(search))
    tests = {row["run_id"]: row["test"] for row in rows(catalog, "FROM claims")}
    assert tests == {"a": "mcnemar", "b": "mcnemar", "c": "anytime"}


@pytest.mark.parametrize(
    "other",
    [{"model_id": "m1"}, {"dataset": "other"}, {"split": "train"}, {"norm": "l2"}, {"epsilon": 0.2}, {"hour": 5}],
    ids=str,
)
def test_a_run_on_other_images_or_after_it_is_no_look_before(catalog: Catalog, other: dict[str, object]) -> None:
    evaluate(catalog, "first", {"none": 4, "loir-2": 10}, images=16, **{"hour": 3, **other})  # type: ignore[arg-type]
    evaluate(catalog, "second", {"none": 4, "loir-2": 10}, images=24, hour=4)
    assert {row["test"] for row in rows(catalog, "FROM claims WHERE run_id = 'second'")} == {"mcnemar"}


def test_a_gain_is_that_on_the_images_of_the_defense(catalog: Catalog) -> None:
    add_run(catalog, config=json.dumps({"until": "decided"}))
    add_plan(catalog, {"u": ("none", "aa", "abcd"), "v": ("none", "aa", "efgh"), "w": ("hedge", "aa", "abcd")})
    add_outcomes(catalog, "u", "none", "aa", dict(zip("abcd", ["robust", "robust", "broken", "broken"], strict=True)))
    add_outcomes(catalog, "w", "hedge", "aa", dict.fromkeys("abcd", "robust"))
    unfinished = {row["defense"]: row for row in rows(catalog, "FROM worst_case")}
    assert (unfinished["hedge"]["gain"], unfinished["none"]["robust_accuracy"]) == (0.5, None)
    add_outcomes(catalog, "v", "none", "aa", dict.fromkeys("efgh", "broken"))
    worst = {row["defense"]: row for row in rows(catalog, "FROM worst_case")}
    assert (worst["none"]["n"], worst["none"]["robust_accuracy"], worst["none"]["gain"]) == (8, 0.25, 0)
    assert (worst["hedge"]["n"], worst["hedge"]["gain"]) == (4, 0.5)


def test_a_claim_on_images_without_a_verdict_is_null(catalog: Catalog) -> None:
    add_run(catalog)
    add_plan(catalog, {"u": ("none", "aa", "ab"), "v": ("loir-2", "aa", "ab"), "w": ("loir-2", "rays", "ab")})
    for key, name in {"u": "none", "v": "loir-2"}.items():
        add_outcomes(catalog, key, name, "aa", dict.fromkeys("ab", "robust"))
    (row,) = rows(catalog, "SELECT gained, lost, p, holm_p, claim, test FROM claims")
    assert row == {"gained": None, "lost": None, "p": None, "holm_p": None, "claim": None, "test": "mcnemar"}


def test_the_report_reads_the_same_claims(catalog: Catalog) -> None:
    evaluate(catalog, "first", {"none": 4, "loir-2": 10}, images=16, hour=3)
    evaluate(catalog, "second", {"none": 4, "loir-2": 10, "hedge": 12}, images=24, hour=4)
    results = ask(catalog, lambda reader: read_results(reader, find_run(reader, "second")))
    for row in rows(catalog, "FROM claims WHERE run_id = 'second'"):
        found = results.compared[str(row["defense"])]
        assert (found.images, found.gained, found.lost, found.verdict) == (24, row["gained"], row["lost"], row["claim"])
        assert (found.p, found.corrected) == (pytest.approx(row["p"]), pytest.approx(row["holm_p"]))
    ends = {row["defense"]: (row["low"], row["high"]) for row in results.worst_cases}
    assert ends["loir-2"] == pytest.approx(confidence_sequence(10, 24))
    assert ends["hedge"][0] == pytest.approx(0.3143, abs=1e-3)  # Wilson, of 12 in 24
