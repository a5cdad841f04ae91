"""What the verbs do, from settings to rows: rank, search, evaluate."""

from collections.abc import Sequence
from dataclasses import dataclass

from igd_ray.attacks.registry import NamedAttack, expand_attacks, parse_attack
from igd_ray.config import EvaluateSettings, StudySettings
from igd_ray.defenses.specs import DefenseSpec
from igd_ray.execution.run import RunSummary, require_all
from igd_ray.identity import unit_key
from igd_ray.planning.base_attacks import BaseAttacks
from igd_ray.planning.defenses import Resolved, resolve_defenses
from igd_ray.planning.evaluation import (
    EvaluationPlan,
    commit_comparisons,
    naive_units,
    plan_evaluation,
    run_rows,
    run_unit,
)
from igd_ray.planning.rankings import RankingPlan
from igd_ray.planning.record import commit_run
from igd_ray.planning.refinement import Refinement, commit_refinement, plan_refinement, robust_accuracies
from igd_ray.planning.search import SearchOptions, SearchPlan, SearchResult, finish_search
from igd_ray.planning.training import SodefPlan
from igd_ray.planning.workspace import Study
from igd_ray.protocol import NOT_MEASURED
from igd_ray.search import Measurement, Setting, Trial, best_trials
from igd_ray.units.base import Shard, Unit, shards_of
from igd_ray.units.inspection import INSPECTED_IMAGES
from igd_ray.units.judged import JudgedUnit
from igd_ray.units.ranking import read_ranking

# Images a unit of the second stage of a search: attacks work on a unit as one batch.
REFINED_SHARD_IMAGES = 32


def rank(study: Study, settings: StudySettings, plans: Sequence[RankingPlan]) -> None:
    """Compute the rankings of `plans`."""
    units = [unit for plan in plans for unit in plan.units]
    study.prepare(units)
    _record(study, settings, "rank", [plan.ranking_id for plan in plans], units)
    for plan in plans:
        study.rank(plan)


def train(study: Study, settings: StudySettings, plan: SodefPlan) -> None:
    """Train what a defense needs."""
    study.prepare(plan.units)
    _record(study, settings, "train", [plan.training_id], plan.units)
    study.train(plan)


def plan_searches(
    study: Study, methods: Sequence[str], *, tolerance: float, options: SearchOptions | None = None
) -> list[SearchPlan]:
    """Plan a search with the rankings by `methods`."""
    return [study.plan_search(study.plan_ranking(method), tolerance=tolerance, options=options) for method in methods]


def search(study: Study, settings: StudySettings, plans: Sequence[SearchPlan]) -> list[SearchResult]:
    """Search with each ranking; a ranking that is not there is computed first."""
    units = [unit for plan in plans for unit in [*plan.ranking.units, *plan.units]]
    study.prepare(units)
    _record(study, settings, "search", [plan.search_id for plan in plans], units)
    results = []
    for plan in plans:
        study.rank(plan.ranking)
        require_all(study.run(plan.units, f"cache {plan.ranking.method}"), "search")
        trials = study.run_trials(plan)
        attacked = best_trials(trials)[: plan.options.refine]
        robust_accuracy = _refine(study, settings, plan, attacked) if attacked else {}
        results.append(finish_search(study.catalog, plan, trials, robust_accuracy))
    return results


def refinement_of(study: Study, settings: StudySettings, plan: SearchPlan, trials: Sequence[Trial]) -> Refinement:
    """Plan the attacks on the settings of `trials`; the test split is not touched."""
    images = study.search.select(slice(0, plan.options.refine_n))
    shards = shards_of("search", images, REFINED_SHARD_IMAGES)
    return plan_refinement(plan, trials, shards, settings.threat, base_is_random=study.model_is_random)


def most_refinement(study: Study, settings: StudySettings, plan: SearchPlan) -> list[Unit]:
    """Return as many units as the second stage takes at most, on other settings than those that will be the best."""
    nothing = Measurement((), (), (), ())
    ladder = [Setting(k, *group) for group in plan.space.groups for k in plan.space.ks][: plan.options.refine]
    trials = [Trial(number, setting, nothing, True, 0.0) for number, setting in enumerate(ladder)]
    return refinement_of(study, settings, plan, trials).plan.units if trials else []


