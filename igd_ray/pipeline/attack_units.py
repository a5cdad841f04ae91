"""Units that attack: directly, or by carrying over points that were computed on the base model."""

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import NamedTuple

import torch
from torch import Tensor

from igd_ray.attacks.auto_attack import AutoAttack
from igd_ray.attacks.base import Attack
from igd_ray.attacks.registry import CLEAN, AttackLabel
from igd_ray.attacks.started import StartedAttack
from igd_ray.attacks.transfer import LAST_MISCLASSIFIED
from igd_ray.defenses.specs import DefenseSpec
from igd_ray.identity import derive_seed, unit_key
from igd_ray.pipeline.outcomes import TABLE, Tally, outcome_rows
from igd_ray.pipeline.points import Kept, Points, point_rows, read_points
from igd_ray.pipeline.setup import Context
from igd_ray.pipeline.unit import Rows, Shard
from igd_ray.pipeline.verdicts import JudgedPoints, build_defense, clean_predictions, judge_points
from igd_ray.threat import ThreatModel


class Start(NamedTuple):
    """Points that an attack starts from: the name it knows them by, the unit that keeps them, and their name there."""

    name: str
    unit_key: str
    point: str


@dataclass(frozen=True)
class AttackUnit:
    """One attack on one defense over one shard of images.

    Attributes:
        defense, attack, threat: what attacks what within which bounds; the attack `clean` attacks nothing.
        shard: the images.
        seed: the run's seed.
        attack_seed: replaces the seed derived from the key, to repeat a published run.
        judge_draws: fresh evaluations of each point of a random defense.
        after: keys of units on the same defense: only images that all of them left robust are attacked.
        starts: where an attack that needs starts has them from.
        first_stage: the key of the unit whose points are those of AutoAttack's first stage, with the same seed.
        keeps: which points are committed. What others read are all of them.
    """

    defense: DefenseSpec
    attack: AttackLabel
    threat: ThreatModel
    shard: Shard
    seed: int
    attack_seed: int | None
    judge_draws: int
    after: tuple[str, ...] = ()
    starts: tuple[Start, ...] = ()
    first_stage: str | None = None
    keeps: Kept = "all"

    kind = "attack"
    tables = ("adversarials", TABLE)

    @property
    def needs(self) -> frozenset[str]:
        """The units whose verdicts or points it reads."""
        first_stage = () if self.first_stage is None else (self.first_stage,)
        return frozenset((*self.after, *(start.unit_key for start in self.starts), *first_stage))

    @cached_property
    def key(self) -> str:
        """The hash of defense, attack, threat model, images, seeds and of what it reads of other units."""
        others = {"after": self.after, "starts": self.starts, "first_stage": self.first_stage}
        if self.keeps != "all":
            others["keeps"] = self.keeps
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
            **{name: value for name, value in others.items() if value},
        )

    @property
    def search_seed(self) -> int:
        """The seed of the attack."""
        return derive_seed(self.key, "attack") if self.attack_seed is None else self.attack_seed

    def split(self) -> "tuple[AttackUnit, AttackUnit]":
        """Return two units of half the images each, for when memory does not suffice for all at once."""
        first, second = self.shard.halves()
        return replace(self, shard=first), replace(self, shard=second)

    def compute(self, context: Context) -> dict[str, Rows]:
        """Attack the shard's standing images and judge the points."""
        started = time.perf_counter()
        images, labels = context.images(self.shard.images, self.shard.start, self.shard.stop)
        generator = torch.Generator()
        target = build_defense(self.defense, context, generator)
        tally = Tally(target, images)
        clean = clean_predictions(self, tally.counted, images, generator)
        tally.share(torch.arange(len(images), device=images.device))
        rows = standing_rows(context, self.after, self.shard, images.device)
        points: Points = {}
        outcome = JudgedPoints.of_clean(self, clean, labels, images)
        stages: list[str | None] = [None] * len(images)
        if self.attack.attack is not None and len(rows):
            attack = self._prepared(self.attack.attack, context, rows, images)
            generator.manual_seed(derive_seed(self.key, "noise"))
            result = attack(
                target,
                images[rows],
                labels[rows],
                threat=self.threat,
                generator=torch.Generator().manual_seed(self.search_seed),
            )
            tally.add(rows, (result.queries, result.forwards, result.backwards))
            for row, stage in zip(rows.tolist(), result.stages, strict=True):
                stages[row] = stage
            judged = judge_points(self, tally.counted, result.points, images[rows], labels[rows], generator)
            tally.share(rows)
            outcome.take(rows, judged)
            points = _over_shard(result.points, rows, images)
        outcomes = outcome_rows(
            self,
            context,
            labels=labels,
            clean=clean,
            outcome=outcome,
            attacked=rows,
            images=images,
            stages=stages,
            tally=tally,
            attack_seed=self.search_seed,
            seconds=time.perf_counter() - started,
        )
        return {TABLE: outcomes, "adversarials": point_rows(self.key, self.shard, self._kept(points, outcomes))}

    def _prepared(self, attack: Attack, context: Context, rows: Tensor, images: Tensor) -> Attack:
        """Return `attack` with what it needs of other units, for the images in `rows`."""
        if isinstance(attack, StartedAttack):
            starts = {}
            for start in self.starts:
                points, exists = _named(read_points(context, start.unit_key, self.shard, images), start.point, images)
                starts[start.name] = points[rows], exists[rows]
            return attack.starting_from(starts)
        if self.first_stage is not None and isinstance(attack, AutoAttack):
            kept = read_points(context, self.first_stage, self.shard, images)
            points, exists = _named(kept, LAST_MISCLASSIFIED, images)
            return attack.continuing(points[rows], exists[rows])
        return attack

    def _kept(self, points: Points, outcomes: Rows) -> Points:
        if self.keeps == "all":
            return points
        broken = [self.keeps == "broken" and row["status"] == "broken" for row in outcomes]
        return {
            name: (candidates, exists & torch.tensor(broken, device=exists.device))
            for name, (candidates, exists) in points.items()
        }


