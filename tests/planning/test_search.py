"""The search: exact from caches, counted passes, repeatable, and gone on with where it was killed."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from igd_ray.catalog import Catalog, run_query
from igd_ray.config import EvaluateSettings, SearchSettings, load_settings
from igd_ray.defenses import InterpretabilityGuidedDefense, class_masks
from igd_ray.errors import IncompleteError, InputError
from igd_ray.identity import derive_seed
from igd_ray.models.anatomy.cutting import SplitModel
from igd_ray.planning import search as search_module
from igd_ray.planning.search import SearchOptions, SearchPlan, finish_search, load_objective, read_trials, run_trials
from igd_ray.planning.verbs import plan_evaluation_of, search
from igd_ray.planning.workspace import Study
from igd_ray.search import Setting, Trial
from igd_ray.units.objective import ObjectiveSource, search_here
from igd_ray.units.ranking import read_ranking
from igd_ray.units.replica import ModelSource
from tests.toys.runs import PassCounter

# Three σ, the demo's eps and its parts, and two τ.
SPACE = SearchOptions(sigmas=(0.0375, 0.075, 0.15), taus=(0.01, 1.0))


def study_in(catalog: Path, **changes: object) -> Study:
    given = {"catalog": str(catalog), "probe_n": 300, "search_n": 150, **changes}
    return Study(load_settings(SearchSettings, file=None, given=given))


@pytest.fixture
def study(tmp_path: Path):
    with study_in(tmp_path / "results") as opened:
        yield opened


def plan_of(study: Study, tolerance: float = 0.005, options: SearchOptions | None = None) -> SearchPlan:
    return study.plan_search(study.plan_ranking("loir"), tolerance=tolerance, options=options)


def predictions(study: Study, plan: SearchPlan, setting: Setting) -> torch.Tensor:
    """The predictions of every shard from caches."""
    objective = load_objective(study.catalog, plan, study.source).build()
    masks = class_masks(read_ranking(study.catalog, plan.ranking.ranking_id), setting.k)
    return torch.cat([shard.predictions(masks, setting.noise, setting.tau) for shard in objective._shards])


def defended(study: Study, plan: SearchPlan, setting: Setting) -> torch.Tensor:
    """The predictions of the defended model itself, drawing the noise of every shard again."""
    masks = class_masks(read_ranking(study.catalog, plan.ranking.ranking_id), setting.k)
    found = []
    for place, shard in enumerate(plan.shards):
        generator = torch.Generator()
        if setting.sigma:
            generator.manual_seed(derive_seed(plan.noisy_logits[setting.noise][place].key, "noise"))
        defense = InterpretabilityGuidedDefense(
            study.model,
            masks,
            layer=study.layer,
            sigma=setting.sigma,
            tau=setting.tau,
            draws=setting.draws,
            generator=generator,
        )
        with torch.no_grad():
            found.append(defense(study.search.images[shard.start : shard.stop]).argmax(dim=1))
    return torch.cat(found)


@pytest.mark.parametrize("layer", ["penultimate", "layer2", "layer1"])
def test_cached_predictions_are_those_of_the_defended_model_on_the_same_noise(
    tmp_path: Path, layer: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("igd_ray.planning.workspace.MOST_SHARD_IMAGES", 64)
    options = SearchOptions(sigmas=(0.0, 0.075, 0.15), taus=(0.01,), draws=(1, 2), ks=(1, 2))
    with study_in(tmp_path / "results", layer=layer) as study:
        plan = study.plan_search(study.plan_ranking("random"), tolerance=0.005, options=options)
        assert len(plan.shards) == 3
        search(study, study.settings, [plan])
        chance = torch.Generator().manual_seed(0)
        different = set()
        for _ in range(20):
            k = int(torch.randint(1, study.layer.width + 1, (1,), generator=chance))
            sigma, _tau, draws = plan.space.groups[int(torch.randint(5, (1,), generator=chance))]
            tau = float(10 ** (4 * torch.rand(1, generator=chance, dtype=torch.float64) - 3))
            setting = Setting(k, sigma, tau, draws)
            expected = defended(study, plan, setting)
            assert torch.equal(predictions(study, plan, setting), expected), setting
            different.add(tuple(expected.tolist()))
    assert len(different) > 10, "the settings hardly matter, so this compared nothing"


class Counted:
    """Counts the images that pass replicas of the model."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.counters: list[PassCounter] = []
        load = ModelSource.load

        def counting(source: ModelSource, device: str):
            model = load(source, device)
            self.counters.append(PassCounter(model))
            return model

        monkeypatch.setattr(ModelSource, "load", counting)

    @property
    def images(self) -> int:
        return sum(counter.forwards for counter in self.counters)


