"""The engine beside pyautoattack: image-steps a second at equal budgets, and time until the same verdicts."""

from collections.abc import Mapping
from functools import partial
from statistics import median

import torch

from igd_ray.attacks import APGD, Attack, AttackResult, Square, TargetedAPGD
from igd_ray.attacks.base import POOLED, PYAUTOATTACK, QUERY
from igd_ray.benchmarks.alternating import alternate, comparison
from igd_ray.config import EvaluateSettings
from igd_ray.planning.workspace import Workspace

# Short budgets: a step costs what it costs in a long run.
ATTACKS: Mapping[str, Attack] = {
    "apgd-ce-20": APGD("ce", steps=20),
    "apgd-t-10": TargetedAPGD(steps=10),
    "apgd-ce-5, EoT 20": APGD("ce", steps=5, eot=20),
    "square-200": Square(200),
}
IMAGES = 25


def bench_attacks(workspace: Workspace[EvaluateSettings], rounds: int) -> list[dict[str, object]]:
    """Attack the base model's first images by the engine and by pyautoattack, by turns, in one process and thread.

    Returns:
        two rows for each of `ATTACKS`: every run of the engine to its end, and images that leave once they are
        broken. Columns: `attack`, `until`, `images`, those of `comparison`, `passes` and `alternative_passes`
        (gradients; queries of Square), `passes_per_second` and `alternative_passes_per_second`, `pace`, their
        ratio, and `other_verdicts`, the images on which the two disagree.
    """
    images, labels = next(iter(workspace.test.batches(len(workspace.test))))
    model = workspace.model.eval()

    def run(attack: Attack) -> AttackResult:
        return attack(
            model, images, labels, threat=workspace.settings.threat, generator=torch.Generator().manual_seed(0)
        )

    rows = []
    for label, attack in ATTACKS.items():
        pooled = attack.on_engine(POOLED)
        # EoT of a deterministic model would be one gradient a step, which is not what is to be measured.
        leaving = pooled.collapsed() if attack.eot == 1 else pooled
        for until, ours in (("the end", pooled), ("broken", leaving)):
            if until == "broken" and ours.settings == pooled.settings:
                continue
            mine, theirs = alternate(partial(run, ours), partial(run, attack.on_engine(PYAUTOATTACK)), rounds=rounds)
            passes, other_passes = (_passes(attack, taken.answer) for taken in (mine, theirs))
            pace, other_pace = passes / median(mine.seconds), other_passes / median(theirs.seconds)
            rows.append(
                {
                    "attack": label,
                    "until": until,
                    "images": len(images),
                    **comparison(mine, theirs),
                    "passes": passes,
                    "alternative_passes": other_passes,
                    "passes_per_second": round(pace, 1),
                    "alternative_passes_per_second": round(other_pace, 1),
                    "pace": round(pace / other_pace, 2),
                    "other_verdicts": _other_verdicts(mine.answer, theirs.answer),
                }
            )
    return rows


def _passes(attack: Attack, result: object) -> int:
    """Return the gradients that an attack has taken; its queries where it takes none."""
    assert isinstance(result, AttackResult)
    return int((result.queries if attack.ways == {QUERY} else result.backwards).sum())


def _other_verdicts(first: object, second: object) -> int:
    assert isinstance(first, AttackResult)
    assert isinstance(second, AttackResult)
    return int((first.broken != second.broken).sum())
