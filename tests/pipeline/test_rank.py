"""Rankings from units equal rankings in one piece, and are complete or an error."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from runs import settings_for

from igd_ray.catalog import run_query
from igd_ray.errors import IncompleteError, InputError
from igd_ray.models.clip import load_clip
from igd_ray.pipeline.rank import LeaveOneOutUnit, RankingPlan, finish_ranking, read_ranking
from igd_ray.pipeline.study import Study
from igd_ray.pipeline.unit import shards_of
from igd_ray.ranking import clip_dissect, leave_one_out


def sharded(study: Study, method: str, size: int) -> RankingPlan:
    """The study's ranking, in shards of another size."""
    plan = study.plan_ranking(method)
    whole = plan.shards[0]
    cut = tuple(
        tuple(replace(unit, shard=shard) for unit in whole)  # type: ignore[type-var]
        for shard in shards_of("probe", study.probe, size)
    )
    return replace(plan, shards=cut)


@pytest.fixture
def study(tmp_path: Path):
    with Study(settings_for(tmp_path / "results")) as opened:
        yield opened


def test_loir_from_shards_equals_one_piece(study: Study) -> None:
    plan = sharded(study, "loir", 60)
    assert len(plan.units) == 4
    study.rank(plan)
    expected = leave_one_out(study.model, study.probe)
    torch.testing.assert_close(
        read_ranking(study.catalog, plan.ranking_id).scores, expected.scores, rtol=1e-5, atol=1e-8
    )


def test_loir_of_a_convolutional_layer_is_cut_into_neuron_shards(tmp_path: Path) -> None:
    with Study(settings_for(tmp_path / "results", layer="layer2", probe_n=60)) as study:
        plan = study.plan_ranking("loir")
        ranges = [unit.neurons for unit in plan.units if isinstance(unit, LeaveOneOutUnit)]
        assert ranges == [(0, 32)]
        halves = tuple((replace(u[0], neurons=(0, 20)), replace(u[0], neurons=(20, 32))) for u in plan.shards)  # type: ignore[type-var]
        study.rank(replace(plan, shards=halves))
        expected = leave_one_out(study.model, study.probe, layer="layer2")
        found = read_ranking(study.catalog, replace(plan, shards=halves).ranking_id)
        torch.testing.assert_close(found.scores, expected.scores, rtol=1e-4, atol=2e-6)


def test_cdir_from_shards_equals_one_piece(study: Study) -> None:
    plan = sharded(study, "cdir", 70)
    study.rank(plan)
    expected = clip_dissect(study.model, study.probe, load_clip("demo"))
    torch.testing.assert_close(
        read_ranking(study.catalog, plan.ranking_id).scores, expected.scores, rtol=1e-4, atol=1e-4
    )


def test_a_random_ranking_is_the_same_again_and_another_with_another_seed(study: Study, tmp_path: Path) -> None:
    plan = study.plan_ranking("random")
    study.rank(plan)
    again = finish_ranking(study.catalog, plan)
    torch.testing.assert_close(read_ranking(study.catalog, plan.ranking_id).scores, again.scores, rtol=0, atol=0)
    with Study(settings_for(tmp_path / "results", seed=1)) as other:
        assert not torch.equal(finish_ranking(other.catalog, other.plan_ranking("random")).scores, again.scores)


def test_a_ranking_that_lacks_a_unit_is_an_error(study: Study) -> None:
    plan = sharded(study, "loir", 60)
    study.run(plan.units[:-1], "rank")
    with pytest.raises(IncompleteError, match="lacks 1 of 4 units"):
        finish_ranking(study.catalog, plan)
    assert not study.catalog.has("rankings", plan.ranking_id)


def test_a_probe_set_without_a_class_is_refused(tmp_path: Path) -> None:
    with (
        Study(settings_for(tmp_path / "results", probe_n=5)) as study,
        pytest.raises(InputError, match="the probe set has no image of 5 of 10 classes"),
    ):
        study.rank(study.plan_ranking("loir"))


def test_cdir_with_fewer_probe_images_than_it_looks_at_is_refused(tmp_path: Path) -> None:
    with (
        Study(settings_for(tmp_path / "results", probe_n=99)) as study,
        pytest.raises(InputError, match="top 100 images, but the probe set has 99"),
    ):
        study.rank(study.plan_ranking("cdir"))


def test_the_rankings_view_has_every_neuron_of_every_class_with_its_rank(study: Study) -> None:
    plan = study.plan_ranking("loir")
    study.rank(plan)
    scores = read_ranking(study.catalog, plan.ranking_id)
    table = run_query(study.catalog, "SELECT * FROM rankings ORDER BY class_id, neuron").to_pylist()
    assert len(table) == 10 * 64
    assert [row["rank"] for row in table] == scores.ranks().flatten().tolist()
    assert {row["probe_images"] for row in table} == {200}
    assert table[0]["class_name"] == "zero"
