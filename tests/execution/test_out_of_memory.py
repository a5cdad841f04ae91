"""Without memory for a shard, its halves are attacked instead, and everything that builds on it goes on."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from torch import Tensor

from igd_ray.catalog import Catalog, run_query
from igd_ray.execution.queue import SOURCE_FAILED
from igd_ray.units.attack import AttackUnit
from igd_ray.units.base import Rows
from igd_ray.units.checks.defense import DefenseCheckUnit, GradientCheckUnit, StoredPointsCheckUnit
from igd_ray.units.replica import Context
from tests.toys.runs import run_evaluation

CHANGES = {"n": 16, "shard_size": 8, "defenses": "none,random-8", "attacks": "apgd-ce-5,tr-apgd-ce-5"}


@pytest.fixture
def small_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """Attacks fit at most 4 images."""
    whole = AttackUnit.compute

    def compute(unit: AttackUnit, context: Context) -> dict[str, Rows]:
        if len(unit.shard.ids) > 4:
            raise MemoryError
        return whole(unit, context)

    monkeypatch.setattr(AttackUnit, "compute", compute)


def test_every_image_has_its_outcome_and_the_run_is_complete(small_memory: None, tmp_path: Path) -> None:
    catalog = Catalog(tmp_path / "results")
    assert not run_evaluation(catalog.root, **CHANGES).failed
    counts = run_query(
        catalog,
        """
        SELECT defense, attack, count(*) AS n, count(DISTINCT image_id) AS images, bool_or(status = 'error') AS wrong
        FROM outcomes GROUP BY ALL
        """,
    ).to_pylist()
    assert len(counts) == 4
    assert all((row["n"], row["images"], row["wrong"]) == (16, 16, False) for row in counts)
    worst = run_query(catalog, "SELECT robust_accuracy FROM worst_case")["robust_accuracy"].to_pylist()
    assert None not in worst
    (progress,) = run_query(catalog, "SELECT planned = done AS complete FROM progress").to_pylist()
    assert progress["complete"]
    # One attempt an attack and defense found out; after that the size was known.
    split = run_query(catalog, "SELECT count(*) AS n FROM attempts WHERE outcome = 'split'").to_pylist()
    assert split == [{"n": 3}]


def test_the_same_run_again_computes_nothing(small_memory: None, tmp_path: Path) -> None:
    first = run_evaluation(tmp_path / "results", **CHANGES)
    again = run_evaluation(tmp_path / "results", **CHANGES)
    assert first.computed > 0
    assert (again.computed, again.failed) == (0, ())


def test_a_part_that_fails_fails_what_builds_on_it_until_a_later_run_makes_up_for_it(
    small_memory: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fitting = AttackUnit.compute

    def compute(unit: AttackUnit, context: Context) -> dict[str, Rows]:
        rows = fitting(unit, context)
        if unit.attack.label == "tr-apgd-ce-5" and unit.shard.start == 4:
            raise ValueError("the second half of the first shard")
        return rows

    with monkeypatch.context() as patch:
        patch.setattr(AttackUnit, "compute", compute)
        failed = run_evaluation(tmp_path / "results", **CHANGES).failed
    # The half itself; the transfer of its whole shard to the one defense; the reviews of both's points.
    assert [report.kind for report in failed] == ["attack", "transfer", "review", "review"]
    first, *others = (report.error for report in failed)
    assert first == "ValueError: the second half of the first shard"
    assert others == [SOURCE_FAILED] * 3
    # Both halves are asked for again, of which one is there, the transfer and the reviews.
    again = run_evaluation(tmp_path / "results", **CHANGES)
    assert (again.computed, again.failed) == (5, ())


def test_checks_take_fewer_images_at_once_and_their_findings_belong_to_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fitting(whole: Callable[[Any, Context], dict[str, Rows]]) -> Callable[[Any, Context], dict[str, Rows]]:
        def compute(unit: Any, context: Context) -> dict[str, Rows]:
            with monkeypatch.context() as patch:
                patch.setattr(Context, "images", few)
                return whole(unit, context)

        return compute

    images = Context.images

    def few(context: Context, name: str, start: int, stop: int) -> tuple[Tensor, Tensor]:
        if stop - start > 4:
            raise MemoryError
        return images(context, name, start, stop)

    changes = {"n": 16, "shard_size": 8, "defenses": "none", "attacks": "apgd-ce,tr-apgd-ce-5"}
    catalog = Catalog(tmp_path / "results")
    for kind in (DefenseCheckUnit, GradientCheckUnit, StoredPointsCheckUnit):
        monkeypatch.setattr(kind, "compute", fitting(kind.compute))
    # The first look's check of gradients is made beside dear attacks only.
    monkeypatch.setattr("igd_ray.planning.evaluation.GRADIENT_CHECK_SHARE", 0)
    assert not run_evaluation(catalog.root, **changes).failed
    parts = run_query(
        catalog,
        """
        SELECT kind, count(DISTINCT checks.unit_key) AS parts
        FROM checks
        JOIN unit_parts ON part_key = checks.unit_key
        JOIN stored_run_units AS units ON units.unit_key = unit_parts.unit_key AND units.run_id = checks.run_id
        GROUP BY ALL
        """,
    ).to_pylist()
    assert {row["kind"]: row["parts"] for row in parts} == {"inspection": 1, "gradient-check": 1, "review": 2}
    messages = run_query(catalog, "SELECT message FROM checks WHERE \"check\" = 'large-epsilon'")["message"].to_pylist()
    assert "of 16" in messages[0]
    assert run_evaluation(catalog.root, **changes).computed == 0
