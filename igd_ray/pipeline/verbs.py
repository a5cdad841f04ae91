"""What the verbs do, from settings to rows: rank, search, evaluate."""

from collections.abc import Sequence
from dataclasses import dataclass

from igd_ray.attacks.registry import AttackLabel, parse_attack
from igd_ray.config import EvaluateSettings
from igd_ray.defenses.specs import NONE, DefenseSpec, parse_defense
from igd_ray.errors import InputError
from igd_ray.pipeline.evaluate import EvaluationPlan, commit_comparisons, commit_run, plan_evaluation
from igd_ray.pipeline.inspect_units import INSPECTED_IMAGES
from igd_ray.pipeline.rank import RankingPlan
from igd_ray.pipeline.run import RunSummary, require_all
from igd_ray.pipeline.search import SearchPlan, SearchResult, read_search, run_search
from igd_ray.pipeline.study import Study
from igd_ray.pipeline.unit import Shard
from igd_ray.report.evaluation import NOT_MEASURED


def rank(study: Study, methods: Sequence[str]) -> list[RankingPlan]:
    """Compute the rankings by `methods`, and return them."""
    plans = [study.plan_ranking(method) for method in methods]
    for plan in plans:
        study.rank(plan)
    return plans


def plan_searches(study: Study, methods: Sequence[str], *, tolerance: float) -> list[SearchPlan]:
    """Plan the search for k with the rankings by `methods`."""
    return [study.plan_search(study.plan_ranking(method), tolerance=tolerance) for method in methods]


def search(study: Study, plans: Sequence[SearchPlan]) -> list[SearchResult]:
    """Search for k with each ranking; a ranking that is not there is computed first."""
    results = []
    for plan in plans:
        study.rank(plan.ranking)
        require_all(study.run(plan.units, f"cache {plan.ranking.method}"), "search")
        results.append(run_search(study.catalog, plan, study.model))
    return results


@dataclass(frozen=True)
class Evaluation:
    """An evaluation and the rankings that its defenses need."""

    plan: EvaluationPlan
    rankings: tuple[RankingPlan, ...]
    defenses: tuple[DefenseSpec, ...]
    attacks: tuple[AttackLabel, ...]


def plan_evaluation_of(study: Study, settings: EvaluateSettings) -> Evaluation:
    """Resolve labels, searches and rankings, and plan the evaluation.

    Raises:
        InputError: for anything that cannot be used, before work starts.
    """
    attacks = [parse_attack(label) for label in dict.fromkeys(settings.attacks)]
    for attack in attacks:
        if attack.attack is not None:
            attack.attack.check(len(study.class_names))
    given = {_method_of(study, ranking_id): ranking_id for ranking_id in settings.ranking}
    rankings: dict[str, RankingPlan] = {}
    defenses: dict[str, DefenseSpec] = {}
    for label in settings.defenses:
        parsed = parse_defense(label)
        if parsed.method is None or parsed.k is None:
            defenses[label] = DefenseSpec(NONE, study.model_id)
            continue
        if not 1 <= parsed.k <= study.layer.width:
            raise InputError(
                f"{label}: k must lie in 1…{study.layer.width}, the neurons of {study.layer.name!r}, not {parsed.k}"
            )
        if parsed.method not in given and parsed.method not in rankings:
            rankings[parsed.method] = study.plan_ranking(parsed.method)
        ranking_id = given.get(parsed.method) or rankings[parsed.method].ranking_id
        defenses[label] = DefenseSpec(
            label=label,
            model_id=study.model_id,
            k=parsed.k,
            sigma=settings.noise,
            tau=settings.tau,
            draws=settings.draws if settings.noise else 1,
            layer=study.layer,
            ranking_id=ranking_id,
        )
    for search_id in settings.from_search:
        found = defense_from_search(study, search_id)
        defenses[found.label] = found
    plan = plan_evaluation(
        list(defenses.values()),
        attacks,
        study.test_shards(settings.shard_size),
        inspected=Shard.of("test", study.test, 0, min(INSPECTED_IMAGES, len(study.test))),
        threat=settings.threat,
        seed=settings.seed,
        attack_seed=settings.attack_seed,
        judge_draws=settings.judge_draws,
    )
    return Evaluation(plan, tuple(rankings.values()), tuple(defenses.values()), tuple(attacks))


def evaluate(study: Study, settings: EvaluateSettings, evaluation: Evaluation) -> RunSummary:
    """Run an evaluation; when every unit is done, compare its attacks with each other.

    The run and its units are committed before it starts, so that what is unfinished shows.
    """
    for ranking in evaluation.rankings:
        study.rank(ranking)
    study.catalog.create()
    plan = evaluation.plan
    commit_run(
        study.catalog,
        plan,
        model=study.source.label,
        model_id=study.model_id,
        dataset=settings.data,
        split=settings.split,
        images=len(study.test),
        threat=settings.threat,
        seed=settings.seed,
        config=settings.model_dump(mode="json", exclude={"catalog", "executor", "actors", "device"}),
        notes=[*study.split_notes(), *protocol_notes(evaluation)],
    )
    summary = study.run(plan.units, "evaluate")
    if not summary.failed:
        commit_comparisons(study.catalog, plan, model=study.source.label)
    return summary


def protocol_notes(evaluation: Evaluation) -> list[str]:
    """Say what the evaluation leaves open."""
    notes = []
    randomised = [defense.label for defense in evaluation.defenses if defense.is_random]
    labels = {attack.label for attack in evaluation.attacks}
    if randomised and "aa" in labels and not labels & {"aa-rand", "apgd-eot"}:
        notes.append(
            f"{NOT_MEASURED}gradients averaged over the noise of randomised defenses ({', '.join(randomised)}); "
            "AutoAttack standard is made for deterministic ones, apgd-eot for these"
        )
    return notes


def defense_from_search(study: Study, search_id: str) -> DefenseSpec:
    """Return the defense that a finished search chose.

    Raises:
        InputError: if there is no such search, or it is of another model or layer.
    """
    row = read_search(study.catalog, search_id)
    if row["model_id"] != study.model_id:
        raise InputError(f"search {search_id} is of another model ({row['model']}) than {study.source.label}")
    if row["layer"] != study.layer.name:
        raise InputError(f"search {search_id} is of layer {row['layer']!r}, not {study.layer.name!r}; pass --layer")
    return DefenseSpec(
        label=f"{row['method']}-{row['k']}",
        model_id=study.model_id,
        k=int(str(row["k"])),
        sigma=float(str(row["sigma"])),
        tau=float(str(row["tau"])),
        draws=int(str(row["draws"])),
        layer=study.layer,
        ranking_id=str(row["ranking_id"]),
    )


def _method_of(study: Study, ranking_id: str) -> str:
    """Return the method of a committed ranking, after checking that it fits this model and layer."""
    row = study.catalog.read("rankings", ranking_id).slice(0, 1).to_pylist()[0]
    if row["model_id"] != study.model_id:
        raise InputError(f"ranking {ranking_id} is of another model ({row['model']}) than {study.source.label}")
    if row["layer"] != study.layer.name:
        raise InputError(f"ranking {ranking_id} is of layer {row['layer']!r}, not {study.layer.name!r}; pass --layer")
    return str(row["method"])
