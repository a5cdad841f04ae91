"""Every view and query answers alike whichever way a catalog is read: small files or merged, views or tables."""

import shutil
import tempfile
from collections.abc import Mapping

import duckdb
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from igd_ray.catalog import Catalog, ask, query, run_query
from igd_ray.catalog.compaction import compact
from igd_ray.catalog.query import Reader
from tests.toys.answers import QUESTIONS, answers, comparable, require_equal_by_merging
from tests.toys.catalog_rows import add_failure, add_plan, add_run, outcome, row

IMAGES = "abcdef"
CELLS = [("none", "aa"), ("none", "rays"), ("loir-2", "aa"), ("loir-2", "tr-aa"), ("loir-2", "audit-line")]
STATES = ("whole", "missing", "failed", "split", "half split", "twice", "overlapping", "too few", "too many", "spoiled")
Plan = Mapping[tuple[str, str], tuple[str, list[str]]]


@st.composite
def plans(draw: st.DrawFn) -> Plan:
    """What became of each attack on each defense, and the statuses of its images."""
    status = st.lists(st.sampled_from(["robust", "broken", "misclassified", "skipped"]), min_size=6, max_size=6)
    # Mostly whole, else almost every number would be NULL.
    states = st.sampled_from(["whole"] if draw(st.booleans()) else STATES)
    return {cell: (draw(states), draw(status)) for cell in CELLS}


def commit(catalog: Catalog, key: str, cell: tuple[str, str], statuses: Mapping[str, str]) -> None:
    rows = [outcome(key, *cell, image, status, model_id="m0") for image, status in statuses.items()]
    catalog.commit("outcomes", key, rows)


def fill(catalog: Catalog, plan: Plan) -> None:
    """Two runs; the second uses some of the first's units, in other shards."""
    units: dict[str, tuple[str, str, str]] = {}
    for (defense, attack), (state, found) in plan.items():
        cell, statuses = (defense, attack), dict(zip(IMAGES, found, strict=True))
        first, second = f"{defense}-{attack}-0", f"{defense}-{attack}-1"
        units |= {first: (*cell, "abc"), second: (*cell, "cdef" if state == "overlapping" else "def")}
        commit(catalog, first, cell, {image: statuses[image] for image in "abc"})
        later = {image: statuses[image] for image in units[second][2]}
        if state in ("split", "half split"):
            parts = {f"{second}-x": "d", f"{second}-y": "ef"}
            splits = [row("splits", unit_key=second, part_key=part, images=len(has)) for part, has in parts.items()]
            catalog.commit("splits", second, splits)
            for part, has in list(parts.items())[: 1 if state == "half split" else 2]:
                commit(catalog, part, cell, {image: later[image] for image in has})
            continue
        if state == "failed":
            add_failure(catalog, second)
        if state in ("missing", "failed"):
            continue
        if state == "too few":
            del later["f"]
        if state == "too many":
            later["z"] = "broken"
        if state == "spoiled":
            later["f"] = "error"
        rows = [outcome(second, *cell, image, status, model_id="m0") for image, status in later.items()]
        catalog.commit("outcomes", second, rows * (2 if state == "twice" else 1))
    for run in ("run", "again"):
        add_run(catalog, run)
    add_plan(catalog, units)
    add_plan(catalog, {key: unit for key, unit in units.items() if key.startswith("none")}, "again")


# The images of which nothing is known, or an error, by what became of the attack.
UNKNOWN = {"missing": "def", "half split": "ef", "too few": "f"}
ERRORS = {"failed": "def", "spoiled": "f"}


def expected(plan: Plan) -> dict[tuple[str, str, str], tuple[bool | None, bool, bool]]:
    """By definition: whether an image is robust, an error and skipped under each attack."""
    known: dict[tuple[str, str, str], tuple[bool | None, bool, bool]] = {}
    for cell, (state, found) in plan.items():
        for image, status in zip(IMAGES, found, strict=True):
            if image in ERRORS.get(state, ""):
                # An error that is a row is not robust; one that a failed unit leaves behind is not, either.
                known[*cell, image] = (False, True, False)
            elif image in UNKNOWN.get(state, ""):
                known[*cell, image] = (None, False, False)
            else:
                known[*cell, image] = (status == "robust", False, status == "skipped")
    return known


def seen(reader: Reader) -> dict[tuple[str, str, str], tuple[bool | None, bool, bool]]:
    return {
        (each["defense"], each["attack"], each["image_id"]): (each["robust"], each["error"], each["skipped"])
        for each in reader.rows("FROM verdicts WHERE run_id = 'run'")
    }


