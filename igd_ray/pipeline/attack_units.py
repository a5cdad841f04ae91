"""Units that attack: directly, or by carrying over points that were computed on the base model."""

import json
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property

import torch
from torch import Tensor, nn

from igd_ray.attacks.base import even_shares
from igd_ray.attacks.counting import CountedTarget
from igd_ray.attacks.registry import CLEAN, AttackLabel
from igd_ray.defenses.specs import DefenseSpec
from igd_ray.errors import IgdError
from igd_ray.identity import content_hash, derive_seed, unit_key
from igd_ray.judging import Verdict, judge
from igd_ray.pipeline.rank import read_ranking
from igd_ray.pipeline.setup import Context
from igd_ray.pipeline.sodef import load_sodef_head
from igd_ray.pipeline.unit import Rows, Shard, host_name
from igd_ray.threat import ThreatModel

TABLE = "outcomes"
CLEAN_POINT = "clean"


@dataclass(frozen=True)
class AttackUnit:
    """One attack on one defense over one shard of images.

    Attributes:
        defense, attack, threat: what attacks what within which bounds; the attack `clean` attacks nothing.
        shard: the images.
        seed: the run's seed.
        attack_seed: replaces the seed derived from the key, to repeat a published run.
        judge_draws: fresh evaluations of each point of a random defense.
    """

    defense: DefenseSpec
    attack: AttackLabel
    threat: ThreatModel
    shard: Shard
    seed: int
    attack_seed: int | None
    judge_draws: int

    kind = "attack"
    tables = ("adversarials", TABLE)
    needs: frozenset[str] = frozenset()

    @cached_property
    def key(self) -> str:
        """The hash of defense, attack, threat model, images and seeds."""
        return unit_key(
            "attack",
            defense=self.defense.defense_id,
            attack=dict(self.attack.attack.settings) if self.attack.attack else CLEAN,
            norm=self.threat.norm.value,
            epsilon=self.threat.epsilon,
            images=self.shard.digest,
            seed=self.seed,
            attack_seed=self.attack_seed,
            judge_draws=self.judge_draws,
        )

    def split(self) -> "tuple[AttackUnit, AttackUnit]":
        """Return two units of half the images each, for when memory does not suffice for all at once."""
        first, second = self.shard.halves()
        return replace(self, shard=first), replace(self, shard=second)

    def compute(self, context: Context) -> dict[str, Rows]:
        """Attack the shard and judge the points."""
        started = time.perf_counter()
        images, labels = context.images(self.shard.images, self.shard.start, self.shard.stop)
        generator = torch.Generator()
        target = build_defense(self.defense, context, generator)
        counted = CountedTarget(target)
        clean = clean_predictions(self, counted, images, generator)
        points: Mapping[str, tuple[Tensor, Tensor]] = {}
        stages: tuple[str | None, ...] = (None,) * len(images)
        spent = [torch.zeros(len(images), dtype=torch.int64, device=images.device) for _ in range(3)]
        attack_seed = derive_seed(self.key, "attack") if self.attack_seed is None else self.attack_seed
        if self.attack.attack is None:
            outcome = JudgedPoints((clean != labels).expand(self.judge_draws, -1), clean, images)
        else:
            generator.manual_seed(derive_seed(self.key, "noise"))
            result = self.attack.attack(
                target, images, labels, threat=self.threat, generator=torch.Generator().manual_seed(attack_seed)
            )
            points, stages = result.points, result.stages
            spent = [result.queries, result.forwards, result.backwards]
            outcome = judge_points(self, counted, points, images, labels, generator)
        counts = [
            mine + shared
            for mine, shared in zip(spent, even_shares(counted, (0, 0, 0), len(images), images.device), strict=True)
        ]
        rows = outcome_rows(
            self,
            context,
            labels=labels,
            clean=clean,
            outcome=outcome,
            images=images,
            stages=stages,
            counts=counts,
            attack_seed=attack_seed,
            seconds=time.perf_counter() - started,
        )
        return {TABLE: rows, "adversarials": point_rows(self.key, self.shard, points)}