def test_three_sigmas_cost_one_clean_and_three_noisy_passes(study: Study, monkeypatch: pytest.MonkeyPatch) -> None:
    plan = plan_of(study, options=SPACE)
    study.rank(plan.ranking)
    # The executor's replica, which has ranked, counts from here on; the trials' replica from its start.
    worker = study._started()._worker._context.model
    before, counted = PassCounter(worker), Counted(monkeypatch)
    (result,) = search(study, study.settings, [plan])
    assert len(result.trials) >= 6 * 6
    assert before.forwards + counted.images == (1 + 3) * 150
    # Another search over the same images costs none, whatever it tries.
    search(study, study.settings, [plan_of(study, options=replace(SPACE, taus=(0.1,), sampler="grid"))])
    assert before.forwards + counted.images == (1 + 3) * 150


def test_at_another_layer_trials_run_only_what_follows_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ran: list[int] = []
    suffix = SplitModel.suffix
    with study_in(tmp_path / "results", layer="layer2") as study:
        plan = study.plan_search(study.plan_ranking("random"), tolerance=0.005)
        study.rank(plan.ranking)
        assert not study.run(plan.units, "cache").failed
        monkeypatch.setattr(SplitModel, "suffix", lambda *given, **named: ran.append(1) or suffix(*given, **named))
        (result,) = search(study, study.settings, [plan])
    assert len(result.trials) > 3
    assert len(ran) == len(result.trials) * len(plan.shards)


def test_the_chosen_k_is_the_smallest_tried_within_the_tolerance(study: Study) -> None:
    (result,) = search(study, study.settings, [plan_of(study)])
    assert result.chosen is not None
    least = result.base_clean_accuracy - 0.005
    k = result.chosen.setting.k
    assert isinstance(k, int)
    assert k == min(trial.setting.k for trial in result.trials if trial.measurement.accuracy >= least)
    assert k < study.layer.width / 2
    assert {k - 1, k - 2, k + 1} <= {0, -1, *(trial.setting.k for trial in result.trials)}, "its neighbours were tried"
    table = run_query(study.catalog, "SELECT k FROM trials WHERE chosen").to_pylist()
    assert table == [{"k": k}]


def test_of_several_sigmas_and_taus_the_smallest_k_is_chosen_and_all_are_kept(study: Study) -> None:
    (result,) = search(study, study.settings, [plan_of(study, options=SPACE)])
    assert result.chosen is not None
    rows = run_query(study.catalog, "SELECT * FROM search_settings").to_pylist()
    assert {(row["sigma"], row["tau"]) for row in rows} == {(s, t) for s in SPACE.sigmas for t in SPACE.taus}
    assert all(row["least_k"] == row["k"] <= row["safe_k"] for row in rows)
    best = min(rows, key=lambda row: (row["k"], -row["clean_accuracy"]))
    assert (best["k"], best["clean_accuracy"]) == (result.chosen.setting.k, result.chosen.measurement.accuracy)
    assert [row["chosen"] for row in rows].count(True) == 1


def test_the_front_of_both_objectives_is_kept(study: Study) -> None:
    search(study, study.settings, [plan_of(study, options=SPACE)])
    trials = run_query(study.catalog, "SELECT k, clean_accuracy AS accuracy, pareto FROM trials").to_pylist()
    points = [(trial["k"], trial["accuracy"]) for trial in trials]
    for trial, (k, accuracy) in zip(trials, points, strict=True):
        # Beaten is a trial that another is as good as in both, and better in one.
        beaten = any(k2 <= k and a2 >= accuracy and (k2, a2) != (k, accuracy) for k2, a2 in points)
        assert trial["pareto"] == (not beaten)


class KilledError(Exception):
    """Stands for the end of the process."""


