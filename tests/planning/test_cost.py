"""`--dry-run` promises an upper bound: the passes recorded never exceed it."""

from pathlib import Path

import pytest

from igd_ray.catalog import Catalog, run_query
from igd_ray.planning.cost import costs, seconds_per_pass
from igd_ray.planning.evaluation import plan_evaluation
from igd_ray.units.replica import Context, ImageArrays, WorkerSetup
from tests.toys.counting import PassCounter
from tests.toys.runs import run_evaluation, settings_for
from tests.toys.sessions import session_for

ATTACKS = "clean,apgd-ce-5,apgd-t-3,fab-t-2,square-20,tr-apgd-ce-5,tr-square-20"


@pytest.mark.parametrize("sigma", ["0", "0.05"])
def test_recorded_passes_stay_below_the_bound(tmp_path: Path, sigma: str) -> None:
    catalog = tmp_path / "results"
    settings = settings_for(catalog, attacks=ATTACKS, sigma=sigma, n=12, shard_size=12)
    with session_for(settings) as session:
        workspace = session.workspace
        units = plan_evaluation(workspace).units
        bounds = {cost.what: cost for cost in costs(workspace.catalog, units, num_classes=10)}
    run_evaluation(catalog, attacks=ATTACKS, sigma=sigma, n=12, shard_size=12)
    for row in run_query(Catalog(catalog), "SELECT * FROM accuracy").to_pylist():
        name = f"{row['attack']} on {row['defense']}"
        bound = bounds.get(name) or bounds[name.replace("tr-square", "square")]
        assert 0 < row["forwards"] <= bound.forwards, name
        assert row["backwards"] <= bound.backwards, name
    with session_for(settings) as session:
        workspace = session.workspace
        after = costs(workspace.catalog, units, num_classes=10)
    assert all(cost.done == cost.units and cost.forwards == 0 for cost in after)


@pytest.mark.parametrize("sigma", [0.0, 0.05])
@pytest.mark.parametrize("layer", ["penultimate", "layer2"])
def test_an_inspection_stays_below_its_bound(tmp_path: Path, sigma: float, layer: str) -> None:
    settings = settings_for(tmp_path / "results", layer=layer, sigma=sigma, draws=3, defenses="random-8")
    with session_for(settings) as session:
        workspace = session.workspace
        plan = plan_evaluation(workspace)
        session.rank(plan.needed.rankings["random"])
        unit = next(unit for unit in plan.inspections if unit.kind == "inspection")
        context = Context(
            WorkerSetup(workspace.source, str(workspace.catalog.root), {"test": ImageArrays.of(workspace.test)}), "cpu"
        )
        counter = PassCounter(context.model.conv1)
        unit.compute(context)
    forwards, backwards = unit.most_passes(10)
    assert 0 < counter.forwards <= forwards
    assert 0 < counter.backwards <= backwards


def test_passes_are_timed(tmp_path: Path) -> None:
    with session_for(settings_for(tmp_path / "results")) as session:
        workspace = session.workspace
        forward, backward = seconds_per_pass(workspace.model, workspace.test.images[:1])
    assert 0 < forward < 1
    assert 0 <= backward < 1
