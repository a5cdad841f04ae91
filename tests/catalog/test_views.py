"""What the views say, against numbers by hand and against a transcription in Python."""

import math
import shutil
import tempfile
from datetime import UTC, datetime, timedelta
from itertools import product

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from igd_ray.catalog import Catalog, connect, named_query, run_query
from igd_ray.protocol import AUDIT_ATTACKS, AUDIT_PREFIX, NINE_ATTACKS
from tests.toys.catalog_rows import add_failure, add_outcomes, add_plan, add_run, outcome, row


def _rows(catalog: Catalog, sql: str) -> list[dict[str, object]]:
    answer: list[dict[str, object]] = run_query(catalog, sql).to_pylist()
    return answer


def _one(catalog: Catalog, sql: str) -> dict[str, object]:
    (answer,) = _rows(catalog, sql)
    return answer


@pytest.mark.parametrize(
    ("successes", "n", "low", "high"),
    # scipy.stats.binomtest(successes, n).proportion_ci(method="wilson")
    [
        (0, 10, 0.0, 0.2775327998628892),
        (10, 10, 0.7224672001371106, 1.0),
        (5, 10, 0.2365930905125640, 0.7634069094874361),
        (65, 200, 0.2639157153923429, 0.3926801488397004),
        (1, 1, 0.2065493143772375, 1.0),
    ],
)
def test_wilson_by_hand(catalog: Catalog, successes: int, n: int, low: float, high: float) -> None:
    answer = _one(catalog, f"SELECT wilson_low({successes}/{n}, {n}) AS low, wilson_high({successes}/{n}, {n}) AS high")
    assert answer == {"low": pytest.approx(low, abs=1e-9), "high": pytest.approx(high, abs=1e-9)}