class Stopping:
    """Lets so many trials be committed, and then ends the process."""

    def __init__(self, trials: int) -> None:
        self.left = trials
        self.ran = 0

    def search(self, source: ObjectiveSource, sampler, record: Callable[[Trial], None]) -> None:
        def stop(trial: Trial) -> None:
            if self.ran == self.left:
                raise KilledError
            record(trial)
            self.ran += 1

        search_here(source, sampler, stop)


def told(trials) -> list[object]:
    """What equal trials agree in."""
    return [(trial.number, trial.setting, trial.measurement, trial.feasible) for trial in trials]


@pytest.mark.parametrize(
    "options",
    [
        SearchOptions(taus=(0.01, 1.0), ks=range(1, 9)),
        SearchOptions(sampler="random", trials=9),
        SearchOptions(k_mode="per-class"),
    ],
    ids=["bisection", "random", "per-class"],
)
def test_killed_after_any_trial_it_runs_only_the_rest_and_chooses_the_same(
    tmp_path: Path, options: SearchOptions, monkeypatch: pytest.MonkeyPatch
) -> None:
    with study_in(tmp_path / "whole") as study:
        plan = plan_of(study, options=options)
        (whole,) = search(study, study.settings, [plan])
        source = load_objective(study.catalog, plan, study.source)
    assert whole.chosen is not None
    total = len(whole.trials)
    assert total > 5
    monkeypatch.setattr(search_module, "load_objective", lambda *_given: source)
    for committed in range(total):
        catalog = Catalog(tmp_path / f"after-{committed}")
        catalog.create()
        with pytest.raises(KilledError):
            run_trials(catalog, plan, source.model, Stopping(committed).search)
        assert len(read_trials(catalog, plan.search_id)) == committed
        again = Stopping(total)
        trials = run_trials(catalog, plan, source.model, again.search)
        assert again.ran == total - committed
        assert told(trials) == told(whole.trials)
        result = finish_search(catalog, plan, trials, {})
        assert result.chosen is not None
        assert result.chosen.setting == whole.chosen.setting


def test_no_class_loses_more_than_the_tolerance_where_each_has_its_own_k(study: Study) -> None:
    # By chance some classes need more neurons than others; the demo's own ranking keeps every class with one.
    plan = study.plan_search(study.plan_ranking("random"), tolerance=0.02, options=SearchOptions(k_mode="per-class"))
    (result,) = search(study, study.settings, [plan])
    assert result.chosen is not None
    ks = result.chosen.setting.k
    assert isinstance(ks, tuple)
    assert len(ks) == 10
    assert len(set(ks)) > 1
    labels = study.search.labels
    found = defended(study, plan, result.chosen.setting)
    with torch.no_grad():
        base = study.model(study.search.images).argmax(dim=1)
    for label in range(10):
        own = labels == label
        assert int((base[own] == label).sum()) - int((found[own] == label).sum()) <= 0.02 * int(own.sum())
    assert result.chosen.measurement.accuracy == int((found == labels).sum()) / 150


def test_an_evaluation_of_a_k_for_each_class_masks_each_with_its_own(study: Study) -> None:
    (result,) = search(study, study.settings, [plan_of(study, 0.02, SearchOptions(k_mode="per-class"))])
    assert result.chosen is not None
    ks = result.chosen.setting.k
    assert isinstance(ks, tuple)
    defense = plan_evaluation_of(study, evaluate_settings(study, result.search_id)).resolved.defenses[1]
    assert (defense.label, defense.k) == ("loir-per-class", None)
    scores = read_ranking(study.catalog, str(defense.ranking_id)).scores
    built = defense.build(study.model, torch.Generator(), scores=scores)
    assert torch.equal(built.masks, class_masks(scores, ks))
    other = replace(defense, arguments=(("class_k", ",".join(str(k) for k in (*ks[:-1], ks[-1] + 1))),))
    assert other.defense_id != defense.defense_id


