"""What the verbs do, from settings to rows: rank, search, evaluate."""

from collections.abc import Sequence
from dataclasses import dataclass

from igd_ray.attacks.registry import AttackLabel, parse_attack
from igd_ray.config import EvaluateSettings, StudySettings
from igd_ray.defenses.specs import NONE, DefenseSpec, parse_defense
from igd_ray.errors import InputError
from igd_ray.identity import unit_key
from igd_ray.pipeline.evaluate import EvaluationPlan, commit_comparisons, plan_evaluation, run_rows, run_unit
from igd_ray.pipeline.inspect_units import INSPECTED_IMAGES
from igd_ray.pipeline.rank import RankingPlan, read_ranking
from igd_ray.pipeline.record import commit_run
from igd_ray.pipeline.run import RunSummary, require_all
from igd_ray.pipeline.search import SearchPlan, SearchResult, read_search, run_search
from igd_ray.pipeline.study import TRAIN, Study
from igd_ray.pipeline.threads import reproducible
from igd_ray.pipeline.unit import Shard, Unit
from igd_ray.report.evaluation import NOT_MEASURED


def rank(study: Study, settings: StudySettings, plans: Sequence[RankingPlan]) -> None:
    """Compute the rankings of `plans`."""
    units = [unit for plan in plans for unit in plan.units]
    study.prepare(units)
    _record(study, settings, "rank", [plan.ranking_id for plan in plans], units)
    for plan in plans:
        study.rank(plan)


def plan_searches(study: Study, methods: Sequence[str], *, tolerance: float) -> list[SearchPlan]:
    """Plan the search for k with the rankings by `methods`."""
    return [study.plan_search(study.plan_ranking(method), tolerance=tolerance) for method in methods]


def search(study: Study, settings: StudySettings, plans: Sequence[SearchPlan]) -> list[SearchResult]:
    """Search for k with each ranking; a ranking that is not there is computed first."""
    units = [unit for plan in plans for unit in [*plan.ranking.units, *plan.units]]
    study.prepare(units)
    _record(study, settings, "search", [plan.search_id for plan in plans], units)
    results = []
    for plan in plans:
        study.rank(plan.ranking)
        require_all(study.run(plan.units, f"cache {plan.ranking.method}"), "search")
        with reproducible():
            results.append(run_search(study.catalog, plan, study.model))
    return results


@dataclass(frozen=True)
class Evaluation:
    """An evaluation, the rankings that its defenses need, and what is to be said of it."""

    plan: EvaluationPlan
    rankings: tuple[RankingPlan, ...]
    defenses: tuple[DefenseSpec, ...]
    notes: tuple[str, ...]


def plan_evaluation_of(study: Study, settings: EvaluateSettings) -> Evaluation:
    """Resolve labels, searches and rankings, and plan the evaluation.

    Raises:
        InputError: for anything that cannot be used, before work starts.
    """
    attacks = [parse_attack(label) for label in dict.fromkeys(settings.attacks)]
    for attack in attacks:
        if attack.attack is not None:
            attack.attack.check(len(study.class_names))
    notes = [f"evaluated on the first {len(study.test)} images of the split {settings.split!r}"]
    given = _given_rankings(study, settings, notes)
    rankings: dict[str, RankingPlan] = {}
    defenses: list[DefenseSpec] = []
    for label in dict.fromkeys(settings.defenses):
        parsed = parse_defense(label)
        if parsed.method is None or parsed.k is None:
            defenses.append(DefenseSpec(NONE, study.model_id))
            continue
        if not 1 <= parsed.k <= study.layer.width:
            raise InputError(
                f"{label}: k must lie in 1…{study.layer.width}, the neurons of {study.layer.name!r}, not {parsed.k}"
            )
        if parsed.method not in given and parsed.method not in rankings:
            rankings[parsed.method] = study.plan_ranking(parsed.method)
            if parsed.method != "random":
                notes.append(f"{parsed.method}: neurons ranked on {len(study.probe)} images of the split {TRAIN!r}")
        defenses.append(
            DefenseSpec(
                label=label,
                model_id=study.model_id,
                k=parsed.k,
                sigma=settings.noise,
                tau=settings.tau,
                draws=settings.draws if settings.noise else 1,
                layer=study.layer,
                ranking_id=given.get(parsed.method) or rankings[parsed.method].ranking_id,
            )
        )
    defenses += [_defense_from_search(study, search_id, notes) for search_id in settings.from_search]
    defenses = list({defense.defense_id: defense for defense in defenses}.values())
    for label in {defense.label for defense in defenses}:
        same = [defense for defense in defenses if defense.label == label]
        if len(same) > 1:
            settings_of = " and ".join(f"σ = {one.sigma:g}, τ = {one.tau:g}, draws = {one.draws}" for one in same)
            raise InputError(f"{len(same)} defenses are called {label} ({settings_of}); evaluate them in separate runs")
    plan = plan_evaluation(
        defenses,
        attacks,
        study.test_shards(settings.shard_size),
        inspected=Shard.of("test", study.test, 0, min(INSPECTED_IMAGES, len(study.test))),
        threat=settings.threat,
        seed=settings.seed,
        attack_seed=settings.attack_seed,
        judge_draws=settings.judge_draws,
    )
    notes += protocol_notes(defenses, attacks)
    return Evaluation(plan, tuple(rankings.values()), tuple(defenses), tuple(dict.fromkeys(notes)))


