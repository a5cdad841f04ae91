"""What people ask about the attacks of a run, against rows computed by hand."""

from datetime import UTC, datetime

import pytest

from igd_ray.catalog import Catalog, named_query, run_query
from tests.toys.catalog_rows import add_failure, add_plan, add_run, outcome

STATUS = {"r": "robust", "b": "broken", "m": "misclassified", "s": "skipped"}

# What each attack of the runs left of the images a, b, c and d; of some a unit is missing or failed.
EARLY = {("none", "aa"): "rbbr", ("loir-2", "aa"): "rrbb", ("loir-2", "audit-line"): "brss"}
LATE = {
    ("none", "aa"): "bbrm",
    ("none", "rays"): "brbm",
    ("none", "tr-aa"): "bbrm",
    ("loir-2", "aa"): "brrr",
    ("loir-2", "rays"): "brrb",
    ("loir-2", "tr-aa"): "sbrs",
    ("hedge", "aa"): "rrrr",
    ("hedge", "rays"): "failed",
    ("hedge", "tr-aa"): "brrr",
    ("cdir-2", "aa"): "rrbr",
    ("cdir-2", "rays"): "missing",
    ("cdir-2", "tr-aa"): "rrrr",
}


@pytest.fixture(scope="module")
def planted(tmp_path_factory: pytest.TempPathFactory) -> Catalog:
    made = Catalog(tmp_path_factory.mktemp("planted") / "results")
    made.create()
    for day, (run_id, units) in enumerate({"early": EARLY, "late": LATE}.items(), start=1):
        add_run(made, run_id, created_at=datetime(2026, 1, day, tzinfo=UTC))
        add_plan(made, {f"{run_id}-{d}-{a}": (d, a, "abcd") for d, a in units}, run_id)
        for (defense, attack), found in units.items():
            key = f"{run_id}-{defense}-{attack}"
            if found == "failed":
                add_failure(made, key)
            elif found != "missing":
                # RayS on the undefended model costs 2 passes for each image, all others 15.
                cost = {"forwards": 2, "backwards": 0} if (defense, attack) == ("none", "rays") else {}
                rows = [
                    outcome(key, defense, attack, image, STATUS[letter], **cost)
                    for image, letter in zip("abcd", found, strict=True)
                ]
                made.commit("outcomes", key, rows)
    return made


def _late(catalog: Catalog, query: str, *columns: str) -> list[tuple[object, ...]]:
    """The columns of a query's rows on the late run, in its order."""
    rows = run_query(catalog, named_query(query)).to_pylist()
    return [tuple(row[name] for name in columns) for row in rows if row["run_id"] == "late"]


def test_the_sets_of_attacks_that_broke_an_image(planted: Catalog) -> None:
    # A transfer to the undefended model is the attack on it; those that skipped a and d under loir-2 might break them.
    assert _late(planted, "broken_by", "defense", "broken_by", "images", "unknown") == [
        ("none", "aa", 1, 0),
        ("none", "aa + rays", 1, 0),
        ("none", "rays", 1, 0),
        ("cdir-2", "aa", 1, 1),
        ("hedge", "tr-aa", 1, 1),
        ("loir-2", "aa + rays", 1, 1),
        ("loir-2", "rays", 1, 1),
        ("loir-2", "tr-aa", 1, 0),
    ]


def test_images_that_one_attack_alone_breaks(planted: Catalog) -> None:
    assert _late(planted, "broken_by_one", "defense", "attack", "attacked", "broken", "alone") == [
        ("none", "aa", 3, 2, 1),
        ("none", "rays", 3, 2, 1),
        ("cdir-2", "aa", 4, 1, None),
        ("cdir-2", "rays", None, None, None),
        ("cdir-2", "tr-aa", 4, 0, 0),
        ("hedge", "aa", 4, 0, 0),
        ("hedge", "rays", None, None, None),
        ("hedge", "tr-aa", 4, 1, None),
        ("loir-2", "aa", 4, 1, 0),
        ("loir-2", "rays", 4, 2, None),
        ("loir-2", "tr-aa", 2, 1, 1),
    ]


