"""What the views and queries of analyses say of planted rows, and of units that failed, against numbers by hand."""

from collections.abc import Sequence

import pytest

from igd_ray.catalog import Catalog, named_query, run_query
from igd_ray.protocol import NINE_ATTACKS
from tests.toys.catalog_rows import add_failure, add_plan, add_run, outcome, row


def answer(catalog: Catalog, query: str) -> list[dict[str, object]]:
    found: list[dict[str, object]] = run_query(catalog, named_query(query)).to_pylist()
    return found


def by_name(names: str, rows: Sequence[dict[str, object]]) -> list[tuple[object, ...]]:
    return [tuple(each[name] for name in names.split()) for each in rows]


def test_a_class_with_an_image_that_failed_has_no_robust_accuracy(catalog: Catalog) -> None:
    add_run(catalog)
    add_plan(catalog, {"u": ("none", "aa", "abc"), "v": ("none", "aa", "d")})
    cells = {"a": (0, "robust"), "b": (0, "misclassified"), "c": (1, "robust")}
    rows = [outcome("u", "none", "aa", image, status, label=label) for image, (label, status) in cells.items()]
    rows[1]["clean_prediction"] = 1
    catalog.commit("outcomes", "u", [{**each, "clean_prediction": each["label"]} | _wrong(each) for each in rows])
    add_failure(catalog, "v")
    # Another run of the defense knows the class of the failed image.
    add_plan(catalog, {"w": ("none", "clean", "d")}, "other")
    assert by_name("label n clean robust", answer(catalog, "per_class")) == [(0, 2, 50.0, 50.0), (1, 1, 100.0, 100.0)]
    catalog.commit("outcomes", "w", [outcome("w", "none", "clean", "d", "robust", label=1)])
    other = [each for each in answer(catalog, "per_class") if each["run_id"] == "other"]
    assert by_name("label n robust", other) == [(1, 1, 100.0)]


def _wrong(each: dict[str, object]) -> dict[str, object]:
    return {"clean_prediction": 1 - int(str(each["label"]))} if each["status"] == "misclassified" else {}


def test_a_place_that_is_not_measured_is_a_row_with_null(catalog: Catalog) -> None:
    add_run(catalog, verb="analyze", config='{"analysis": "sensitivity"}')
    add_plan(
        catalog,
        {
            "u": ("loir k=8 eps=8/255", "pgd", "ab"),
            "v": ("loir k=8 eps=16/255", "pgd", "ab"),
            "w": ("none", "pgd", "ab"),
        },
    )
    statuses = {"a": "robust", "b": "broken"}
    catalog.commit("outcomes", "u", [outcome("u", "other", "pgd-9", image, statuses[image]) for image in "ab"])
    add_failure(catalog, "v")
    rows = answer(catalog, "sensitivity")
    assert by_name("defense setting place other_setting other_place clean robust", rows) == [
        ("none", None, None, None, None, None, None),
        ("loir", "k", "8", "eps", "8/255", 100.0, 50.0),
        ("loir", "k", "8", "eps", "16/255", None, None),
    ]
    numbers = run_query(catalog, "SELECT number, other_number FROM sensitivity WHERE robust_accuracy = 0.5")
    assert numbers.to_pylist() == [{"number": 8.0, "other_number": pytest.approx(8 / 255)}]


def test_a_run_of_another_analysis_has_no_sensitivity(catalog: Catalog) -> None:
    add_run(catalog, config='{"analysis": "classwise"}')
    add_plan(catalog, {"u": ("none", "aa", "a")})
    assert answer(catalog, "sensitivity") == []


def add_ranking(catalog: Catalog, ranking_id: str, order: Sequence[int]) -> None:
    """Commit a ranking of one class: its neurons, the best first."""
    rows = [
        row(
            "rankings",
            ranking_id=ranking_id,
            method="m",
            class_id=0,
            class_name="zero",
            neuron=neuron,
            score=-1.0,
            rank=place,
        )
        for place, neuron in enumerate(order)
    ]
    catalog.commit("rankings", ranking_id, rows)