def _refine(study: Study, settings: StudySettings, plan: SearchPlan, trials: Sequence[Trial]) -> dict[int, float]:
    refinement = refinement_of(study, settings, plan, trials)
    rows = run_rows(refinement.plan, ())
    commit_run(study, settings, run_id=refinement.plan.run_id, verb="refine", units=rows)
    require_all(study.run(refinement.plan.units, f"refine {plan.ranking.method}"), "refinement")
    robust_accuracy = robust_accuracies(study.catalog, refinement)
    images = min(plan.options.refine_n, len(plan.labels))
    commit_refinement(study.catalog, plan, refinement, robust_accuracy, images)
    return robust_accuracy


@dataclass(frozen=True)
class Evaluation:
    """An evaluation, its defenses with what they need first, and what is to be said of it.

    Attributes:
        plan: what it computes.
        resolved: its defenses.
        naive: what separate runs would compute.
        notes: for the report.
    """

    plan: EvaluationPlan
    resolved: Resolved
    naive: list[JudgedUnit]
    notes: tuple[str, ...]


def plan_evaluation_of(study: Study, settings: EvaluateSettings) -> Evaluation:
    """Resolve labels, searches and rankings, and plan the evaluation.

    Raises:
        InputError: for anything that cannot be used, before work starts.
    """
    attacks = [parse_attack(label) for label in expand_attacks(settings.attacks)]
    base = BaseAttacks(
        study.model_id,
        len(study.class_names),
        study.model_is_random,
        settings.threat,
        settings.seed,
        settings.attack_seed,
        settings.judge_draws,
    )
    for attack in attacks:
        if (fitted := base.fitted(attack.algorithm)) is not None:
            fitted.check(base.num_classes, settings.threat.norm)
    notes = [f"evaluated on the first {len(study.test)} images of the split {settings.split!r}"]
    resolved = resolve_defenses(study, settings)
    shards = study.test_shards(settings.shard_size)
    plan = plan_evaluation(
        resolved.defenses,
        attacks,
        shards,
        base=base,
        inspected=Shard.of("test", study.test, 0, min(INSPECTED_IMAGES, len(study.test))),
        judge_draws=settings.judge_draws,
        mode=settings.mode,
        save_points=settings.save_points,
    )
    naive = naive_units(resolved.defenses, attacks, shards, base=base, judge_draws=settings.judge_draws)
    notes += [*resolved.notes, *protocol_notes(resolved.defenses, attacks), *plan.notes]
    return Evaluation(plan, resolved, naive, tuple(dict.fromkeys(notes)))


def evaluate(study: Study, settings: EvaluateSettings, evaluation: Evaluation) -> RunSummary:
    """Run an evaluation; when every unit is done, compare its attacks with each other.

    The run and its units are committed before anything is computed, so that what is unfinished shows.
    """
    plan = evaluation.plan
    resolved = evaluation.resolved
    study.prepare([*resolved.preparations, *plan.units])
    commit_run(
        study,
        settings,
        run_id=plan.run_id,
        verb="evaluate",
        units=run_rows(plan, resolved.preparations),
        notes=evaluation.notes,
    )
    for ranking in resolved.rankings.values():
        study.rank(ranking)
    if resolved.training is not None:
        study.train(resolved.training)
    for ranking_id in {defense.ranking_id for defense in resolved.defenses if defense.ranking_id}:
        # A damaged ranking is told here, once, rather than by every unit.
        read_ranking(study.catalog, ranking_id)
    summary = study.run(plan.units, "evaluate")
    if not summary.failed:
        commit_comparisons(study.catalog, plan, model=study.source.label)
    return summary


def protocol_notes(defenses: Sequence[DefenseSpec], attacks: Sequence[NamedAttack]) -> list[str]:
    """Say what the choice of attacks leaves open."""
    randomised = [defense.label for defense in defenses if defense.is_random]
    labels = {attack.label for attack in attacks}
    if not randomised or "aa" not in labels or labels & {"aa-rand", "apgd-eot"}:
        return []
    return [
        f"{NOT_MEASURED}gradients averaged over the noise of randomised defenses ({', '.join(randomised)}); "
        "AutoAttack standard is made for deterministic ones, apgd-eot for these"
    ]


def _record(study: Study, settings: StudySettings, verb: str, ids: Sequence[str], units: Sequence[Unit]) -> None:
    run_id = unit_key("run", verb=verb, of=list(ids))[:12]
    rows = [run_unit(run_id, unit, None, None) for unit in {unit.key: unit for unit in units}.values()]
    commit_run(study, settings, run_id=run_id, verb=verb, units=rows)
