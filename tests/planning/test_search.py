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
from igd_ray.execution.session import Session
from igd_ray.identity import derive_seed
from igd_ray.models.anatomy.cutting import SplitModel
from igd_ray.planning import search as search_module
from igd_ray.planning.evaluation import plan_evaluation
from igd_ray.planning.rankings import plan_ranking, stored_ranking
from igd_ray.planning.search import SearchPlan, finish_search, load_objective, plan_search, run_trials
from igd_ray.planning.search.stored import read_trials
from igd_ray.planning.workspace import Workspace
from igd_ray.search import Setting, Trial
from igd_ray.units.objective import ObjectiveSource, search_here
from igd_ray.units.ranking import read_ranking
from igd_ray.units.replica import ModelSource
from igd_ray.verbs.search import search
from tests.toys.counting import PassCounter
from tests.toys.sessions import session_for

# Three σ, the demo's eps and its parts, and two τ.
SPACE: dict[str, object] = {"sigmas": (0.25, 0.5, 1.0), "taus": (0.01, 1.0)}


def session_in(catalog: Path, **changes: object) -> Session:
    given = {"catalog": str(catalog), "probe_n": 300, "search_n": 150, **changes}
    return session_for(load_settings(SearchSettings, file=None, given=given))


@pytest.fixture
def session(tmp_path: Path):
    with session_in(tmp_path / "results") as opened:
        yield opened


def plan_of(session: Session, method: str = "loir", **changes: object) -> SearchPlan:
    settings = session.workspace.settings
    workspace = session.workspace.with_settings(settings.model_copy(update=changes))
    return plan_search(workspace, plan_ranking(workspace, method))


def predictions(session: Session, plan: SearchPlan, setting: Setting) -> torch.Tensor:
    """The predictions of every shard from caches."""
    objective = load_objective(session.workspace.catalog, plan, session.workspace.source).build()
    masks = class_masks(read_ranking(session.workspace.catalog, plan.ranking.ranking_id), setting.k)
    return torch.cat([shard.predictions(masks, setting.noise, setting.tau) for shard in objective.shards])


def defended(session: Session, plan: SearchPlan, setting: Setting) -> torch.Tensor:
    """The predictions of the defended model itself, drawing the noise of every shard again."""
    masks = class_masks(read_ranking(session.workspace.catalog, plan.ranking.ranking_id), setting.k)
    found = []
    for place, shard in enumerate(plan.shards):
        generator = torch.Generator()
        if setting.sigma:
            generator.manual_seed(derive_seed(plan.noisy_logits[setting.noise][place].key, "noise"))
        defense = InterpretabilityGuidedDefense(
            session.workspace.model,
            masks,
            layer=session.workspace.layer,
            sigma=setting.sigma,
            tau=setting.tau,
            draws=setting.draws,
            generator=generator,
        )
        with torch.no_grad():
            found.append(defense(session.workspace.search.images[shard.start : shard.stop]).argmax(dim=1))
    return torch.cat(found)