def compare(catalog: Catalog, **labels: str) -> None:
    """Plan a run that compares rankings: label → ranking id."""
    rows = [
        row("run_units", run_id="run", unit_key=ranking_id, kind="compared-ranking", defense=label, reported=False)
        for label, ranking_id in labels.items()
    ]
    catalog.commit("run_units", "run", rows)


def test_the_agreement_of_two_rankings_by_hand(catalog: Catalog) -> None:
    """Of 0 1 2 3 and 1 0 2 3 the best differ, the two best are the same, and so are the three best."""
    add_ranking(catalog, "first", [0, 1, 2, 3])
    add_ranking(catalog, "second", [1, 0, 2, 3])
    compare(catalog, loir="first", cdir="second")
    shared = run_query(catalog, "SELECT k, shared, jaccard FROM ranking_overlap ORDER BY k").to_pylist()
    assert [(each["k"], each["shared"], each["jaccard"]) for each in shared] == [
        (1, 0, 0),
        (2, 2, 1),
        (3, 3, 1),
        (4, 4, 1),
    ]
    (agreement,) = run_query(catalog, "FROM ranking_agreement").to_pylist()
    # 1 − 6 · (1 + 1) / (4 · 15)
    assert agreement["spearman"] == pytest.approx(0.8)
    # Agreements 0, 1, 1, 1 at depths 1 … 4, and 1 ever after: 1 − 0.1.
    assert agreement["rank_biased_overlap"] == pytest.approx(0.9)
    assert (agreement["ranking"], agreement["other_ranking"]) == ("cdir", "loir")
    (printed,) = answer(catalog, "overlap")
    assert (printed["jaccard_1"], printed["jaccard_8"]) == (0, None), "there are no eight neurons"


def test_rankings_that_are_equal_agree_wholly_and_reversed_ones_least(catalog: Catalog) -> None:
    add_ranking(catalog, "first", [0, 1, 2])
    add_ranking(catalog, "equal", [0, 1, 2])
    add_ranking(catalog, "reversed", [2, 1, 0])
    compare(catalog, a="first", b="equal", c="reversed")
    rows = run_query(catalog, "FROM ranking_agreement ORDER BY ranking, other_ranking").to_pylist()
    pairs = [(each["ranking"], each["other_ranking"]) for each in rows]
    assert pairs == [("a", "b"), ("a", "c"), ("b", "c")]
    assert [each["spearman"] for each in rows] == pytest.approx([1, -1, -1])
    # Agreements 0, 1/2, 1: 0.1 (0 + 0.9 / 2 + 0.81) + 0.729
    reversed_overlap = 0.1 * (0.45 + 0.81) + 0.729
    assert [each["rank_biased_overlap"] for each in rows] == pytest.approx([1, reversed_overlap, reversed_overlap])


def measured(quantity: str, value: float | None, **values: object) -> dict[str, object]:
    known: dict[str, object] = {"unit_key": "u", "analysis": "activations", "defense": "loir-8", "attack": "pgd"}
    return row("measurements", quantity=quantity, value=value, **{**known, **values})


def test_changes_of_an_empty_set_count_in_no_mean(catalog: Catalog) -> None:
    add_run(catalog, verb="analyze")
    add_plan(catalog, {"u": (None, None, "ab")}, unreported="u")
    rows = [
        measured("true class", -10.0, image_id="a", broken=True),
        measured("true class", -20.0, image_id="b", broken=True),
        measured("no class", None, image_id="a", broken=True),
        measured("true class", 5.0, image_id="c", broken=False),
    ]
    catalog.commit("measurements", "u", rows)
    assert by_name("broken neurons n change", answer(catalog, "activations")) == [
        (True, "no class", 0, None),
        (True, "true class", 2, -15.0),
        (False, "true class", 1, 5.0),
    ]
    interval = answer(catalog, "activations")[1]
    # The standard deviation of −10 and −20 is √50, that of their mean 5.
    assert (interval["low"], interval["high"]) == (pytest.approx(-24.8), pytest.approx(-5.2))