def test_robust_accuracy_on_search_images_chooses_among_the_best(study: Study) -> None:
    options = SearchOptions(taus=(0.01, 1.0), refine=3, refine_n=24)
    (result,) = search(study, study.settings, [plan_of(study, options=options)])
    assert result.chosen is not None
    assert len(result.robust_accuracy) == 3
    assert result.robust_accuracy[result.chosen.number] == max(result.robust_accuracy.values())
    stored = run_query(study.catalog, "SELECT trial, robust_accuracy FROM trials WHERE robust_accuracy IS NOT NULL")
    assert {row["trial"]: row["robust_accuracy"] for row in stored.to_pylist()} == result.robust_accuracy
    rows = run_query(study.catalog, "SELECT image_id, defense, attack, status FROM outcomes").to_pylist()
    assert {row["attack"] for row in rows} == {"tr-apgd-ce", "apgd-ce-20"}
    # The test split is never touched.
    assert {row["image_id"] for row in rows} == set(study.search.ids[:24])
    lost: dict[str, set[str]] = {}
    for row in rows:
        lost.setdefault(row["defense"], set()).update({row["image_id"]} if row["status"] != "robust" else ())
    shares = [1 - len(images) / 24 for defense, images in lost.items() if defense != "none"]
    assert sorted(result.robust_accuracy.values()) == pytest.approx(sorted(shares))
    assert search(study, study.settings, [plan_of(study, options=options)]) == [result]


def test_all_samplers_try_the_same_objective(study: Study) -> None:
    accuracies: dict[Setting, float] = {}
    tried = {}
    for sampler in ("bisection", "grid", "random"):
        (result,) = search(study, study.settings, [plan_of(study, options=replace(SPACE, sampler=sampler))])
        tried[sampler] = [trial.setting for trial in result.trials]
        assert len(set(tried[sampler])) == len(tried[sampler])
        for trial in result.trials:
            assert accuracies.setdefault(trial.setting, trial.measurement.accuracy) == trial.measurement.accuracy
    assert len(tried["random"]) == 32
    assert {(each.k, each.sigma, each.tau) for each in tried["grid"]} == {
        (k, sigma, tau) for k in (1, 2, 4, 8, 16, 32, 64) for sigma in SPACE.sigmas for tau in SPACE.taus
    }


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
        study.run_trials(plan)


def test_a_ranking_is_given_by_its_id_and_refused_where_it_is_of_another_model_or_layer(study: Study) -> None:
    (first,) = search(study, study.settings, [plan_of(study)])
    stored = study.stored_ranking(plan_of(study).ranking.ranking_id)
    assert search(study, study.settings, [study.plan_search(stored, tolerance=0.005)]) == [first]
    with study_in(study.catalog.root, layer="layer2") as other, pytest.raises(InputError, match="is of layer 'penul"):
        other.stored_ranking(stored.ranking_id)
    study.model_id = "0" * 32
    with pytest.raises(InputError, match="is of another model"):
        study.stored_ranking(stored.ranking_id)


def test_search_images_that_may_be_evaluated_are_refused(tmp_path: Path) -> None:
    with (
        study_in(tmp_path / "results", search_split="test") as study,
        pytest.raises(InputError, match="both come from the split 'test'"),
    ):
        plan_of(study)


def test_ks_outside_the_layer_and_classes_without_images_are_refused(tmp_path: Path) -> None:
    with study_in(tmp_path / "results", search_n=5) as study:
        with pytest.raises(InputError, match="k must lie in 1…64, the neurons of 'penultimate', not 65"):
            plan_of(study, options=SearchOptions(ks=range(60, 70)))
        with pytest.raises(InputError, match="a k for each class needs search images of every class"):
            plan_of(study, options=SearchOptions(k_mode="per-class"))


def evaluate_settings(study: Study, *searches: str) -> EvaluateSettings:
    given = {"catalog": str(study.catalog.root), "n": 8, "attacks": "clean", "from_search": ",".join(searches)}
    return load_settings(EvaluateSettings, file=None, given=given)


def test_an_evaluation_uses_what_a_search_chose_and_says_on_what(study: Study) -> None:
    (result,) = search(study, study.settings, [plan_of(study)])
    assert result.chosen is not None
    evaluation = plan_evaluation_of(study, evaluate_settings(study, result.search_id))
    assert [defense.label for defense in evaluation.resolved.defenses] == ["none", f"loir-{result.chosen.setting.k}"]
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


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"search_split": "test"}, "both come from the split 'test'"),
        ({"split": "train"}, "both come from the split 'train'"),
    ],
)
def test_images_that_are_evaluated_neither_rank_nor_choose(
    tmp_path: Path, given: dict[str, object], message: str
) -> None:
    settings = load_settings(SearchSettings, file=None, given={"catalog": str(tmp_path / "r"), **given})
    with Study(settings) as study, pytest.raises(InputError, match=message):
        _ = study.probe