@dataclass(frozen=True)
class TransferUnit:
    """Points that an attack on the base model left, judged on a defense."""

    defense: DefenseSpec
    attack: AttackLabel
    source: AttackUnit
    judge_draws: int

    kind = "transfer"
    tables = (TABLE,)

    @property
    def shard(self) -> Shard:
        """The images, those of the source."""
        return self.source.shard

    @property
    def threat(self) -> ThreatModel:
        """The bounds, those of the source."""
        return self.source.threat

    @property
    def seed(self) -> int:
        """The run's seed, that of the source."""
        return self.source.seed

    @property
    def needs(self) -> frozenset[str]:
        """The unit whose points are judged."""
        return frozenset({self.source.key})

    @cached_property
    def key(self) -> str:
        """The hash of the defense and of the source's key."""
        return unit_key(
            "transfer",
            defense=self.defense.defense_id,
            source=self.source.key,
            judge_draws=self.judge_draws,
        )

    def compute(self, context: Context) -> dict[str, Rows]:
        """Judge the source's points."""
        started = time.perf_counter()
        images, labels = context.images(self.shard.images, self.shard.start, self.shard.stop)
        generator = torch.Generator()
        counted = CountedTarget(build_defense(self.defense, context, generator))
        clean = clean_predictions(self, counted, images, generator)
        points = read_points(context, self.source.key, self.shard, images)
        outcome = judge_points(self, counted, points, images, labels, generator)
        rows = outcome_rows(
            self,
            context,
            labels=labels,
            clean=clean,
            outcome=outcome,
            images=images,
            stages=(None,) * len(images),
            counts=list(even_shares(counted, (0, 0, 0), len(images), images.device)),
            attack_seed=derive_seed(self.key, "judge"),
            seconds=time.perf_counter() - started,
        )
        return {TABLE: rows}


@dataclass(frozen=True)
class JudgedPoints:
    """Each image's verdict over all of its points.

    Attributes:
        broken: bool [draws, n]: some point broke the defense at that evaluation.
        prediction: int64 [n]: a wrong class where there was one, else the first evaluation's class.
        chosen: [n, C, H, W]: a point that broke the defense, else the first.
    """

    broken: Tensor
    prediction: Tensor
    chosen: Tensor


def build_defense(defense: DefenseSpec, context: Context, generator: torch.Generator) -> nn.Module:
    """Return the defended replica of `context`, taking its noise from `generator`."""
    scores = read_ranking(context.catalog, defense.ranking_id).scores if defense.ranking_id else None
    head = load_sodef_head(context.catalog, defense.training_id).to(context.device) if defense.training_id else None
    return defense.build(context.model, generator, scores=scores, head=head)


def clean_predictions(
    unit: AttackUnit | TransferUnit, target: nn.Module, images: Tensor, generator: torch.Generator
) -> Tensor:
    """Return the defense's predictions, int64 [n], on clean images; the same for every attack on them."""
    key = content_hash([unit.defense.defense_id, unit.shard.digest, unit.seed])
    return judge(target, images, generator, seed=derive_seed(key, "clean")).predictions[0]


def judge_points(
    unit: AttackUnit | TransferUnit,
    target: nn.Module,
    points: Mapping[str, tuple[Tensor, Tensor]],
    images: Tensor,
    labels: Tensor,
    generator: torch.Generator,
) -> JudgedPoints:
    """Judge every point that exists; an image without any is judged on its clean version."""
    broken = torch.zeros(unit.judge_draws, len(images), dtype=torch.bool, device=images.device)
    prediction = labels.clone()
    chosen = images.clone()
    undecided = torch.ones_like(labels, dtype=torch.bool)
    for position, (name, (candidates, exists)) in enumerate(points.items()):
        verdict: Verdict = judge(
            target, candidates, generator, seed=derive_seed(unit.key, f"judge:{name}"), draws=unit.judge_draws
        )
        # The first point stands for the image itself where the attack found none.
        counts = torch.ones_like(exists) if position == 0 else exists
        wrong = verdict.broken(labels) & counts
        broken |= wrong
        first_wrong = verdict.predictions.gather(0, wrong.int().argmax(dim=0, keepdim=True))[0]
        take = undecided & (wrong.any(dim=0) if position else counts)
        prediction = torch.where(take, first_wrong, prediction)
        chosen[take] = candidates[take]
        undecided &= ~wrong.any(dim=0)
    return JudgedPoints(broken, prediction, chosen)