def test_costs_are_multiples_of_the_forward_pass_beside_them(catalog: Catalog) -> None:
    add_run(catalog, verb="analyze")
    add_plan(catalog, {"u": (None, None, "a")}, unreported="u")
    seconds = [(1.0, 2.0), (2.0, 6.0), (1.0, 4.0)]
    rows = []
    for place, (base, defended) in enumerate(seconds):
        rows.append(measured("forward pass", base, analysis="cost", x=float(place)))
        rows.append(measured("inference", defended, analysis="cost", x=float(place)))
    catalog.commit("measurements", "u", rows)
    inference = answer(catalog, "relative_cost")[1]
    names = "quantity forward_passes least most seconds"
    assert by_name(names, [inference]) == [("inference", 3.0, 2.0, 4.0, 4.0)]


def test_the_mean_loss_at_each_place_of_the_plane(catalog: Catalog) -> None:
    add_run(catalog, verb="analyze")
    add_plan(catalog, {"u": (None, None, "ab")}, unreported="u")
    losses = [("a", 0.0, 1.0), ("b", 0.0, 2.0), ("a", 1.0, 4.0), ("b", 1.0, 6.0)]
    rows = [
        measured("cross-entropy", loss, analysis="loss-surface", image_id=image, x=x, y=0.0)
        for image, x, loss in losses
    ]
    catalog.commit("measurements", "u", rows)
    assert by_name("x y n loss", answer(catalog, "loss_surface")) == [(0, 0, 2, 1.5), (1, 0, 2, 5)]


def add_attacked(catalog: Catalog, key: str, defense: str, attack: str, statuses: str, label: int = 1) -> None:
    """Commit outcomes of images a, b, …: r is robust, b broken."""
    rows = [
        outcome(
            key, defense, attack, image, {"r": "robust", "b": "broken"}[status], label=label, clean_prediction=label
        )
        for image, status in zip("abcd", statuses, strict=False)
    ]
    catalog.commit("outcomes", key, rows)


@pytest.mark.parametrize("table", ["table1", "table2", "table3", "table4", "table5"])
def test_the_main_tables_have_no_worst_case_before_all_nine_attacks(catalog: Catalog, table: str) -> None:
    add_run(catalog)
    units = {
        f"{defense}-{attack}": (defense, attack, "ab") for defense in ("none", "loir-2") for attack in NINE_ATTACKS
    }
    add_plan(catalog, units)
    for key, (defense, attack, _) in units.items():
        if (defense, attack) != ("loir-2", "rays"):
            broken = attack in ("aa", "tr-aa") or (defense == "none" and attack == "tr-rays")
            add_attacked(catalog, key, defense, attack, "rb" if broken else "rr")
    columns = "defense n clean aa iwwc gain"
    before = [("none", 2, 100.0, 50.0, 50.0, 0.0), ("loir-2", 2, 100.0, 50.0, None, None)]
    assert by_name(columns, answer(catalog, table)) == before
    add_attacked(catalog, "loir-2-rays", "loir-2", "rays", "br")
    assert by_name(columns, answer(catalog, table))[1] == ("loir-2", 2, 100.0, 50.0, 0.0, -50.0)


def test_the_ablation_tells_passes_and_noise(catalog: Catalog) -> None:
    add_run(catalog)
    add_plan(catalog, {"u": ("none", "aa", "a"), "v": ("loir-2", "aa", "a")})
    add_attacked(catalog, "u", "none", "aa", "r")
    catalog.commit("outcomes", "v", [outcome("v", "loir-2", "aa", "a", "broken", sigma=0.1)])
    rows = answer(catalog, "table6")
    assert by_name("defense passes rs aa iwwc", rows) == [
        ("none", 1, None, 100.0, None),
        ("loir-2", 2, True, 0.0, None),
    ]


