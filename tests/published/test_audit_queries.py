"""The paper's table 8 and the audit's counts, over bare outcome rows."""

import tempfile
from collections.abc import Sequence
from pathlib import Path

from igd_ray.catalog import named_query, run_query
from igd_ray.protocol import NINE_ATTACKS
from tests.published.published import catalog_of

DIRECT = [name for name in NINE_ATTACKS if not name.startswith("tr-")]


def rows(defense: str, attack: str, statuses: Sequence[str], run: str = "run") -> list[dict[str, object]]:
    """One outcome row an image, as they are published."""
    names = {"run_id": run, "model": "m", "epsilon": 0.1, "defense": defense, "attack": attack, "label": 0}
    return [
        {**names, "image_id": str(image), "clean_prediction": int(status == "misclassified"), "status": status}
        for image, status in enumerate(statuses)
    ]


def answer(query: str, outcomes: list[dict[str, object]]) -> list[dict[str, object]]:
    with tempfile.TemporaryDirectory() as folder:
        catalog = catalog_of(outcomes, Path(folder))
        found: list[dict[str, object]] = run_query(catalog, named_query(query)).to_pylist()
    return found


R, B, M, S, E = "robust", "broken", "misclassified", "skipped", "error"


def nine(defense: str, attacks: Sequence[str] = NINE_ATTACKS, run: str = "run") -> list[dict[str, object]]:
    """Attacks one after the other: the first breaks one image of four, the last another."""
    found = []
    for attack in attacks:
        first, last = attack == attacks[0], attack == attacks[-1]
        found += rows(defense, attack, [R, B if last else R, B if first else S, M], run)
    return found


def test_a_row_has_the_papers_columns_in_the_papers_order() -> None:
    (row,) = answer("table8", nine("loir-2"))
    names, worst = ["run_id", "model", "eps", "defense", "n", "clean"], ["iwwc", "low", "high", "audited"]
    assert list(row) == [*names, *NINE_ATTACKS, *worst]
    # What skipped an image has no share; the image counts as broken in the worst case.
    assert (row["n"], row["clean"], row["aa"], row["iwwc"]) == (4, 75.0, 50.0, 25.0)
    # The Wilson interval of one image of four.
    assert (row["low"], row["high"]) == (4.56, 69.94)
    assert [row[attack] for attack in NINE_ATTACKS[1:]] == [None] * 8
    assert row["audited"] is None, "no audit is not the same as an audit that broke nothing"


def test_without_skipped_images_every_attack_has_its_share() -> None:
    found = []
    for place, attack in enumerate(NINE_ATTACKS):
        found += rows("loir-2", attack, [R, B if place % 2 else R, R, M])
    (row,) = answer("table8", found)
    assert [row[attack] for attack in NINE_ATTACKS] == [75.0, 50.0] * 4 + [75.0]
    assert row["iwwc"] == 50.0


def test_the_audit_lowers_the_worst_case_and_spares_whom_it_does_not_fit() -> None:
    found = [*nine("loir-2"), *nine("none", DIRECT), *nine("hedge"), *rows("loir-2", "audit-line", [B, S, S, M])]
    none, hedge, loir = answer("table8", found)
    assert [each["defense"] for each in (none, hedge, loir)] == ["none", "hedge", "loir-2"]
    assert (loir["iwwc"], loir["audited"]) == (25.0, 0.0)
    assert (hedge["iwwc"], hedge["audited"]) == (25.0, 25.0)
    # On the undefended model attacks and transfers coincide, so that nobody asks for the transfers.
    assert (none["iwwc"], none["audited"], none["tr-aa"]) == (25.0, 25.0, None)


def test_the_worst_case_asks_for_all_nine_with_their_published_budgets() -> None:
    renamed = [{**row, "attack": "rays-100"} if row["attack"] == "rays" else row for row in nine("loir-2")]
    (row,) = answer("table8", renamed)
    assert (row["rays"], row["iwwc"], row["aa"]) == (None, None, 50.0)


def test_an_image_without_a_verdict_has_no_share_and_no_worst_case() -> None:
    for found in (
        [*nine("loir-2", NINE_ATTACKS[:-1]), *rows("loir-2", NINE_ATTACKS[-1], [R, R, S])],
        [*nine("loir-2", NINE_ATTACKS[:-1]), *rows("loir-2", NINE_ATTACKS[-1], [R, R, S, E])],
    ):
        (row,) = answer("table8", found)
        assert (row[NINE_ATTACKS[-1]], row["iwwc"]) == (None, None)
    audited = [*nine("loir-2"), *rows("loir-2", "audit-line", [R, S, S])]
    (row,) = answer("table8", audited)
    assert (row["iwwc"], row["audited"]) == (25.0, None)


def test_an_attack_that_failed_as_a_whole_leaves_no_worst_case() -> None:
    failed = rows("loir-2", "audit-line", [E, E, E, E])
    for audits in (failed, [*failed, *rows("loir-2", "audit-square-eot", [R, S, S, M])]):
        (row,) = answer("table8", [*nine("loir-2"), *audits])
        assert (row["iwwc"], row["audited"]) == (25.0, None)
    (row,) = answer("table8", [*nine("none", DIRECT), *rows("none", "tr-aa", [E, E, E, E])])
    assert (row["iwwc"], row["low"], row["high"]) == (None, None, None)


def test_runs_stand_apart_and_each_image_counts_once() -> None:
    twice = nine("loir-2") * 2
    first, second = answer("table8", [*twice, *nine("loir-2", run="second")])
    assert (first["run_id"], second["run_id"]) == ("run", "second")
    assert {**first, "run_id": "second"} == second


def test_rows_that_belong_to_no_run_are_no_row_of_the_table() -> None:
    (row,) = answer("table8", [*nine("loir-2"), *rows("none", "tr-apgd-eot", [R, B, B, M], run="published-eot")])
    assert row["run_id"] == "run"


def test_the_audits_counts_need_finished_outcomes() -> None:
    found = [*nine("loir-2"), *rows("loir-2", "audit-line", [B, S, S, M]), *rows("none", "aa", [R, B, B, M])]
    names = {"run_id": "run", "model": "m", "defense": "loir-2"}
    assert answer("audit", found) == [{**names, "attack": "audit-line", "attacked": 1, "newly_broken": 1}]
    failed = [*nine("loir-2"), *rows("loir-2", "audit-line", [E, S, S, M])]
    assert answer("audit", failed) == [{**names, "attack": "audit-line", "attacked": None, "newly_broken": None}]