@dataclass(frozen=True)
class TransferUnit:
    """Points that an attack on the base model left, judged on a defense.

    Attributes:
        defense, attack: what is judged under which label.
        source: the unit on the base model.
        judge_draws: fresh evaluations of each point of a random defense.
        after: keys of units on the same defense: only images that all of them left robust are judged.
    """

    defense: DefenseSpec
    attack: AttackLabel
    source: AttackUnit
    judge_draws: int
    after: tuple[str, ...] = ()

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
        """The unit whose points are judged, and those whose verdicts are read."""
        return frozenset((self.source.key, *self.after))

    @cached_property
    def key(self) -> str:
        """The hash of the defense, of the source's key and of those before."""
        return unit_key(
            "transfer",
            defense=self.defense.defense_id,
            source=self.source.key,
            judge_draws=self.judge_draws,
            **({"after": self.after} if self.after else {}),
        )

    def compute(self, context: Context) -> dict[str, Rows]:
        """Judge the source's points of the shard's standing images."""
        started = time.perf_counter()
        images, labels = context.images(self.shard.images, self.shard.start, self.shard.stop)
        generator = torch.Generator()
        tally = Tally(build_defense(self.defense, context, generator), images)
        clean = clean_predictions(self, tally.counted, images, generator)
        tally.share(torch.arange(len(images), device=images.device))
        rows = standing_rows(context, self.after, self.shard, images.device)
        outcome = JudgedPoints.of_clean(self, clean, labels, images)
        if len(rows):
            points = {
                name: (candidates[rows], exists[rows])
                for name, (candidates, exists) in read_points(context, self.source.key, self.shard, images).items()
            }
            outcome.take(rows, judge_points(self, tally.counted, points, images[rows], labels[rows], generator))
            tally.share(rows)
        outcomes = outcome_rows(
            self,
            context,
            labels=labels,
            clean=clean,
            outcome=outcome,
            attacked=rows,
            images=images,
            stages=[None] * len(images),
            tally=tally,
            attack_seed=derive_seed(self.key, "judge"),
            seconds=time.perf_counter() - started,
        )
        return {TABLE: outcomes}


def standing_rows(context: Context, after: Sequence[str], shard: Shard, device: torch.device) -> Tensor:
    """Return which images of `shard` all of the units `after` left robust: their positions, int64."""
    standing = set(shard.ids)
    for key in after:
        table = context.catalog.read(TABLE, key)
        statuses = zip(table["image_id"].to_pylist(), table["status"].to_pylist(), strict=True)
        standing &= {image_id for image_id, status in statuses if status == "robust"}
    return torch.tensor([row for row, image_id in enumerate(shard.ids) if image_id in standing], device=device).long()


def _over_shard(points: Points, rows: Tensor, images: Tensor) -> Points:
    """Return the points of the images in `rows` as points of all images."""
    spread = {}
    for name, (candidates, exists) in points.items():
        everywhere, there = images.clone(), torch.zeros(len(images), dtype=torch.bool, device=images.device)
        everywhere[rows], there[rows] = candidates, exists
        spread[name] = everywhere, there
    return spread


def _named(points: Points, name: str, images: Tensor) -> tuple[Tensor, Tensor]:
    """Return the points called `name`; the images themselves, as points that do not exist, where there are none."""
    nowhere = torch.zeros(len(images), dtype=torch.bool, device=images.device)
    return points.get(name, (images, nowhere))