def outcome_rows(
    unit: AttackUnit | TransferUnit,
    context: Context,
    *,
    labels: Tensor,
    clean: Tensor,
    outcome: JudgedPoints,
    images: Tensor,
    stages: tuple[str | None, ...],
    counts: list[Tensor],
    attack_seed: int,
    seconds: float,
) -> Rows:
    """Return one row an image for the table `outcomes`."""
    defense, attack, draws = unit.defense, unit.attack, unit.judge_draws
    distance = unit.threat.norm.distance(outcome.chosen, images).tolist()
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
        broken = int(outcome.broken[:, index].sum())
        misclassified = bool(clean[index] != labels[index])
        status = "misclassified" if misclassified else "broken" if broken else "robust"
        rows.append(
            {
                **shared,
                "image_id": image_id,
                "label": int(labels[index]),
                "clean_prediction": int(clean[index]),
                "adversarial_prediction": int(outcome.prediction[index]),
                "status": status,
                "stage": stages[index] if status == "broken" else None,
                "distance": distance[index],
                "queries": int(counts[0][index]),
                "forwards": int(counts[1][index]),
                "backwards": int(counts[2][index]),
                "broken_any": broken > 0,
                "broken_majority": 2 * broken > draws,
                "broken_all": broken == draws,
                "seconds": seconds / len(unit.shard.ids),
            }
        )
    return rows


def point_rows(key: str, shard: Shard, points: Mapping[str, tuple[Tensor, Tensor]]) -> Rows:
    """Return the rows that keep every existing point for the table `adversarials`."""
    rows = []
    for name, (candidates, exists) in points.items():
        pixels = candidates.flatten(1).cpu().numpy()
        shape = list(candidates.shape[1:])
        for index in exists.nonzero().flatten().tolist():
            rows.append(
                {
                    "unit_key": key,
                    "image_id": shard.ids[index],
                    "point": name,
                    "shape": shape,
                    "pixels": pixels[index],
                }
            )
    return rows


def read_points(context: Context, key: str, shard: Shard, images: Tensor) -> dict[str, tuple[Tensor, Tensor]]:
    """Return the points that the unit `key` kept: by name, [n, C, H, W] and a bool [n] that says where they exist.

    Images without any point stand for themselves under the first name.

    Raises:
        IgdError: if a point belongs to no image of the shard.
    """
    table = context.catalog.read("adversarials", key)
    position = {image_id: index for index, image_id in enumerate(shard.ids)}
    points: dict[str, tuple[Tensor, Tensor]] = {}
    names = table["point"].to_pylist()
    for row, (image_id, name) in enumerate(zip(table["image_id"].to_pylist(), names, strict=True)):
        if image_id not in position:
            raise IgdError(f"unit {key[:12]} holds a point of {image_id!r}, which is not among its images")
        if name not in points:
            points[name] = images.clone(), torch.zeros(len(images), dtype=torch.bool, device=images.device)
        candidates, exists = points[name]
        values = torch.tensor(table["pixels"][row].values.to_numpy(), dtype=torch.float32)
        candidates[position[image_id]] = values.reshape(images.shape[1:]).to(images.device)
        exists[position[image_id]] = True
    if not points:
        points[CLEAN_POINT] = images, torch.zeros(len(images), dtype=torch.bool, device=images.device)
    return points
