"""The search for k on cached activations beside evaluating the defended model anew for every trial."""

from collections.abc import Sequence
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from igd_ray.benchmarks.alternating import CountedImages, alternate, comparison
from igd_ray.config import SearchSettings
from igd_ray.defenses import InterpretabilityGuidedDefense, class_masks
from igd_ray.execution.executor import in_process
from igd_ray.execution.session import Session, require_all
from igd_ray.planning.search import SearchPlan, plan_searches
from igd_ray.planning.workspace import Workspace
from igd_ray.search import Trial
from igd_ray.units.ranking import read_ranking

IMAGES_AT_ONCE = 256


def bench_search(settings: SearchSettings, folder: Path, rounds: int) -> list[dict[str, object]]:
    """Search k without noise, in catalogs in `folder`, and repeat the trials by whole forward passes.

    Without noise a trial has one answer. Both sides have their ranking already.

    Returns:
        one row of `what`, `alternative`, `trials`, `images`, the columns of `comparison`, `passes` and
        `alternative_passes`, in passes over the search images through the whole model, and `largest_difference` of
        the trials' clean accuracies.
    """

    def prepared(name: str) -> tuple[Workspace[SearchSettings], SearchPlan]:
        workspace = Workspace(settings.model_copy(update={"catalog": str(folder / name)}))
        (plan,) = plan_searches(workspace)
        with Session(workspace, in_process("auto")) as session:
            session.rank(plan.mask_ranking)
        return workspace, plan

    def search(workspace: Workspace[SearchSettings], plan: SearchPlan) -> list[Trial]:
        with Session(workspace, in_process("auto")) as session:
            require_all(session.run(plan.units, "cache"), "search")
            return session.run_trials(plan)

    # Each round starts from a catalog that holds the ranking and nothing else.
    workspace, plan = prepared("first")
    trials = search(workspace, plan)
    rounds_to_come = [prepared(f"{number}") for number in range(rounds)]
    scores = read_ranking(workspace.catalog, plan.mask_ranking.ranking_id).scores
    anew = partial(accuracies, workspace, scores, trials)
    with CountedImages(workspace.model) as counted:
        found = anew()
    differences = [abs(trial.measurement.accuracy - other) for trial, other in zip(trials, found, strict=True)]
    ours, other = alternate(lambda: search(*rounds_to_come.pop()), anew, rounds=rounds)
    return [
        {
            "what": "search for k",
            "alternative": "the defended model anew per trial",
            "trials": len(trials),
            "images": len(workspace.search),
            **comparison(ours, other),
            "passes": 1.0,
            "alternative_passes": counted.images / len(workspace.search),
            "largest_difference": max(differences),
        }
    ]


def accuracies(workspace: Workspace[SearchSettings], scores: Tensor, trials: Sequence[Trial]) -> list[float]:
    """Return the clean accuracy of each trial's defense by whole forward passes, as fractions."""
    found = []
    for trial in trials:
        assert isinstance(trial.setting.k, int), "one k for all classes"
        masks = class_masks(scores, trial.setting.k)
        defense = InterpretabilityGuidedDefense(workspace.model, masks, layer=workspace.layer.name, sigma=0.0)
        right = 0
        with torch.no_grad():
            for images, labels in workspace.search.batches(IMAGES_AT_ONCE):
                right += int((defense(images).argmax(dim=1) == labels).sum())
        found.append(right / len(workspace.search))
    return found
