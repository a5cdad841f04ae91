"""The search for k: exact from caches, one clean pass and one noisy pass, repeatable."""

from pathlib import Path

import pytest
import torch
from runs import settings_for

from igd_ray.catalog import run_query
from igd_ray.config import SearchSettings, load_settings
from igd_ray.defenses import InterpretabilityGuidedDefense, class_masks
from igd_ray.errors import IncompleteError, InputError
from igd_ray.identity import derive_seed
from igd_ray.pipeline.rank import read_ranking
from igd_ray.pipeline.search import SearchPlan, load_objective, run_search
from igd_ray.pipeline.study import Study
from igd_ray.pipeline.verbs import defense_from_search, search


@pytest.fixture
def study(tmp_path: Path):
    given = {"catalog": str(tmp_path / "results"), "probe_n": 300, "search_n": 150}
    with Study(load_settings(SearchSettings, file=None, given=given)) as opened:
        yield opened


def plan_of(study: Study, tolerance: float = 0.005) -> SearchPlan:
    return study.plan_search(study.plan_ranking("loir"), tolerance=tolerance)


def test_cached_predictions_are_those_of_the_defended_model_on_the_same_noise(study: Study) -> None:
    plan = plan_of(study)
    search(study, [plan])
    objective = load_objective(study.catalog, plan, study.model)
    scores = read_ranking(study.catalog, plan.ranking.ranking_id)
    for k, tau in [(1, 0.01), (3, 0.5), (17, 0.01), (40, 10.0), (64, 1e-4)]:
        masks = class_masks(scores, k)
        generator = torch.Generator().manual_seed(derive_seed(plan.noisy_logits[0].key, "noise"))
        defense = InterpretabilityGuidedDefense(
            study.model, masks, layer=study.layer, sigma=plan.sigma, tau=tau, generator=generator
        )
        with torch.no_grad():
            expected = defense(study.search.images).argmax(dim=1)
        assert torch.equal(objective.predictions(masks, tau), expected), (k, tau)


def test_the_chosen_k_is_the_smallest_tried_within_the_tolerance(study: Study) -> None:
    (result,) = search(study, [plan_of(study)])
    assert result.chosen is not None
    feasible = [t.k for t in result.trials if t.clean_accuracy >= result.base_clean_accuracy - 0.005]
    assert result.chosen.k == min(feasible)
    assert result.chosen.k < study.layer.width / 2
    table = run_query(study.catalog, "SELECT k FROM trials WHERE chosen").to_pylist()
    assert table == [{"k": result.chosen.k}]


def test_a_second_search_computes_nothing_and_finds_the_same(study: Study) -> None:
    plan = plan_of(study)
    first = search(study, [plan])
    assert study.run(plan.units, "again").computed == 0
    assert search(study, [plan_of(study)]) == first
    assert run_query(study.catalog, "SELECT count(*) AS n FROM trials").to_pylist() == [{"n": len(first[0].trials)}]


def test_search_and_probe_images_are_apart(study: Study) -> None:
    assert not set(study.probe.ids) & set(study.search.ids)
    assert not (set(study.probe.ids) | set(study.search.ids)) & set(study.test.ids)
    assert any("flatters" in note for note in study.split_notes())


def test_a_search_without_its_caches_is_an_error(study: Study) -> None:
    plan = plan_of(study)
    study.rank(plan.ranking)
    with pytest.raises(IncompleteError, match="lacks 2 of 2 units"):
        run_search(study.catalog, plan, study.model)


def test_a_search_at_another_layer_is_refused_with_what_to_do(tmp_path: Path) -> None:
    with (
        Study(settings_for(tmp_path / "results", layer="layer2")) as study,
        pytest.raises(InputError, match=r"needs the penultimate layer.*loir-50"),
    ):
        plan_of(study)


def test_a_search_of_another_model_is_refused_by_its_fingerprint(study: Study) -> None:
    (result,) = search(study, [plan_of(study)])
    assert defense_from_search(study, result.search_id).k == result.chosen.k  # type: ignore[union-attr]
    study.model_id = "0" * 32
    with pytest.raises(InputError, match="is of another model"):
        defense_from_search(study, result.search_id)
