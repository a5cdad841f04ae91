"""The second stage of a search: the best settings are attacked on search images, and robust accuracy chooses."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from igd_ray.attacks.registry import parse_attack
from igd_ray.catalog import Catalog
from igd_ray.config import SearchSettings
from igd_ray.planning.attack_units import BaseAttacks
from igd_ray.planning.evaluation import EvaluationPlan, plan_attacks
from igd_ray.planning.search import SearchPlan
from igd_ray.planning.workspace import Workspace
from igd_ray.search import Measurement, Setting, Trial
from igd_ray.units.base import Unit, shards_of

# Cheap beside a published protocol, and of both kinds: points of the base model, and gradients through the defense.
ATTACKS = ("tr-apgd-ce", "apgd-ce-20")

# Images of a unit: attacks work on a unit as one batch.
REFINED_SHARD_IMAGES = 32


@dataclass(frozen=True)
class Refinement:
    """What attacks the best settings.

    Attributes:
        plan: one defense a setting.
        labels: the defense's label in it, by the number of its trial.
    """

    plan: EvaluationPlan
    labels: dict[int, str]


def plan_refinement(workspace: Workspace[SearchSettings], plan: SearchPlan, trials: Sequence[Trial]) -> Refinement:
    """Plan the attacks on the settings of `trials`, on search images; the evaluated split is not touched."""
    images = workspace.search.select(slice(0, plan.settings.refine_n))
    shards = shards_of("search", images, REFINED_SHARD_IMAGES)
    labels = {trial.number: _label(plan, trial.setting) for trial in trials}
    defenses = [plan.defense(trial.setting, labels[trial.number]) for trial in trials]
    attacks = [parse_attack(label) for label in ATTACKS]
    base = BaseAttacks(
        plan.base.model_id,
        len(plan.base.class_names),
        workspace.model_is_random,
        plan.settings.threat,
        plan.settings.seed,
    )
    evaluation = plan_attacks(defenses, attacks, shards, base=base, inspected=shards[0])
    return Refinement(replace(evaluation, inspections=()), labels)


def most_refinement(workspace: Workspace[SearchSettings], plan: SearchPlan) -> list[Unit]:
    """Return as many units as a refinement takes at most, on other settings than those that will be the best."""
    nothing = Measurement((), (), (), ())
    ladder = [Setting(k, *group) for group in plan.space.groups for k in plan.space.ks][: plan.settings.refine]
    trials = [Trial(number, setting, nothing, True, 0.0) for number, setting in enumerate(ladder)]
    return plan_refinement(workspace, plan, trials).plan.units if trials else []


def robust_accuracies(catalog: Catalog, refinement: Refinement) -> dict[int, float]:
    """Return, by number of trial, the share of images that every attack left robust; all units must be done."""
    return {number: _robust_share(catalog, refinement.plan, label) for number, label in refinement.labels.items()}


def commit_refinement(
    catalog: Catalog, plan: SearchPlan, refinement: Refinement, robust_accuracy: dict[int, float]
) -> None:
    """Commit what the attacks left, one row per setting."""
    rows = [
        {
            "search_id": plan.search_id,
            "trial": number,
            "run_id": refinement.plan.run_id,
            "attacks": list(ATTACKS),
            "n": min(plan.settings.refine_n, len(plan.labels)),
            "robust_accuracy": robust_accuracy[number],
        }
        for number in refinement.labels
    ]
    catalog.commit("refinements", plan.search_id, rows)


def _robust_share(catalog: Catalog, plan: EvaluationPlan, label: str) -> float:
    statuses: dict[str, set[str]] = {}
    for cell in plan.cells:
        if cell.defense == label:
            table = catalog.read("outcomes", cell.unit.key)
            for image, status in zip(table["image_id"].to_pylist(), table["status"].to_pylist(), strict=True):
                statuses.setdefault(image, set()).add(status)
    return sum(found == {"robust"} for found in statuses.values()) / len(statuses)


def _label(plan: SearchPlan, setting: Setting) -> str:
    values = plan.columns(setting)
    k = "per-class" if values["k"] is None else values["k"]
    named = {"sigma": f"σ={setting.sigma:.4g}", "tau": f"τ={setting.tau:g}", "draws": f"m={setting.draws}"}
    return " ".join([f"{plan.method}-{k}", *(text for name, text in named.items() if values[name] is not None)])
