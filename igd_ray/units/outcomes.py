"""What an attack did to each image of a shard, and what it cost, as rows of the table `outcomes`."""

import json
from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor, nn

from igd_ray.attacks.base import even_shares
from igd_ray.attacks.counting import CountedTarget
from igd_ray.attacks.registry import NamedAttack
from igd_ray.threat import ThreatModel
from igd_ray.units.base import Rows, host_name
from igd_ray.units.judged import JudgedPoints, Judging
from igd_ray.units.replica import Context

TABLE = "outcomes"


class Attacking(Judging, Protocol):
    """A unit whose points attack a defense."""

    @property
    def attack(self) -> NamedAttack:
        """The attack, under the label for its rows."""
        ...

    @property
    def threat(self) -> ThreatModel:
        """The bounds."""
        ...


class Tally:
    """What each image of a shard cost: queries, forward and backward passes."""

    def __init__(self, target: nn.Module, images: Tensor) -> None:
        self.counted = CountedTarget(target)
        self._shared = (0, 0, 0)
        self.queries, self.forwards, self.backwards = (
            torch.zeros(len(images), dtype=torch.int64, device=images.device) for _ in range(3)
        )

    def add(self, rows: Tensor, counts: Sequence[Tensor]) -> None:
        """Add what an attack says of the images in `rows`."""
        for total, count in zip((self.queries, self.forwards, self.backwards), counts, strict=True):
            total[rows] += count

    def share(self, rows: Tensor) -> None:
        """Share evenly among the images in `rows` what `counted` has counted since the last time."""
        self.add(rows, even_shares(self.counted, self._shared, len(rows), self.queries.device))
        self._shared = self.counted.queries, self.counted.forwards, self.counted.backwards


def outcome_rows(
    unit: Attacking,
    context: Context,
    *,
    labels: Tensor,
    clean: Tensor,
    outcome: JudgedPoints,
    attacked: Tensor,
    images: Tensor,
    stages: Sequence[str | None],
    tally: Tally,
    attack_seed: int,
    seconds: float,
) -> Rows:
    """Return one row an image for the table `outcomes`; images outside `attacked` that are classified well: skipped."""
    defense, attack, draws = unit.defense, unit.attack, unit.judge_draws
    distance = unit.threat.norm.distance(outcome.chosen, images).tolist()
    standing = set(attacked.tolist())
    shared = {
        "unit_key": unit.key,
        "model": context.setup.model.label,
        "model_id": defense.model_id,
        "dataset": context.setup.images[unit.shard.images].dataset,
        "defense": defense.label,
        "defense_id": defense.defense_id,
        "k": defense.k,
        "sigma": defense.sigma,
        "tau": defense.tau,
        "draws": defense.draws,
        "layer": defense.layer.name if defense.layer else None,
        "defense_arguments": json.dumps(dict(defense.arguments), sort_keys=True),
        "ranking_id": defense.ranking_id,
        "attack": attack.label,
        "norm": unit.threat.norm.value,
        "epsilon": unit.threat.epsilon,
        "seed": attack_seed,
        "judge_draws": draws,
        "host": host_name(),
        "attempt": 1,
    }
    rows = []
    for index, image_id in enumerate(unit.shard.ids):
        broken = int(outcome.broken[index])
        misclassified = bool(clean[index] != labels[index])
        skipped = index not in standing and not misclassified
        status = "misclassified" if misclassified else "skipped" if skipped else "broken" if broken else "robust"
        judged: dict[str, object] = {
            "adversarial_prediction": int(outcome.prediction[index]),
            "distance": distance[index],
            "broken_any": broken > 0,
            "broken_majority": 2 * broken > draws,
            "broken_all": broken == draws,
        }
        rows.append(
            {
                **shared,
                **(dict.fromkeys(judged) if skipped else judged),
                "image_id": image_id,
                "label": int(labels[index]),
                "clean_prediction": int(clean[index]),
                "status": status,
                "stage": stages[index] if status == "broken" else None,
                "queries": int(tally.queries[index]),
                "forwards": int(tally.forwards[index]),
                "backwards": int(tally.backwards[index]),
                "seconds": seconds / len(unit.shard.ids),
            }
        )
    return rows
