"""The verdicts on a shard's points: a defense is built, looked at on clean images, and asked afresh at each point."""

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor, nn

from igd_ray.defenses.specs import DefenseSpec
from igd_ray.identity import content_hash, derive_seed
from igd_ray.judging import Verdict, judge
from igd_ray.planning.rankings import read_ranking
from igd_ray.units.base import Shard
from igd_ray.units.points import Points
from igd_ray.units.replica import Context
from igd_ray.units.training import load_trained


class Looking(Protocol):
    """A unit that looks at a defense's clean images."""

    @property
    def defense(self) -> DefenseSpec:
        """The defense."""
        ...

    @property
    def shard(self) -> Shard:
        """The images."""
        ...

    @property
    def seed(self) -> int:
        """The run's seed."""
        ...


class Judging(Looking, Protocol):
    """A unit that judges points."""

    @property
    def key(self) -> str:
        """The unit's key."""
        ...

    @property
    def seed_key(self) -> str:
        """What the seeds of its verdicts derive from."""
        ...

    @property
    def judge_draws(self) -> int:
        """Fresh evaluations of each point."""
        ...


@dataclass(frozen=True)
class JudgedPoints:
    """Each image's verdict over all of its points.

    Attributes:
        broken: int64 [n]: how many evaluations some one point broke, the most of any.
        prediction: int64 [n]: a wrong class where there was one, else the first evaluation's class.
        chosen: [n, C, H, W]: a point that broke the defense, else the first.
    """

    broken: Tensor
    prediction: Tensor
    chosen: Tensor

    @classmethod
    def of_clean(cls, unit: Judging, clean: Tensor, labels: Tensor, images: Tensor) -> "JudgedPoints":
        """Return what the `clean` predictions, int64 [n], say of the images themselves."""
        return cls((clean != labels).long() * unit.judge_draws, clean.clone(), images.clone())

    def take(self, rows: Tensor, judged: "JudgedPoints") -> None:
        """Put what was judged of the images in `rows` in its place."""
        self.broken[rows], self.prediction[rows], self.chosen[rows] = judged.broken, judged.prediction, judged.chosen


def build_defense(defense: DefenseSpec, context: Context, generator: torch.Generator) -> nn.Module:
    """Return the defended replica of `context`, taking its noise from `generator`."""
    scores = read_ranking(context.catalog, defense.ranking_id).scores if defense.ranking_id else None
    trained = load_trained(context.catalog, defense.training_id) if defense.training_id else None
    return defense.build(context.model, generator, scores=scores, trained=trained)


def clean_predictions(unit: Looking, target: nn.Module, images: Tensor, generator: torch.Generator) -> Tensor:
    """Return the defense's predictions, int64 [n], on clean images; the same for every attack on them."""
    key = content_hash([unit.defense.defense_id, unit.shard.digest, unit.seed])
    return judge(target, images, generator, seed=derive_seed(key, "clean")).predictions[0]


def judge_points(
    unit: Judging,
    target: nn.Module,
    points: Points,
    images: Tensor,
    labels: Tensor,
    generator: torch.Generator,
) -> JudgedPoints:
    """Judge every point that exists; an image without any is judged on its clean version."""
    broken = torch.zeros_like(labels)
    prediction = labels.clone()
    chosen = images.clone()
    undecided = torch.ones_like(labels, dtype=torch.bool)
    for position, (name, (candidates, exists)) in enumerate(points.items()):
        verdict: Verdict = judge(
            target, candidates, generator, seed=derive_seed(unit.seed_key, f"judge:{name}"), draws=unit.judge_draws
        )
        # The first point stands for the image itself where the attack found none.
        counts = torch.ones_like(exists) if position == 0 else exists
        wrong = verdict.broken(labels) & counts
        # A majority of evaluations must be one point's: several points are wrong at some evaluation more easily.
        broken = torch.maximum(broken, wrong.sum(dim=0))
        first_wrong = verdict.predictions.gather(0, wrong.int().argmax(dim=0, keepdim=True))[0]
        take = undecided & (wrong.any(dim=0) if position else counts)
        prediction = torch.where(take, first_wrong, prediction)
        chosen[take] = candidates[take]
        undecided &= ~wrong.any(dim=0)
    return JudgedPoints(broken, prediction, chosen)