@settings(max_examples=5, deadline=None, suppress_health_check=list(HealthCheck))
@given(plans())
def test_answers_are_alike_before_and_after_merging(empty_catalog: Catalog, plan: Plan) -> None:
    with tempfile.TemporaryDirectory() as folder:
        catalog = Catalog(shutil.copytree(empty_catalog.root, folder, dirs_exist_ok=True))
        fill(catalog, plan)
        before = answers(catalog)
        assert ask(catalog, seen) == expected(plan)
        compact(catalog, keep_seconds=0, settle_seconds=0)
        assert answers(catalog) == before


ROBUST = ["robust"] * 6


@pytest.mark.parametrize("state", STATES)
def test_a_cell_in_each_state_beside_whole_ones(catalog: Catalog, state: str) -> None:
    plan = {cell: (state if cell == ("loir-2", "aa") else "whole", ROBUST) for cell in CELLS}
    fill(catalog, plan)
    assert ask(catalog, seen) == expected(plan)
    whole = run_query(catalog, "SELECT defense, attack FROM cells WHERE run_id = 'run' AND NOT whole").to_pylist()
    assert whole == ([] if state in ("whole", "split", "spoiled") else [{"defense": "loir-2", "attack": "aa"}])


@pytest.mark.slow
def test_merging_changes_no_answer_of_igd_ray_or_plain_duckdb(catalog: Catalog) -> None:
    # Five of the ten states, one for each cell: the tests above draw the others.
    fill(catalog, {cell: (state, ROBUST) for cell, state in zip(CELLS, STATES, strict=False)})
    together = answers(catalog)
    for name in ("worst_case", "table8", "progress"):
        assert comparable(run_query(catalog, QUESTIONS[name])) == together[name], "on a connection of its own"
    require_equal_by_merging(catalog)


OF_A_RUN = sorted(query._OF_RUNS)


@pytest.mark.parametrize("is_merged", [False, True], ids=["small files", "merged"])
def test_a_question_about_one_run_is_answered_as_one_about_all_of_which_the_run_is_taken(
    catalog: Catalog, is_merged: bool
) -> None:
    # Five of the ten states, one for each cell: the tests above draw the others.
    fill(catalog, {cell: (state, ROBUST) for cell, state in zip(CELLS, STATES, strict=False)})
    if is_merged:
        compact(catalog, keep_seconds=0, settle_seconds=0)

    # The numbers of cells count through all that is read.
    questions = {
        name: f"FROM (SELECT * {'EXCLUDE (cell)' if name == 'cells' else ''} FROM {name}) WHERE run_id = 'again'"
        for name in OF_A_RUN
    }
    together = ask(catalog, lambda reader: {name: comparable(reader.table(sql)) for name, sql in questions.items()})
    for name in OF_A_RUN:
        sql = f"SELECT * {'EXCLUDE (cell)' if name == 'cells' else ''} FROM {name} WHERE run_id = 'again'"
        with duckdb.connect() as connection:
            assert query.only_run(connection, sql) == "again"
        assert comparable(run_query(catalog, sql)) == together[name], name
    assert any(together.values())


@pytest.mark.parametrize(
    "sql",
    [
        "FROM worst_case WHERE run_id = 'a' OR defense = 'none'",
        "FROM worst_case WHERE run_id <> 'a'",
        "FROM worst_case WHERE run_id = defense",
        "FROM worst_case WHERE run_id IN (SELECT run_id FROM runs WHERE run_id = 'a')",
        "SELECT *, (SELECT count(*) FROM worst_case) FROM worst_case WHERE run_id = 'a'",
        "FROM worst_case JOIN accuracy USING (run_id) WHERE run_id = 'a'",
        "FROM worst_case AS w(defense, run_id) WHERE run_id = 'a'",
        "FROM worst_case USING SAMPLE 1 ROWS WHERE run_id = 'a'",
        "FROM checks WHERE run_id = 'a'",
        "FROM worst_case WHERE NOT (run_id = 'a')",
        "WITH worst_case AS (SELECT 'b' AS run_id) FROM worst_case WHERE run_id = 'a'",
        "FROM worst_case UNION ALL FROM worst_case WHERE run_id = 'a'",
    ],
)
def test_any_other_question_is_about_all_runs(sql: str) -> None:
    with duckdb.connect() as connection:
        assert query.only_run(connection, sql) is None


def test_what_holds_no_outcome_of_a_run_is_not_read_for_it(
    catalog: Catalog, capsys: pytest.CaptureFixture[str]
) -> None:
    fill(catalog, dict.fromkeys(CELLS, ("whole", ROBUST)))
    (catalog.root / "outcomes" / "loir-2-aa-0.parquet").write_bytes(b"junk")
    assert run_query(catalog, "FROM worst_case WHERE run_id = 'again'").num_rows == 1
    assert capsys.readouterr().err == ""
    run_query(catalog, "FROM worst_case WHERE run_id = 'run'")
    assert "loir-2-aa-0.parquet is damaged" in capsys.readouterr().err
