"""Units that attack: directly, or by carrying over points that were computed on the base model."""

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import NamedTuple

import torch
from torch import Tensor

from igd_ray.attacks.adaptive.warm_start import StartedAttack
from igd_ray.attacks.auto_attack import AutoAttack
from igd_ray.attacks.base import MOST_LOOKS, Attack, AttackError
from igd_ray.attacks.registry import CLEAN, NamedAttack
from igd_ray.attacks.transfer import LAST_MISCLASSIFIED
from igd_ray.defenses.specs import DefenseSpec
from igd_ray.identity import derive_seed, unit_key
from igd_ray.threat import ThreatModel
from igd_ray.units.base import Rows, Shard
from igd_ray.units.judged import JudgedPoints, build_defense, clean_predictions, judge_points
from igd_ray.units.outcomes import TABLE, Tally, outcome_rows
from igd_ray.units.points import Kept, Points, point_rows, read_points
from igd_ray.units.replica import Context


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
    attack: NamedAttack
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
            attack=dict(self.attack.algorithm.settings) if self.attack.algorithm else CLEAN,
            norm=self.threat.norm.value,
            epsilon=self.threat.epsilon,
            images=self.shard.digest,
            seed=self.seed,
            attack_seed=self.attack_seed,
            judge_draws=self.judge_draws,
            **{name: value for name, value in others.items() if value},
        )

    @property
    def seed_key(self) -> str:
        """What its seeds derive from: the key, but for what changes neither attack nor noise."""
        return replace(self, keeps="all", judge_draws=1).key

    @property
    def search_seed(self) -> int:
        """The seed of the attack."""
        return derive_seed(self.seed_key, "attack") if self.attack_seed is None else self.attack_seed

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
        if self.attack.algorithm is not None and len(rows):
            waiting = rows
            for search_seed, noise_seed in self._seeds:
                generator.manual_seed(noise_seed)
                result = self._prepared(self.attack.algorithm, context, waiting, images)(
                    target,
                    images[waiting],
                    labels[waiting],
                    threat=self.threat,
                    generator=torch.Generator().manual_seed(search_seed),
                )
                tally.add(waiting, (result.queries, result.forwards, result.backwards))
                points = _over_shard(points, result.points, waiting, images)
                for row, stage in zip(waiting.tolist(), result.stages, strict=True):
                    stages[row] = stage
                # Noise made these wrong at the attack's own look, so that nothing has attacked them.
                waiting = waiting[~result.attacked & (clean == labels)[waiting]]
                if len(waiting) == 0 or not self.defense.is_random:
                    break
            attacked = {name: (candidates[rows], exists[rows]) for name, (candidates, exists) in points.items()}
            outcome.take(rows, judge_points(self, tally.counted, attacked, images[rows], labels[rows], generator))
            tally.share(rows)
            # What is wrong at every look is mostly so when it is judged: broken, by noise alone. Nothing else is known.
            spared = waiting[outcome.broken[waiting] == 0]
            if len(spared) and self.defense.is_random:
                raise AttackError(
                    f"{len(spared)} images that {self.defense.label} got right were misclassified at {MOST_LOOKS} "
                    f"looks of {self.attack.label}, which left them alone; lower sigma, or raise draws"
                )
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

    @property
    def _seeds(self) -> Iterator[tuple[int, int]]:
        """The seeds of the attack and of the defense's noise, for each look."""
        yield self.search_seed, derive_seed(self.seed_key, "noise")
        for look in range(1, MOST_LOOKS):
            yield derive_seed(self.seed_key, f"attack:{look}"), derive_seed(self.seed_key, f"noise:{look}")

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
        part: the images, where memory does not suffice for all of the source's.
    """

    defense: DefenseSpec
    attack: NamedAttack
    source: AttackUnit
    judge_draws: int
    after: tuple[str, ...] = ()
    part: Shard | None = None

    kind = "transfer"
    tables = (TABLE,)

    @property
    def shard(self) -> Shard:
        """The images: those of the source, or a part of them."""
        return self.source.shard if self.part is None else self.part

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
            **({"part": self.part.digest} if self.part else {}),
        )

    @property
    def seed_key(self) -> str:
        """What its seeds derive from: the key, but for the number of draws."""
        return replace(self, judge_draws=1).key

    def split(self) -> "tuple[TransferUnit, TransferUnit]":
        """Return two units of half the images each, for when memory does not suffice for all at once."""
        first, second = self.shard.halves()
        return replace(self, part=first), replace(self, part=second)

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
            attack_seed=derive_seed(self.seed_key, "judge"),
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


def _over_shard(before: Points, points: Points, rows: Tensor, images: Tensor) -> Points:
    """Return the points of all images: those of `before`, and in `rows` those of `points`."""
    spread = {}
    for name, (candidates, exists) in points.items():
        nowhere = images, torch.zeros(len(images), dtype=torch.bool, device=images.device)
        everywhere, there = (each.clone() for each in before.get(name, nowhere))
        everywhere[rows], there[rows] = candidates, exists
        spread[name] = everywhere, there
    return spread


def _named(points: Points, name: str, images: Tensor) -> tuple[Tensor, Tensor]:
    """Return the points called `name`; the images themselves, as points that do not exist, where there are none."""
    nowhere = torch.zeros(len(images), dtype=torch.bool, device=images.device)
    return points.get(name, (images, nowhere))