@pytest.mark.parametrize("layer", ["penultimate", "layer2", "layer1"])
def test_cached_predictions_are_those_of_the_defended_model_on_the_same_noise(
    tmp_path: Path, layer: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("igd_ray.planning.workspace.MOST_SHARD_IMAGES", 64)
    changes = {"sigmas": (0.0, 0.5, 1.0), "taus": (0.01,), "draw_counts": (1, 2), "ks": "1,2"}
    with session_in(tmp_path / "results", layer=layer) as session:
        plan = plan_of(session, "random", **changes)
        assert len(plan.shards) == 3
        search(session, [plan])
        chance = torch.Generator().manual_seed(0)
        different = set()
        for _ in range(20):
            k = int(torch.randint(1, session.workspace.layer.width + 1, (1,), generator=chance))
            sigma, _tau, draws = plan.space.groups[int(torch.randint(5, (1,), generator=chance))]
            tau = float(10 ** (4 * torch.rand(1, generator=chance, dtype=torch.float64) - 3))
            setting = Setting(k, sigma, tau, draws)
            expected = defended(session, plan, setting)
            assert torch.equal(predictions(session, plan, setting), expected), setting
            different.add(tuple(expected.tolist()))
    assert len(different) > 10, "the settings hardly matter, so this compared nothing"


class Counted:
    """Counts the images that pass replicas of the model."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.counters: list[PassCounter] = []
        load = ModelSource.load

        def counting(source: ModelSource, device: str):
            model = load(source, device)
            self.counters.append(PassCounter(model.conv1))
            return model

        monkeypatch.setattr(ModelSource, "load", counting)

    @property
    def images(self) -> int:
        return sum(counter.forwards for counter in self.counters)


def test_three_sigmas_cost_one_clean_and_three_noisy_passes(session: Session, monkeypatch: pytest.MonkeyPatch) -> None:
    plan, counted = plan_of(session, **SPACE), Counted(monkeypatch)
    session.rank(plan.ranking)
    ranked = counted.images
    (result,) = search(session, [plan])
    assert len(result.trials) >= 6 * 6
    assert counted.images - ranked == (1 + 3) * 150
    # Another search over the same images costs none, whatever it tries.
    search(session, [plan_of(session, **{**SPACE, "taus": (0.1,), "sampler": "grid"})])
    assert counted.images - ranked == (1 + 3) * 150


def test_at_another_layer_trials_run_only_what_follows_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ran: list[int] = []
    suffix = SplitModel.suffix
    with session_in(tmp_path / "results", layer="layer2") as session:
        plan = plan_of(session, "random", tolerance=0.005)
        session.rank(plan.ranking)
        assert not session.run(plan.units, "cache").failed
        monkeypatch.setattr(SplitModel, "suffix", lambda *given, **named: ran.append(1) or suffix(*given, **named))
        (result,) = search(session, [plan])
    assert len(result.trials) > 3
    assert len(ran) == len(result.trials) * len(plan.shards)


def test_the_chosen_k_is_the_smallest_tried_within_the_tolerance(session: Session) -> None:
    (result,) = search(session, [plan_of(session)])
    assert result.chosen is not None
    least = result.base_clean_accuracy - 0.005
    k = result.chosen.setting.k
    assert isinstance(k, int)
    assert k == min(trial.setting.k for trial in result.trials if trial.measurement.accuracy >= least)
    assert k < session.workspace.layer.width / 2
    assert {k - 1, k - 2, k + 1} <= {0, -1, *(trial.setting.k for trial in result.trials)}, "its neighbours were tried"
    table = run_query(session.workspace.catalog, "SELECT k FROM trials WHERE chosen").to_pylist()
    assert table == [{"k": k}]


def test_of_several_sigmas_and_taus_the_smallest_k_is_chosen_and_all_are_kept(session: Session) -> None:
    (result,) = search(session, [plan_of(session, **SPACE)])
    assert result.chosen is not None
    rows = run_query(session.workspace.catalog, "SELECT * FROM search_settings").to_pylist()
    sigmas, taus = (0.0375, 0.075, 0.15), (0.01, 1.0)
    assert {(row["sigma"], row["tau"]) for row in rows} == {(sigma, tau) for sigma in sigmas for tau in taus}
    assert all(row["least_k"] == row["k"] <= row["safe_k"] for row in rows)
    best = min(rows, key=lambda row: (row["k"], -row["clean_accuracy"]))
    assert (best["k"], best["clean_accuracy"]) == (result.chosen.setting.k, result.chosen.measurement.accuracy)
    assert [row["chosen"] for row in rows].count(True) == 1


def test_the_front_of_both_objectives_is_kept(session: Session) -> None:
    search(session, [plan_of(session, **SPACE)])
    trials = run_query(
        session.workspace.catalog, "SELECT k, clean_accuracy AS accuracy, pareto FROM trials"
    ).to_pylist()
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
    "changes",
    [
        {"taus": (0.01, 1.0), "ks": "1:8"},
        {"sampler": "random", "trials": 9},
        {"k_mode": "per-class"},
    ],
    ids=["bisection", "random", "per-class"],
)
def test_killed_after_any_trial_it_runs_only_the_rest_and_chooses_the_same(
    tmp_path: Path, changes: dict[str, object], monkeypatch: pytest.MonkeyPatch
) -> None:
    with session_in(tmp_path / "whole") as session:
        plan = plan_of(session, **changes)
        (whole,) = search(session, [plan])
        source = load_objective(session.workspace.catalog, plan, session.workspace.source)
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


def test_no_class_loses_more_than_the_tolerance_where_each_has_its_own_k(session: Session) -> None:
    # By chance some classes need more neurons than others; the demo's own ranking keeps every class with one.
    plan = plan_of(session, "random", tolerance=0.02, k_mode="per-class")
    (result,) = search(session, [plan])
    assert result.chosen is not None
    ks = result.chosen.setting.k
    assert isinstance(ks, tuple)
    assert len(ks) == 10
    assert len(set(ks)) > 1
    labels = session.workspace.search.labels
    found = defended(session, plan, result.chosen.setting)
    with torch.no_grad():
        base = session.workspace.model(session.workspace.search.images).argmax(dim=1)
    for label in range(10):
        own = labels == label
        assert int((base[own] == label).sum()) - int((found[own] == label).sum()) <= 0.02 * int(own.sum())
    assert result.chosen.measurement.accuracy == int((found == labels).sum()) / 150


def test_an_evaluation_of_a_k_for_each_class_masks_each_with_its_own(session: Session) -> None:
    (result,) = search(session, [plan_of(session, tolerance=0.02, k_mode="per-class")])
    assert result.chosen is not None
    ks = result.chosen.setting.k
    assert isinstance(ks, tuple)
    defense = plan_evaluation(
        session.workspace.with_settings(evaluate_settings(session, result.search_id))
    ).needed.defenses[1]
    assert (defense.label, defense.k) == ("loir-per-class", None)
    scores = read_ranking(session.workspace.catalog, str(defense.ranking_id)).scores
    built = defense.build(session.workspace.model, torch.Generator(), scores=scores)
    assert torch.equal(built.masks, class_masks(scores, ks))
    other = replace(defense, arguments=(("class_k", ",".join(str(k) for k in (*ks[:-1], ks[-1] + 1))),))
    assert other.defense_id != defense.defense_id


def test_robust_accuracy_on_search_images_chooses_among_the_best(session: Session) -> None:
    changes = {"taus": (0.01, 1.0), "refine": 3, "refine_n": 24}
    (result,) = search(session, [plan_of(session, **changes)])
    assert result.chosen is not None
    assert len(result.robust_accuracy) == 3
    assert result.robust_accuracy[result.chosen.number] == max(result.robust_accuracy.values())
    stored = run_query(
        session.workspace.catalog, "SELECT trial, robust_accuracy FROM trials WHERE robust_accuracy IS NOT NULL"
    )
    assert {row["trial"]: row["robust_accuracy"] for row in stored.to_pylist()} == result.robust_accuracy
    rows = run_query(session.workspace.catalog, "SELECT image_id, defense, attack, status FROM outcomes").to_pylist()
    assert {row["attack"] for row in rows} == {"tr-apgd-ce", "apgd-ce-20"}
    # The test split is never touched.
    assert {row["image_id"] for row in rows} == set(session.workspace.search.ids[:24])
    lost: dict[str, set[str]] = {}
    for row in rows:
        lost.setdefault(row["defense"], set()).update({row["image_id"]} if row["status"] != "robust" else ())
    shares = [1 - len(images) / 24 for defense, images in lost.items() if defense != "none"]
    assert sorted(result.robust_accuracy.values()) == pytest.approx(sorted(shares))
    assert search(session, [plan_of(session, **changes)]) == [result]


def test_all_samplers_try_the_same_objective(session: Session) -> None:
    accuracies: dict[Setting, float] = {}
    tried = {}
    for sampler in ("bisection", "grid", "random"):
        (result,) = search(session, [plan_of(session, **SPACE, sampler=sampler)])
        tried[sampler] = [trial.setting for trial in result.trials]
        assert len(set(tried[sampler])) == len(tried[sampler])
        for trial in result.trials:
            assert accuracies.setdefault(trial.setting, trial.measurement.accuracy) == trial.measurement.accuracy
    assert len(tried["random"]) == 32
    assert {(each.k, each.sigma, each.tau) for each in tried["grid"]} == {
        (k, sigma, tau) for k in (1, 2, 4, 8, 16, 32, 64) for sigma in (0.0375, 0.075, 0.15) for tau in (0.01, 1.0)
    }


def test_a_second_search_computes_nothing_and_finds_the_same(session: Session) -> None:
    plan = plan_of(session)
    first = search(session, [plan])
    assert session.run(plan.units, "again").computed == 0
    assert search(session, [plan_of(session)]) == first
    assert run_query(session.workspace.catalog, "SELECT count(*) AS n FROM trials").to_pylist() == [
        {"n": len(first[0].trials)}
    ]


def test_search_and_probe_images_are_apart(session: Session) -> None:
    assert not set(session.workspace.probe.ids) & set(session.workspace.search.ids)
    assert not (set(session.workspace.probe.ids) | set(session.workspace.search.ids)) & set(session.workspace.test.ids)


def test_a_search_without_its_caches_is_an_error(session: Session) -> None:
    plan = plan_of(session)
    session.rank(plan.ranking)
    with pytest.raises(IncompleteError, match="lacks 2 of 2 units"):
        session.run_trials(plan)


def test_a_ranking_is_given_by_its_id_and_refused_where_it_is_of_another_model_or_layer(session: Session) -> None:
    (first,) = search(session, [plan_of(session)])
    stored = stored_ranking(session.workspace, plan_of(session).ranking.ranking_id)
    assert search(session, [plan_search(session.workspace, stored)]) == [first]
    with (
        session_in(session.workspace.catalog.root, layer="layer2") as other,
        pytest.raises(InputError, match="is of layer 'penul"),
    ):
        stored_ranking(other.workspace, stored.ranking_id)
    session.workspace.model_id = "0" * 32
    with pytest.raises(InputError, match="is of another model"):
        stored_ranking(session.workspace, stored.ranking_id)


def test_search_images_that_may_be_evaluated_are_refused(tmp_path: Path) -> None:
    with (
        session_in(tmp_path / "results", search_split="test") as session,
        pytest.raises(InputError, match="both come from the split 'test'"),
    ):
        plan_of(session)


def test_ks_outside_the_layer_and_classes_without_images_are_refused(tmp_path: Path) -> None:
    with session_in(tmp_path / "results", search_n=5) as session:
        with pytest.raises(InputError, match="k must lie in 1…64, the neurons of 'penultimate', not 65"):
            plan_of(session, ks="60:69")
        with pytest.raises(InputError, match="a k for each class needs search images of every class"):
            plan_of(session, k_mode="per-class")


def evaluate_settings(session: Session, *searches: str) -> EvaluateSettings:
    given = {
        "catalog": str(session.workspace.catalog.root),
        "n": 8,
        "attacks": "clean",
        "from_search": ",".join(searches),
    }
    return load_settings(EvaluateSettings, file=None, given=given)


def test_an_evaluation_uses_what_a_search_chose_and_says_on_what(session: Session) -> None:
    (result,) = search(session, [plan_of(session)])
    assert result.chosen is not None
    evaluation = plan_evaluation(session.workspace.with_settings(evaluate_settings(session, result.search_id)))
    assert [defense.label for defense in evaluation.needed.defenses] == ["none", f"loir-{result.chosen.setting.k}"]
    notes = " ".join(evaluation.notes)
    assert "loir: k chosen on 150 images of the split 'train'; the model has seen training images" in notes
    assert "loir: neurons ranked on 300 images" in notes


def test_a_search_of_another_model_is_refused_by_its_fingerprint(session: Session) -> None:
    (result,) = search(session, [plan_of(session)])
    session.workspace.model_id = "0" * 32
    with pytest.raises(InputError, match="is of another model"):
        plan_evaluation(session.workspace.with_settings(evaluate_settings(session, result.search_id)))


def test_two_defenses_of_one_name_are_refused_rather_than_one_dropped(session: Session) -> None:
    ids = []
    for sigma in (0.01, 0.05):
        given = {"catalog": str(session.workspace.catalog.root), "probe_n": 300, "search_n": 150, "sigma": sigma}
        with session_for(load_settings(SearchSettings, file=None, given=given)) as other:
            ids += [result.search_id for result in search(other, [plan_of(other, "random", tolerance=1.0)])]
    with pytest.raises(InputError, match=r"2 defenses are called random-1 \(σ = 0.01, .* and σ = 0.05"):
        plan_evaluation(session.workspace.with_settings(evaluate_settings(session, *ids)))


def test_searches_and_rankings_are_runs_with_progress(session: Session) -> None:
    search(session, [plan_of(session)])
    (row,) = run_query(session.workspace.catalog, "SELECT * FROM runs JOIN progress USING (run_id)").to_pylist()
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
    with pytest.raises(InputError, match=message):
        _ = Workspace(settings).probe