def evaluate(study: Study, settings: EvaluateSettings, evaluation: Evaluation) -> RunSummary:
    """Run an evaluation; when every unit is done, compare its attacks with each other.

    The run and its units are committed before anything is computed, so that what is unfinished shows.
    """
    plan = evaluation.plan
    study.prepare([*(unit for ranking in evaluation.rankings for unit in ranking.units), *plan.units])
    commit_run(
        study,
        settings,
        run_id=plan.run_id,
        verb="evaluate",
        units=run_rows(plan, evaluation.rankings),
        notes=evaluation.notes,
    )
    for ranking in evaluation.rankings:
        study.rank(ranking)
    for ranking_id in {defense.ranking_id for defense in evaluation.defenses if defense.ranking_id}:
        # A damaged ranking is told here, once, rather than by every unit.
        read_ranking(study.catalog, ranking_id)
    summary = study.run(plan.units, "evaluate")
    if not summary.failed:
        commit_comparisons(study.catalog, plan, model=study.source.label)
    return summary


def protocol_notes(defenses: Sequence[DefenseSpec], attacks: Sequence[AttackLabel]) -> list[str]:
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


def _given_rankings(study: Study, settings: EvaluateSettings, notes: list[str]) -> dict[str, str]:
    """Return the rankings given by id, by method, after checking that they fit this model and layer and are used."""
    given: dict[str, str] = {}
    used = {parse_defense(label).method for label in settings.defenses}
    for ranking_id in dict.fromkeys(settings.ranking):
        row = study.catalog.read("rankings", ranking_id).slice(0, 1).to_pylist()[0]
        method = str(row["method"])
        _require_fit(study, f"ranking {ranking_id}", row)
        if method in given:
            raise InputError(f"--ranking gives two {method} rankings; evaluate them in separate runs")
        if method not in used:
            raise InputError(f"--ranking {ranking_id} is a {method} ranking, which no defense uses; add {method}-K")
        given[method] = ranking_id
        notes.append(f"{method}: neurons ranked on {row['probe_images']} images of {row['dataset']}")
    return given


def _defense_from_search(study: Study, search_id: str, notes: list[str]) -> DefenseSpec:
    """Return the defense that a finished search chose, after checking that it fits this model and layer."""
    row = read_search(study.catalog, search_id)
    _require_fit(study, f"search {search_id}", row)
    same_split = row["split"] == study.settings.split
    flattered = "the model has seen training images" if row["split"] == TRAIN else "they may be evaluated, too"
    tail = f"; {flattered}, which flatters clean accuracy on them" if same_split or row["split"] == TRAIN else ""
    notes.append(f"{row['method']}: k chosen on {row['n']} images of the split {row['split']!r}{tail}")
    ranking = study.catalog.read("rankings", str(row["ranking_id"])).slice(0, 1).to_pylist()[0]
    notes.append(f"{row['method']}: neurons ranked on {ranking['probe_images']} images of {ranking['dataset']}")
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


def _require_fit(study: Study, what: str, row: dict[str, object]) -> None:
    if row["model_id"] != study.model_id:
        raise InputError(f"{what} is of another model ({row['model']}) than {study.source.label}")
    if row["layer"] != study.layer.name:
        raise InputError(f"{what} is of layer {row['layer']!r}, not {study.layer.name!r}; pass --layer")