def test_stronger_attacks_stand_beside_autoattack(catalog: Catalog) -> None:
    add_run(catalog)
    add_plan(catalog, {"u": ("none", "aa", "ab"), "v": ("none", "aa-strong", "ab"), "w": ("none", "square", "ab")})
    add_attacked(catalog, "u", "none", "aa", "rb")
    add_attacked(catalog, "v", "none", "aa-strong", "bb")
    assert by_name("aa aa_strong square iwwc", answer(catalog, "table9")) == [(50.0, 0.0, None, None)]


def test_the_gain_at_each_eps(catalog: Catalog) -> None:
    add_run(catalog, verb="analyze", config='{"analysis": "sensitivity"}')
    units = {
        f"{defense}{eps}": (f"{defense} eps={eps}/255", "aa", "ab") for defense in ("none", "loir-2") for eps in (4, 8)
    }
    add_plan(catalog, units)
    add_attacked(catalog, "none4", "x", "aa", "rb")
    add_attacked(catalog, "loir-24", "x", "aa", "rr")
    add_attacked(catalog, "none8", "x", "aa", "bb")
    rows = answer(catalog, "table10")
    assert by_name("eps defense robust gain", rows) == [
        ("4/255", "none", 50.0, 0.0),
        ("4/255", "loir-2", 100.0, 50.0),
        ("8/255", "none", 0.0, 0.0),
        ("8/255", "loir-2", None, None),
    ]


def test_the_average_best_and_worst_class(catalog: Catalog) -> None:
    add_run(catalog)
    add_plan(catalog, {"u": ("none", "aa", "abcd")})
    labels = {"a": 0, "b": 0, "c": 1, "d": 2}
    statuses = {"a": "robust", "b": "broken", "c": "robust", "d": "broken"}
    rows = [
        outcome("u", "none", "aa", image, statuses[image], label=label, clean_prediction=label)
        for image, label in labels.items()
    ]
    catalog.commit("outcomes", "u", rows)
    names = "classes n clean robust best_robust worst_robust"
    assert by_name(names, answer(catalog, "table11")) == [(3, 4, 100.0, 50.0, 100.0, 0.0)]


def test_changes_and_costs_as_the_paper_s_rows(catalog: Catalog) -> None:
    add_run(catalog, verb="analyze")
    add_plan(catalog, {"u": (None, None, "ab"), "v": (None, None, "ab")}, unreported="uv")
    rows = [
        measured("true class", -10.0, image_id="a", broken=True),
        measured("class after the attack", 30.0, image_id="a", broken=True),
        measured("true class", -40.0, image_id="b", broken=False),
        measured("no class", None, image_id="b", broken=False),
    ]
    catalog.commit("measurements", "u", rows)
    names = "successful true_class post_attack remaining unsuccessful failed_true_class failed_unimportant"
    assert by_name(names, answer(catalog, "table7")) == [(1, -10.0, 30.0, None, 1, -40.0, None)]
    times = [
        measured(what, value, unit_key="v", analysis="cost", defense="loir", x=0.0)
        for what, value in (("forward pass", 2.0), ("ranking", 3.0))
    ]
    catalog.commit("measurements", "v", times)
    assert by_name("method forward_passes", answer(catalog, "table12")) == [("loir", 1.5)]


def test_a_unit_that_was_measured_is_done(catalog: Catalog) -> None:
    add_run(catalog, verb="analyze")
    add_plan(catalog, {"u": (None, None, "a"), "v": (None, None, "a")}, unreported="uv")
    catalog.commit("measurements", "u", [measured("no class", 0.0)])
    (progress,) = run_query(catalog, "SELECT planned, done FROM progress").to_pylist()
    assert progress == {"planned": 2, "done": 1}