def test_wilson_against_scipy(catalog: Catalog) -> None:
    stats = pytest.importorskip("scipy.stats")
    with connect(catalog) as connection:
        for n in (1, 2, 7, 64, 1000, 10**6):
            for successes in {0, 1, n // 3, n // 2, n - 1, n}:
                answer = connection.execute("SELECT wilson_low($1 / $2, $2), wilson_high($1 / $2, $2)", [successes, n])
                expected = stats.binomtest(successes, n).proportion_ci(method="wilson")
                assert answer.fetchone() == pytest.approx((expected.low, expected.high), abs=1e-12)


def test_wilson_of_nothing_is_null(catalog: Catalog) -> None:
    answer = _one(catalog, "SELECT wilson_low(NULL, 5) AS a, wilson_high(NULL, 5) AS b, wilson_low(0.5, 0) AS c")
    assert answer == {"a": None, "b": None, "c": None}


def test_accuracy_by_hand(catalog: Catalog) -> None:
    add_run(catalog)
    add_plan(catalog, {"u1": ("loir-2", "aa", "ab"), "u2": ("loir-2", "aa", "cd")})
    add_outcomes(catalog, "u1", "loir-2", "aa", {"a": "robust", "b": "misclassified"})
    add_outcomes(catalog, "u2", "loir-2", "aa", {"c": "broken", "d": "broken"})
    assert _one(catalog, "FROM accuracy") == {
        "run_id": "run",
        "model": "demo",
        "dataset": "digits",
        "defense": "loir-2",
        "attack": "aa",
        "n": 4,
        "finished": 4,
        "skipped": 0,
        "errors": 0,
        "clean_accuracy": 0.75,
        "clean_low": pytest.approx(1 - 0.6993581574, abs=1e-9),
        "clean_high": pytest.approx(1 - 0.0455872608, abs=1e-9),
        "robust_accuracy": 0.25,
        "low": pytest.approx(0.0455872608, abs=1e-9),
        "high": pytest.approx(0.6993581574, abs=1e-9),
        "forwards": 40,
        "backwards": 20,
        "queries": 12,
        "seconds": 2.0,
    }


@pytest.mark.parametrize("second", ["skipped", "error", None])
def test_accuracy_with_an_image_not_measured_is_null(catalog: Catalog, second: str | None) -> None:
    add_run(catalog)
    add_plan(catalog, {"u": ("none", "aa", "a"), "v": ("none", "aa", "b")})
    add_outcomes(catalog, "u", "none", "aa", {"a": "robust"})
    if second:
        add_outcomes(catalog, "v", "none", "aa", {"b": second})
    answer = _one(catalog, "FROM accuracy")
    counts = (answer["n"], answer["finished"], answer["skipped"], answer["errors"])
    assert counts == (2, 1, second == "skipped", second == "error")
    assert (answer["robust_accuracy"], answer["low"], answer["high"]) == (None, None, None)
    assert answer["clean_accuracy"] == (1.0 if second else None)


def test_a_failed_unit_is_an_error_for_each_image_and_then_none(catalog: Catalog) -> None:
    add_run(catalog)
    add_plan(catalog, {"u": ("none", "aa", "a"), "v": ("none", "aa", "bc")})
    add_outcomes(catalog, "u", "none", "aa", {"a": "robust"})
    add_failure(catalog, "v", attempt=1)
    add_failure(catalog, "v", attempt=2)
    errors = _rows(catalog, "FROM outcomes WHERE status = 'error' ORDER BY image_id")
    assert [error["image_id"] for error in errors] == ["b", "c"]
    for error in errors:
        assert error["adversarial_prediction"] is None
        assert error["clean_prediction"] is None
        assert (error["run_id"], error["unit_key"], error["attempt"], error["host"]) == ("run", "v", 2, "worker 0")
        assert (error["model"], error["dataset"], error["epsilon"]) == ("demo", "digits", 0.1)
    assert _one(catalog, "FROM worst_case")["robust_accuracy"] is None
    assert _one(catalog, "FROM accuracy")["robust_accuracy"] is None
    assert _one(catalog, "SELECT * EXCLUDE (running, quarantined) FROM progress") == {
        "run_id": "run",
        "planned": 2,
        "done": 1,
        "failed": 1,
    }

    add_outcomes(catalog, "v", "none", "aa", {"b": "broken", "c": "robust"})
    statuses = _rows(catalog, "SELECT image_id, status FROM outcomes ORDER BY image_id")
    assert [each["status"] for each in statuses] == ["robust", "broken", "robust"]
    assert _one(catalog, "FROM worst_case")["robust_accuracy"] == pytest.approx(2 / 3)
    assert _one(catalog, "SELECT * EXCLUDE (running, quarantined) FROM progress") == {
        "run_id": "run",
        "planned": 2,
        "done": 2,
        "failed": 0,
    }


@pytest.mark.parametrize("hours", [(3, 5), (5, 3)])
def test_the_last_failure_is_the_latest_whatever_its_attempt(catalog: Catalog, hours: tuple[int, int]) -> None:
    add_run(catalog)
    add_plan(catalog, {"u": ("none", "aa", "a")})
    for hour in hours:
        add_failure(catalog, "u", f"of {hour}", hour=hour)
    add_failure(catalog, "u", "of 1", attempt=2, hour=1)
    assert _one(catalog, "SELECT host, attempt FROM outcomes") == {"host": "worker 5", "attempt": 1}
    assert _one(catalog, "SELECT error, failures FROM unit_states") == {"error": "of 5", "failures": 3}


def test_a_failed_unit_that_smaller_units_replaced_is_no_error(catalog: Catalog) -> None:
    add_run(catalog)
    add_plan(catalog, {"u": ("none", "aa", "ab"), "u1": ("none", "aa", "a"), "u2": ("none", "aa", "b")})
    add_failure(catalog, "u")
    add_outcomes(catalog, "u1", "none", "aa", {"a": "robust"})
    add_outcomes(catalog, "u2", "none", "aa", {"b": "robust"})
    assert _one(catalog, "FROM accuracy")["robust_accuracy"] == 1.0


def test_a_unit_of_two_runs_counts_in_both_but_only_where_reported(catalog: Catalog) -> None:
    for run_id in ("one", "two", "three"):
        add_run(catalog, run_id)
        add_plan(catalog, {"u": ("none", "aa", "a")}, run_id, unreported=["u"] if run_id == "three" else [])
    add_outcomes(catalog, "u", "none", "aa", {"a": "robust"})
    assert _rows(catalog, "SELECT run_id FROM outcomes ORDER BY run_id") == [{"run_id": "one"}, {"run_id": "two"}]
    assert {each["run_id"] for each in _rows(catalog, "FROM worst_case")} == {"one", "two"}
    assert {each["done"] for each in _rows(catalog, "FROM progress")} == {1}


def test_worst_case_by_hand(catalog: Catalog) -> None:
    add_run(catalog)
    plan = {
        f"{defense}-{attack}": (defense, attack, "abcd") for defense in ("none", "loir-2") for attack in ("aa", "rays")
    }
    add_plan(catalog, plan)
    statuses = ["robust", "broken", "robust", "misclassified"]
    add_outcomes(catalog, "none-aa", "none", "aa", dict(zip("abcd", statuses, strict=True)))
    add_outcomes(catalog, "none-rays", "none", "rays", {"a": "broken", "b": "skipped", "c": "robust", "d": "skipped"})
    add_outcomes(catalog, "loir-2-aa", "loir-2", "aa", dict.fromkeys("abcd", "robust"))
    before = {each["defense"]: each for each in _rows(catalog, "FROM worst_case")}
    assert before["none"]["robust_accuracy"] == 0.25
    assert before["loir-2"]["robust_accuracy"] is None
    assert before["loir-2"]["gain"] is None
    assert before["loir-2"]["attacks"] == 2

    add_outcomes(catalog, "loir-2-rays", "loir-2", "rays", dict(zip("abcd", statuses, strict=True)))
    (none, defended) = _rows(catalog, "FROM worst_case ORDER BY defense DESC")
    assert (none["n"], none["gain"]) == (4, 0.0)
    # Each attack's own look: the skipped row of d takes the clean image for right, the other for wrong.
    assert none["clean_accuracy"] == pytest.approx((1 + 1 + 1 + 0.5) / 4)
    assert (defended["robust_accuracy"], defended["gain"]) == (0.5, 0.25)
    assert (defended["low"], defended["high"]) == pytest.approx((0.1500389892, 0.8499610108))


def test_without_the_undefended_model_there_is_no_gain(catalog: Catalog) -> None:
    add_run(catalog)
    add_plan(catalog, {"u": ("loir-2", "aa", "a")})
    add_outcomes(catalog, "u", "loir-2", "aa", {"a": "robust"})
    assert _one(catalog, "FROM worst_case")["gain"] is None


def test_the_attack_clean_decides_clean_accuracy_and_is_one_more_condition(catalog: Catalog) -> None:
    add_run(catalog)
    add_plan(catalog, {"u": ("loir-2", "aa", "ab"), "c": ("loir-2", "clean", "ab")})
    add_outcomes(catalog, "u", "loir-2", "aa", {"a": "robust", "b": "robust"})
    add_outcomes(catalog, "c", "loir-2", "clean", {"a": "robust", "b": "misclassified"})
    answer = _one(catalog, "FROM worst_case")
    assert (answer["clean_accuracy"], answer["robust_accuracy"], answer["attacks"]) == (0.5, 0.5, 2)


STATUSES = ["robust", "broken", "misclassified", "skipped", "error", None]


@st.composite
def _tables(draw: st.DrawFn) -> dict[tuple[str, str, str], str | None]:
    defenses = draw(st.sampled_from([["none"], ["loir-2"], ["none", "loir-2"]]))
    attacks = draw(st.sampled_from([["aa"], ["aa", "rays"], ["aa", "rays", "tr-aa"]]))
    images = "abcd"[: draw(st.integers(1, 4))]
    # Mostly finished tables, else almost every number would be NULL.
    status = st.sampled_from(STATUSES if draw(st.booleans()) else STATUSES[:4])
    return {cell: draw(status) for cell in product(defenses, attacks, images)}


def _worst_case(table: dict[tuple[str, str, str], str | None], defense: str) -> float | None:
    """The definition, image by image."""
    robust = 0
    images = {image for _, _, image in table}
    for image in images:
        seen = [
            status
            for (row_defense, _, row_image), status in table.items()
            if (row_defense, row_image) == (defense, image)
        ]
        if None in seen or "error" in seen:
            return None
        robust += all(status == "robust" for status in seen)
    return robust / len(images)


@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(_tables())
def test_worst_case_is_its_definition(empty_catalog: Catalog, table: dict[tuple[str, str, str], str | None]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        catalog = Catalog(shutil.copytree(empty_catalog.root, folder, dirs_exist_ok=True))
        add_run(catalog)
        images = sorted({image for _, _, image in table})
        units = {f"{defense}-{attack}": (defense, attack, images) for defense, attack, _ in table}
        add_plan(catalog, units)
        for key, (defense, attack, _) in units.items():
            statuses = {image: table[defense, attack, image] for image in images}
            add_outcomes(catalog, key, defense, attack, {image: each for image, each in statuses.items() if each})
        answers = {each["defense"]: each for each in _rows(catalog, "FROM worst_case")}
    expected = {defense: _worst_case(table, defense) for defense, _, _ in table}
    assert set(answers) == set(expected)
    for defense, accuracy in expected.items():
        assert answers[defense]["robust_accuracy"] == (None if accuracy is None else pytest.approx(accuracy))
        base = expected.get("none")
        gain = None if accuracy is None or base is None else pytest.approx(accuracy - base)
        assert answers[defense]["gain"] == gain


def test_trials_mark_what_the_search_chose(catalog: Catalog) -> None:
    trials = [
        row("trials", search_id="s", trial=0, k=8, sigma=0.0, tau=0.01, draws=1),
        row("trials", search_id="s", trial=1, k=4, sigma=0.0, tau=0.01, draws=1),
        row("trials", search_id="s", trial=2, k=4, sigma=0.1, tau=0.01, draws=1),
    ]
    catalog.commit("trials", "s", trials)
    query = "SELECT trial, chosen FROM trials ORDER BY trial"
    assert [each["chosen"] for each in _rows(catalog, query)] == [False, False, False]
    catalog.commit("searches", "s", [row("searches", search_id="s", k=4, sigma=0.0, tau=0.01, draws=1)])
    assert [each["chosen"] for each in _rows(catalog, query)] == [False, True, False]


def test_checks_of_a_unit_belong_to_each_run_that_uses_it(catalog: Catalog) -> None:
    for run_id in ("one", "two"):
        add_plan(catalog, {"u": ("none", "aa", "a")}, run_id)
    finding = {"check": "zero gradient", "severity": "warning", "message": "m"}
    catalog.commit("checks", "unit", [row("checks", unit_key="u", **finding)])
    catalog.commit("checks", "run", [row("checks", run_id="one", **finding)])
    catalog.commit("checks", "both", [row("checks", run_id="two", unit_key="u", **finding)])
    answers = _rows(catalog, "SELECT run_id, unit_key FROM checks ORDER BY run_id, unit_key NULLS FIRST")
    assert [(each["run_id"], each["unit_key"]) for each in answers] == [
        ("one", None),
        ("one", "u"),
        ("two", "u"),
        ("two", "u"),
    ]


def test_progress_of_units_that_are_no_attacks(catalog: Catalog) -> None:
    units = {
        "array": (None, None, ""),
        "points": ("none", "tr-aa", "a"),
        "ranking": (None, None, ""),
        "rest": (None, None, ""),
    }
    add_plan(catalog, units, unreported=["points"])
    catalog.commit("arrays", "array", [row("arrays", unit_key="array", name="x", dtype="f4", shape=[0], data=b"")])
    point = row("adversarials", unit_key="points", image_id="a", point="returned", shape=[1], pixels=[0.5])
    catalog.commit("adversarials", "points", [point])
    rank = row("rankings", ranking_id="ranking", method="loir", class_id=0, neuron=0, score=1.0, rank=0)
    catalog.commit("rankings", "ranking", [rank])
    assert _one(catalog, "SELECT * EXCLUDE (running, quarantined) FROM progress") == {
        "run_id": "run",
        "planned": 4,
        "done": 3,
        "failed": 0,
    }


def test_classwise_names_the_best_and_the_worst_class(catalog: Catalog) -> None:
    add_run(catalog)
    add_plan(catalog, {"u": ("none", "aa", "abcd")})
    cells = {"a": (0, "robust"), "b": (0, "broken"), "c": (1, "robust"), "d": (2, "broken")}
    rows = [outcome("u", "none", "aa", image, status, label=label) for image, (label, status) in cells.items()]
    catalog.commit("outcomes", "u", rows)
    answer = _one(catalog, named_query("classwise"))
    assert (answer["best_class"], answer["best_robust_accuracy"], answer["best_n"]) == (1, 1.0, 1)
    assert (answer["worst_class"], answer["worst_robust_accuracy"], answer["worst_n"]) == (2, 0.0, 1)


def test_cost_counts_each_pass_once(catalog: Catalog) -> None:
    add_run(catalog)
    add_plan(catalog, {"u": ("none", "aa", "ab")})
    add_outcomes(catalog, "u", "none", "aa", {"a": "robust", "b": "broken"})
    answer = _one(catalog, named_query("cost"))
    assert (answer["passes_per_image"], answer["seconds_per_image"]) == (15.0, 0.5)
    assert math.isclose(answer["seconds"], 1.0)  # type: ignore[arg-type]


def _attempt(catalog: Catalog, key: str, outcome: str, minutes: int) -> None:
    started = datetime(2026, 1, 2, tzinfo=UTC)
    values = {"unit_key": key, "attempt": 1, "session": "s", "started_at": started, "outcome": outcome}
    ended = started + timedelta(minutes=minutes)
    catalog.commit("attempts", key, [row("attempts", **values, ended_at=ended, seen_at=ended)])


def test_pace_time_left_and_cost_follow_from_the_attempts(catalog: Catalog) -> None:
    add_run(catalog, config='{"price": 1.5}')
    add_plan(catalog, {"u": ("none", "aa", "a"), "v": ("none", "aa", "b")})
    add_outcomes(catalog, "u", "none", "aa", {"a": "robust"})
    _attempt(catalog, "u", "done", 10)
    _attempt(catalog, "v", "crashed", 20)
    # One unit in 20 minutes, so another 20 for the other; 10 + 20 minutes of workers at 1.5 an hour.
    assert _one(catalog, "FROM pace") == {
        "run_id": "run",
        "attempts": 2,
        "units_per_minute": pytest.approx(0.05),
        "minutes_left": pytest.approx(20),
        "worker_hours": pytest.approx(0.5),
        "cost": pytest.approx(0.75),
    }
    assert _one(catalog, "SELECT state FROM unit_states WHERE unit_key = 'v'") == {"state": "planned"}
    add_failure(catalog, "v", "quarantined: its worker died 3 times")
    assert _one(catalog, "SELECT state FROM unit_states WHERE unit_key = 'v'") == {"state": "quarantined"}


def test_the_parts_of_a_split_unit_stand_for_it(catalog: Catalog) -> None:
    add_run(catalog)
    add_plan(catalog, {"u": ("none", "aa", "abc")})
    for key, parts in {"u": ("v", "w"), "w": ("x", "y")}.items():
        catalog.commit("splits", key, [row("splits", unit_key=key, part_key=part, images=1) for part in parts])
    for key, image in {"v": "a", "x": "b"}.items():
        add_outcomes(catalog, key, "none", "aa", {image: "robust"})
    assert _one(catalog, "SELECT state FROM unit_states") == {"state": "planned"}
    assert _one(catalog, "SELECT robust_accuracy FROM worst_case") == {"robust_accuracy": None}
    assert not catalog.has("outcomes", "u")
    add_outcomes(catalog, "y", "none", "aa", {"c": "broken"})
    assert _one(catalog, "SELECT state FROM unit_states") == {"state": "done"}
    assert _one(catalog, "SELECT robust_accuracy FROM worst_case") == {"robust_accuracy": pytest.approx(2 / 3)}
    assert catalog.has("outcomes", "u")
    assert sorted(catalog.read("outcomes", "u")["image_id"].to_pylist()) == ["a", "b", "c"]


def test_what_an_attack_had_to_attack_and_what_it_broke(catalog: Catalog) -> None:
    add_run(catalog)
    add_plan(catalog, {"u": ("none", "aa", "abcde"), "v": ("none", "rays", "abcde"), "w": ("none", "square", "ab")})
    first = dict(zip("abcde", ["robust", "robust", "broken", "broken", "misclassified"], strict=True))
    add_outcomes(catalog, "u", "none", "aa", first)
    add_outcomes(catalog, "v", "none", "rays", {**first, "b": "broken", "c": "skipped", "d": "skipped"})
    answers = _rows(catalog, "SELECT attack, skipped, attacked, broken FROM attacked ORDER BY attack")
    assert [tuple(each.values()) for each in answers] == [
        ("aa", 0, 4, 2),
        ("rays", 2, 2, 1),
        ("square", 0, None, None),
    ]


def _plan_audit(catalog: Catalog) -> None:
    add_run(catalog)
    cells = [("none", "aa"), ("none", "audit-line"), ("loir-2", "aa"), ("loir-2", "tr-aa")]
    cells += [("loir-2", "audit-line"), ("loir-2", "audit-best-start"), ("hedge", "aa")]
    add_plan(catalog, {"-".join(cell): (*cell, "abcde") for cell in cells})


def _fill_audit(catalog: Catalog, statuses: dict[tuple[str, str], list[str]]) -> None:
    for (defense, attack), seen in statuses.items():
        add_outcomes(catalog, f"{defense}-{attack}", defense, attack, dict(zip("abcde", seen, strict=True)))


# e is misclassified everywhere; at the line attack's own look c is, too, which counts like an image that it broke.
AUDIT = {
    ("none", "aa"): ["robust", "robust", "broken", "broken", "misclassified"],
    ("none", "audit-line"): ["robust", "broken", "skipped", "skipped", "misclassified"],
    ("loir-2", "aa"): ["robust", "robust", "robust", "robust", "misclassified"],
    ("loir-2", "tr-aa"): ["broken", "robust", "robust", "robust", "misclassified"],
    ("loir-2", "audit-line"): ["skipped", "broken", "misclassified", "robust", "misclassified"],
    ("loir-2", "audit-best-start"): ["skipped", "skipped", "skipped", "robust", "misclassified"],
    ("hedge", "aa"): ["robust", "broken", "robust", "broken", "misclassified"],
}


def test_the_audit_by_hand(catalog: Catalog) -> None:
    _plan_audit(catalog)
    _fill_audit(catalog, AUDIT)
    none, hedge, loir = _rows(catalog, "FROM audit ORDER BY defense <> 'none', defense")
    assert loir == {
        "run_id": "run",
        "model": "demo",
        "dataset": "digits",
        "defense": "loir-2",
        "n": 5,
        "robust_accuracy": 0.6,  # b, c, d
        # scipy.stats.binomtest(3, 5) and (1, 5), .proportion_ci(method="wilson")
        "low": pytest.approx(0.2307243, abs=1e-6),
        "high": pytest.approx(0.8823792, abs=1e-6),
        "gain": pytest.approx(0.2),
        "audited_accuracy": 0.2,  # d
        "audited_low": pytest.approx(0.0362241, abs=1e-6),
        "audited_high": pytest.approx(0.6244654, abs=1e-6),
        "audited_gain": 0.0,
        "broken_by_audit": 2,
        "audit_attacks": 2,
    }
    assert (none["robust_accuracy"], none["audited_accuracy"], none["broken_by_audit"]) == (0.4, 0.2, 1)
    assert (none["gain"], none["audited_gain"]) == (0.0, 0.0)
    # No attack of the audit fits it: it stands as it stood.
    assert (hedge["robust_accuracy"], hedge["audited_accuracy"], hedge["audit_attacks"]) == (0.4, 0.4, 0)
    assert hedge["audited_gain"] == pytest.approx(0.2)
    over_all = {each["defense"]: each["robust_accuracy"] for each in _rows(catalog, "FROM worst_case")}
    assert over_all == {"none": 0.2, "loir-2": 0.2, "hedge": 0.4}


AUDIT_COUNTS = [
    {"defense": "none", "attack": "audit-line", "attacked": 2, "newly_broken": 1},
    {"defense": "loir-2", "attack": "audit-best-start", "attacked": 1, "newly_broken": 0},
    {"defense": "loir-2", "attack": "audit-line", "attacked": 3, "newly_broken": 2},
]


def test_each_audit_attack_counts_what_was_left_to_it_and_what_it_broke(catalog: Catalog) -> None:
    _plan_audit(catalog)
    _fill_audit(catalog, AUDIT)
    columns = "defense, attack, attacked, newly_broken"
    by_view = _rows(catalog, f"SELECT {columns} FROM audit_attacks ORDER BY defense <> 'none', defense, attack")
    assert by_view == AUDIT_COUNTS
    by_query = _rows(catalog, f"SELECT {columns} FROM ({named_query('audit')})")
    assert by_query == AUDIT_COUNTS


@pytest.mark.parametrize("what", ["missing", "failed"])
def test_an_audit_that_has_not_finished_is_null_and_the_worst_case_before_it_is_not(
    catalog: Catalog, what: str
) -> None:
    _plan_audit(catalog)
    _fill_audit(catalog, {cell: seen for cell, seen in AUDIT.items() if cell != ("loir-2", "audit-best-start")})
    if what == "failed":
        add_failure(catalog, "loir-2-audit-best-start")
    loir = _one(catalog, "FROM audit WHERE defense = 'loir-2'")
    assert (loir["robust_accuracy"], loir["gain"]) == (0.6, pytest.approx(0.2))
    unknown = ("audited_accuracy", "audited_low", "audited_high", "audited_gain", "broken_by_audit")
    assert [loir[name] for name in unknown] == [None] * 5
    answers = _rows(catalog, "SELECT newly_broken FROM audit_attacks WHERE defense = 'loir-2' ORDER BY attack")
    assert [each["newly_broken"] for each in answers] == [None, 2]
    assert _one(catalog, "FROM worst_case WHERE defense = 'loir-2'")["robust_accuracy"] is None


def test_before_the_other_attacks_have_finished_nothing_of_the_audit_is_known(catalog: Catalog) -> None:
    _plan_audit(catalog)
    _fill_audit(catalog, {cell: seen for cell, seen in AUDIT.items() if cell != ("loir-2", "tr-aa")})
    loir = _one(catalog, "FROM audit WHERE defense = 'loir-2'")
    assert (loir["robust_accuracy"], loir["audited_accuracy"], loir["gain"], loir["broken_by_audit"]) == (None,) * 4
    answers = _rows(catalog, "SELECT DISTINCT attacked, newly_broken FROM audit_attacks WHERE defense = 'loir-2'")
    assert answers == [{"attacked": None, "newly_broken": None}]
    # Another defense is not concerned.
    assert _one(catalog, "FROM audit WHERE defense = 'hedge'")["audited_gain"] == pytest.approx(0.2)


def test_an_audit_alone_starts_from_the_clean_images(catalog: Catalog) -> None:
    add_run(catalog)
    add_plan(catalog, {"u": ("loir-2", "audit-line", "abc")})
    add_outcomes(catalog, "u", "loir-2", "audit-line", {"a": "robust", "b": "broken", "c": "misclassified"})
    alone = _one(catalog, "FROM audit")
    assert (alone["robust_accuracy"], alone["audited_accuracy"], alone["broken_by_audit"]) == pytest.approx(
        (2 / 3, 1 / 3, 1)
    )
    for source in ("audit_attacks", f"({named_query('audit')})"):
        answer = _one(catalog, f"SELECT attacked, newly_broken FROM {source}")
        assert answer == {"attacked": 2, "newly_broken": 1}


def test_only_runs_with_an_audit_have_rows_there(catalog: Catalog) -> None:
    add_run(catalog)
    add_plan(catalog, {"u": ("none", "aa", "a")})
    add_outcomes(catalog, "u", "none", "aa", {"a": "robust"})
    for view in ("audit", "audit_attacks", "audit_images"):
        assert _rows(catalog, f"FROM {view}") == []


def test_sql_and_python_agree_on_what_belongs_to_the_audit(catalog: Catalog) -> None:
    for name in (*NINE_ATTACKS, *AUDIT_ATTACKS, f"{AUDIT_PREFIX}new-9", "square"):
        assert _one(catalog, f"SELECT is_audit('{name}') AS answer") == {"answer": name.startswith(AUDIT_PREFIX)}
