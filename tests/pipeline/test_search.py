"""The search for k: exact from caches, one clean pass and one noisy pass, repeatable."""

from pathlib import Path

import pytest
import torch
from runs import settings_for

from igd_ray.catalog import run_query
from igd_ray.config import EvaluateSettings, SearchSettings, load_settings
from igd_ray.defenses import InterpretabilityGuidedDefense, class_masks
from igd_ray.errors import IncompleteError, InputError
from igd_ray.identity import derive_seed
from igd_ray.pipeline.rank import read_ranking
from igd_ray.pipeline.search import SearchPlan, load_objective, run_search
from igd_ray.pipeline.study import Study
from igd_ray.pipeline.verbs import plan_evaluation_of, search


@pytest.fixture
def study(tmp_path: Path):
    given = {"catalog": str(tmp_path / "results"), "probe_n": 300, "search_n": 150}
    with Study(load_settings(SearchSettings, file=None, given=given)) as opened:
        yield opened


def plan_of(study: Study, tolerance: float = 0.005) -> SearchPlan:
    return study.plan_search(study.plan_ranking("loir"), tolerance=tolerance)


def test_cached_predictions_are_those_of_the_defended_model_on_the_same_noise(study: Study) -> None:
    plan = plan_of(study)
    search(study, study.settings, [plan])
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
    (result,) = search(study, study.settings, [plan_of(study)])
    assert result.chosen is not None
    feasible = [t.k for t in result.trials if t.clean_accuracy >= result.base_clean_accuracy - 0.005]
    assert result.chosen.k == min(feasible)
    assert result.chosen.k < study.layer.width / 2
    table = run_query(study.catalog, "SELECT k FROM trials WHERE chosen").to_pylist()
    assert table == [{"k": result.chosen.k}]


def test_a_second_search_computes_nothing_and_finds_the_same(study: Study) -> None:
    plan = plan_of(study)
    first = search(study, study.settings, [plan])
    assert study.run(plan.units, "again").computed == 0
    assert search(study, study.settings, [plan_of(study)]) == first
    assert run_query(study.catalog, "SELECT count(*) AS n FROM trials").to_pylist() == [{"n": len(first[0].trials)}]


def test_search_and_probe_images_are_apart(study: Study) -> None:
    assert not set(study.probe.ids) & set(study.search.ids)
    assert not (set(study.probe.ids) | set(study.search.ids)) & set(study.test.ids)


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


def evaluate_settings(study: Study, *searches: str) -> EvaluateSettings:
    given = {"catalog": str(study.catalog.root), "n": 8, "attacks": "clean", "from_search": ",".join(searches)}
    return load_settings(EvaluateSettings, file=None, given=given)


def test_an_evaluation_uses_what_a_search_chose_and_says_on_what(study: Study) -> None:
    (result,) = search(study, study.settings, [plan_of(study)])
    assert result.chosen is not None
    evaluation = plan_evaluation_of(study, evaluate_settings(study, result.search_id))
    assert [defense.label for defense in evaluation.resolved.defenses] == ["none", f"loir-{result.chosen.k}"]
    notes = " ".join(evaluation.notes)
    assert "loir: k chosen on 150 images of the split 'train'; the model has seen training images" in notes
    assert "loir: neurons ranked on 300 images" in notes


def test_a_search_of_another_model_is_refused_by_its_fingerprint(study: Study) -> None:
    (result,) = search(study, study.settings, [plan_of(study)])
    study.model_id = "0" * 32
    with pytest.raises(InputError, match="is of another model"):
        plan_evaluation_of(study, evaluate_settings(study, result.search_id))


def test_two_defenses_of_one_name_are_refused_rather_than_one_dropped(study: Study) -> None:
    ids = []
    for sigma in (0.01, 0.05):
        given = {"catalog": str(study.catalog.root), "probe_n": 300, "search_n": 150, "sigma": sigma}
        with Study(load_settings(SearchSettings, file=None, given=given)) as other:
            plan = other.plan_search(other.plan_ranking("random"), tolerance=1.0)
            ids += [result.search_id for result in search(other, other.settings, [plan])]
    with pytest.raises(InputError, match=r"2 defenses are called random-1 \(σ = 0.01, .* and σ = 0.05"):
        plan_evaluation_of(study, evaluate_settings(study, *ids))


def test_searches_and_rankings_are_runs_with_progress(study: Study) -> None:
    search(study, study.settings, [plan_of(study)])
    (row,) = run_query(study.catalog, "SELECT * FROM runs JOIN progress USING (run_id)").to_pylist()
    assert (row["verb"], row["planned"], row["done"], row["failed"]) == ("search", 3, 3, 0)


def test_a_search_on_the_evaluated_split_takes_what_the_evaluation_leaves(tmp_path: Path) -> None:
    given = {"catalog": str(tmp_path / "r"), "search_split": "test"}
    with Study(load_settings(SearchSettings, file=None, given=given)) as study:
        assert len(study.search) == 540 - 256
        assert len(study.probe) == 1257
        assert not set(study.search.ids) & set(study.test.ids)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"search_split": "test", "search_n": 300}, "search and evaluated images must not share images, but 16"),
        ({"split": "train"}, "probe and evaluated images must not share images"),
    ],
)
def test_images_that_are_evaluated_neither_rank_nor_choose(
    tmp_path: Path, given: dict[str, object], message: str
) -> None:
    settings = load_settings(SearchSettings, file=None, given={"catalog": str(tmp_path / "r"), **given})
    with Study(settings) as study, pytest.raises(InputError, match=message):
        _ = study.probe