def test_what_an_audit_skips_is_known(planted: Catalog) -> None:
    # It attacks what all others leave: that it skipped c and d does not mean that they might be its own, too.
    rows = run_query(planted, named_query("broken_by_one")).to_pylist()
    columns = ("defense", "attack", "attacked", "broken", "alone")
    assert [tuple(row[name] for name in columns) for row in rows if row["run_id"] == "early"] == [
        ("none", "aa", 4, 2, 2),
        ("loir-2", "aa", 4, 2, 2),
        ("loir-2", "audit-line", 2, 1, 1),
    ]


def test_the_overlap_of_two_attacks(planted: Catalog) -> None:
    columns = ("defense", "attack", "other", "both", "attack_alone", "other_alone", "jaccard")
    assert _late(planted, "attack_overlap", *columns) == [
        ("none", "aa", "rays", 1, 1, 1, 0.3333),
        ("cdir-2", "aa", "rays", None, None, None, None),
        ("cdir-2", "aa", "tr-aa", 0, 1, 0, 0.0),
        ("cdir-2", "rays", "tr-aa", None, None, None, None),
        ("hedge", "aa", "rays", None, None, None, None),
        ("hedge", "aa", "tr-aa", 0, 0, 1, 0.0),
        ("hedge", "rays", "tr-aa", None, None, None, None),
        ("loir-2", "aa", "rays", 1, 0, 1, 0.5),
        ("loir-2", "aa", "tr-aa", None, None, None, None),
        ("loir-2", "rays", "tr-aa", None, None, None, None),
    ]


def test_what_each_attack_cost(planted: Catalog) -> None:
    columns = ("attack", "defenses", "attacked", "broken", "forwards", "backwards", "queries", "seconds")
    per_image = ("passes_per_broken_image", "seconds_per_broken_image")
    # 16 images of 10 + 5 passes and half a second, 4 of them broken.
    assert _late(planted, "attack_costs", *columns, *per_image) == [
        ("aa", 4, 15, 4, 160, 80, 48, 8.0, 60.0, 2.0),
        ("tr-aa", 4, 13, 4, 160, 80, 48, 8.0, 60.0, 2.0),
        ("rays", 4, *[None] * 8),
    ]


def test_images_robust_under_one_defense_only(planted: Catalog) -> None:
    # Under loir-2 c is robust; whether it is under hedge and cdir-2 is not known.
    assert _late(planted, "robust_under_one", "defense", "n", "robust_here_only") == [
        ("none", 4, 0),
        ("cdir-2", 4, None),
        ("hedge", 4, None),
        ("loir-2", 4, None),
    ]
    rows = run_query(planted, named_query("robust_under_one")).to_pylist()
    early = [(row["defense"], row["robust_here_only"]) for row in rows if row["run_id"] == "early"]
    assert early == [("none", 2), ("loir-2", 1)]


def test_the_images_that_decide_and_what_broke_them(planted: Catalog) -> None:
    # Late, c is robust under loir-2 only; RayS alone broke it without a defense. Of hedge and cdir-2 nothing is known.
    assert _late(planted, "decisive_images", "defense", "image_id", "change", "broken_by") == [
        ("loir-2", "c", "gained", "rays")
    ]
    rows = run_query(planted, named_query("decisive_images")).to_pylist()
    early = [(row["image_id"], row["change"], row["broken_by"]) for row in rows if row["run_id"] == "early"]
    assert early == [("b", "gained", "aa"), ("a", "lost", "audit-line"), ("d", "lost", "aa")]


def test_the_history_of_a_model(planted: Catalog) -> None:
    rows = run_query(planted, named_query("history")).to_pylist()
    assert [(row["defense"], row["run_id"], row["attacks"], row["worst_case"], row["change"]) for row in rows] == [
        ("none", "early", 1, 0.5, None),
        ("none", "late", 3, 0.0, -0.5),
        ("cdir-2", "late", 3, None, None),
        ("hedge", "late", 3, None, None),
        ("loir-2", "early", 2, 0.25, None),
        ("loir-2", "late", 3, 0.25, 0.0),
    ]


def test_the_cheapest_order_of_attacks(planted: Catalog) -> None:
    # On a, b and c RayS breaks two for 8 passes, AutoAttack two for 60; on b, which is left, AutoAttack takes 20.
    assert _late(planted, "cheapest_order", "defense", "place", "attack", "newly_broken", "passes", "left_over") == [
        ("none", 1, "rays", 2, 8, 1),
        ("none", 2, "aa", 1, 20, 0),
    ]
