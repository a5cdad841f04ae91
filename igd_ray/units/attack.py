"""Units that attack: directly, or by carrying over points that were computed on the base model."""

import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from typing import NamedTuple, Self

import torch
from torch import Tensor

from igd_ray.attacks.adaptive.published import PUBLISHED
from igd_ray.attacks.base import FIRST_STAGE, MOST_LOOKS, Attack, AttackError
from igd_ray.attacks.registry import CLEAN, NamedAttack
from igd_ray.attacks.transfer import LAST_MISCLASSIFIED
from igd_ray.defenses.specs import DefenseSpec
from igd_ray.identity import derive_seed, unit_key
from igd_ray.threat import ThreatModel
from igd_ray.units.base import Passes, Rows, Shard
from igd_ray.units.judged import (
    ADVERSARIALS,
    OUTCOMES,
    JudgedUnit,
    Judgement,
    Points,
    SavePoints,
    base_passes,
    outcome_rows,
    point_rows,
    read_points,
)
from igd_ray.units.replica import Context


class Start(NamedTuple):
    """Points that an attack starts from: the name it knows them by, the unit that keeps them, and their name there."""

    name: str
    unit_key: str
    point: str


@dataclass(frozen=True)
class AttackUnit(JudgedUnit):
    """One attack on one defense over one shard of images.

    Attributes:
        defense, attack, threat, shard, seed, judge_draws, after: as in `JudgedUnit`.
        attack_seed: replaces the seed derived from the key, to repeat a published run.
        starts: where an attack that needs starts has them from.
        first_stage: the key of the unit whose points are those of AutoAttack's first stage, with the same seed.
        save_points: which points are committed. What others read are all of them.
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
    save_points: SavePoints = "all"

    kind = "attack"
    tables = (ADVERSARIALS, OUTCOMES)
    is_transfer = False

    @property
    def needs(self) -> frozenset[str]:
        """The units whose verdicts or points it reads."""
        first_stage = () if self.first_stage is None else (self.first_stage,)
        return frozenset((*self.after, *(start.unit_key for start in self.starts), *first_stage))

    @cached_property
    def key(self) -> str:
        """The hash of defense, attack, threat model, images, seeds and of what it reads of other units."""
        others = {"after": self.after, "starts": self.starts, "first_stage": self.first_stage}
        if self.save_points != "all":
            others["keeps"] = self.save_points
        return unit_key(
            "attack",
            **self._question,
            images=self.shard.digest,
            judge_draws=self.judge_draws,
            **{name: value for name, value in others.items() if value},
        )

    @property
    def _question(self) -> dict[str, object]:
        """What the unit's outcome depends on besides images, other units and how it is judged."""
        return {
            "defense": self.defense.defense_id,
            "attack": dict(self.attack.algorithm.settings) if self.attack.algorithm else CLEAN,
            "norm": self.threat.norm.value,
            "epsilon": self.threat.epsilon,
            "seed": self.seed,
            "attack_seed": self.attack_seed,
        }

    @property
    def seed_key(self) -> str:
        """The key of this unit with all points saved and judged once: neither may change the attack's seed."""
        return replace(self, save_points="all", judge_draws=1).key

    @property
    def attack_seed_used(self) -> int:
        """The seed of the attack.

        Where random numbers belong to the image, the images beside it have no part in the seed.
        """
        if self.attack_seed is not None:
            return self.attack_seed
        alone = self.attack.algorithm is not None and self.attack.algorithm.has_image_streams
        key = unit_key("attack", each_image=True, **self._question) if alone else self.seed_key
        return derive_seed(key, "attack")

    @property
    def points_unit(self) -> "AttackUnit":
        """Itself."""
        return self

    def following(self, after: tuple[str, ...]) -> Self:
        """Return this unit on the images that the units `after` left robust."""
        return replace(self, after=after)

    @property
    def ways(self) -> frozenset[str]:
        """The attack's."""
        return self.attack.algorithm.ways if self.attack.algorithm is not None else frozenset()

    def halved(self) -> "tuple[AttackUnit, AttackUnit]":
        """Return two units of half the images each."""
        first, second = self.shard.halves()
        return replace(self, shard=first), replace(self, shard=second)

    def most_passes(self, num_classes: int) -> Passes:
        """The clean image, the attack, the attack's own look at each of its points, and the verdicts on them."""
        attack = self.attack.algorithm
        if self.first_stage is not None and attack is not None:
            nothing = torch.empty(0)
            attack = attack.given({FIRST_STAGE: (nothing, nothing.bool())})
        queries, gradients = attack.most_passes(num_classes) if attack else (0, 0)
        queries += 1 + self._most_points * (1 + self.judge_draws)
        return base_passes(self.defense, len(self.shard.ids), queries, gradients)

    @property
    def most_repeated_passes(self) -> Passes:
        """The looks of the attack, where noise spoils all but the last at every image."""
        if self.attack.algorithm is None or not self.defense.is_random:
            return Passes(0, 0)
        return base_passes(
            self.defense, len(self.shard.ids), (MOST_LOOKS - 1) * self.attack.algorithm.wasted_queries, 0
        )

    @property
    def _most_points(self) -> int:
        return self.attack.algorithm.most_points if self.attack.algorithm else 1

    def compute(self, context: Context) -> dict[str, Rows]:
        """Attack the shard's standing images and judge the points."""
        started = time.perf_counter()
        judgement = Judgement(self, context)
        rows, images = judgement.standing, judgement.images
        stages: list[str | None] = [None] * len(images)
        points: Points = {}
        if self.attack.algorithm is not None and len(rows):
            points, spared = self._attacked(self.attack.algorithm, context, judgement, stages)
            judgement.judge(points)
            # What is wrong at every look is mostly so when it is judged: broken, by noise alone. Nothing else is known.
            spared = spared[judgement.broken[spared] == 0]
            if len(spared) and self.defense.is_random:
                raise AttackError(
                    f"{len(spared)} images that {self.defense.label} got right were misclassified at {MOST_LOOKS} "
                    f"looks of {self.attack.label}, which left them alone; lower sigma, or raise draws"
                )
        outcomes = outcome_rows(judgement, context, seconds=time.perf_counter() - started, stages=stages)
        return {OUTCOMES: outcomes, ADVERSARIALS: point_rows(self.key, self.shard, self._saved(points, outcomes))}

    def _attacked(
        self, attack: Attack, context: Context, judgement: Judgement, stages: list[str | None]
    ) -> tuple[Points, Tensor]:
        """Return the points of the standing images, and the positions of those that no look of the attack attacked.

        The stage that broke an image is noted in `stages`.
        """
        points: Points = {}
        images, labels, waiting = judgement.images, judgement.labels, judgement.standing
        for search_seed, noise_seed in self._seeds:
            judgement.generator.manual_seed(noise_seed)
            result = self._prepared(attack, context, waiting, images)(
                judgement.defense,
                images[waiting],
                labels[waiting],
                threat=self.threat,
                generator=torch.Generator().manual_seed(search_seed),
            )
            judgement.tally.add(waiting, (result.queries, result.forwards, result.backwards))
            points = _over_shard(points, result.points, waiting, images)
            for row, stage in zip(waiting.tolist(), result.stages, strict=True):
                stages[row] = stage
            # Noise made these wrong at the attack's own look, so that nothing has attacked them.
            waiting = waiting[~result.attacked & (judgement.clean == labels)[waiting]]
            if len(waiting) == 0 or not self.defense.is_random:
                break
        return points, waiting

    @property
    def _seeds(self) -> Iterator[tuple[int, int]]:
        """The seeds of the attack and of the defense's noise, for each look."""
        yield self.attack_seed_used, derive_seed(self.seed_key, "noise")
        for look in range(1, MOST_LOOKS):
            yield derive_seed(self.seed_key, f"attack:{look}"), derive_seed(self.seed_key, f"noise:{look}")

    def _prepared(self, attack: Attack, context: Context, rows: Tensor, images: Tensor) -> Attack:
        """Return `attack` with what it needs of other units, for the images in `rows`."""
        starts = self.starts
        if self.first_stage is not None:
            starts = (*starts, Start(FIRST_STAGE, self.first_stage, LAST_MISCLASSIFIED))
        given = {}
        for start in starts:
            points, exists = _named(read_points(context, start.unit_key, self.shard, images), start.point, images)
            given[start.name] = points[rows], exists[rows]
        if attack.image_set is not None:
            points, _ = context.images(attack.image_set, self.shard.start, self.shard.stop)
            given[PUBLISHED] = points[rows], torch.ones(len(rows), dtype=torch.bool, device=rows.device)
        return attack.given(given) if given else attack

    def _saved(self, points: Points, outcomes: Rows) -> Points:
        if self.save_points == "all":
            return points
        broken = [self.save_points == "broken" and row["status"] == "broken" for row in outcomes]
        return {
            name: (candidates, exists & torch.tensor(broken, device=exists.device))
            for name, (candidates, exists) in points.items()
        }


@dataclass(frozen=True)
class TransferUnit(JudgedUnit):
    """Points that an attack on the base model left, judged on a defense.

    Attributes:
        defense, attack, judge_draws, after: as in `JudgedUnit`.
        source: the unit on the base model.
        part: the images, where memory is too small for all of the source's.
    """

    defense: DefenseSpec
    attack: NamedAttack
    source: AttackUnit
    judge_draws: int
    after: tuple[str, ...] = ()
    part: Shard | None = None

    kind = "transfer"
    tables = (OUTCOMES,)
    is_transfer = True

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
    def save_points(self) -> SavePoints:
        """All: the source commits every point."""
        return "all"

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
        """The key of this unit with one draw, as the number of draws may not change the seed."""
        return replace(self, judge_draws=1).key

    @property
    def attack_seed_used(self) -> int:
        """The seed of the verdicts."""
        return derive_seed(self.seed_key, "judge")

    @property
    def points_unit(self) -> AttackUnit:
        """The source."""
        return self.source

    def following(self, after: tuple[str, ...]) -> Self:
        """Return this unit on the images that the units `after` left robust."""
        return replace(self, after=after)

    @property
    def ways(self) -> frozenset[str]:
        """None: the source has found the points."""
        return frozenset()

    def halved(self) -> "tuple[TransferUnit, TransferUnit]":
        """Return two units of half the images each."""
        first, second = self.shard.halves()
        return replace(self, part=first), replace(self, part=second)

    def most_passes(self, num_classes: int) -> Passes:
        """The clean image, and the verdicts on its points."""
        points = self.attack.algorithm.most_points if self.attack.algorithm else 1
        return base_passes(self.defense, len(self.shard.ids), 1 + points * self.judge_draws, 0)

    def compute(self, context: Context) -> dict[str, Rows]:
        """Judge the source's points of the shard's standing images."""
        started = time.perf_counter()
        judgement = Judgement(self, context)
        if len(judgement.standing):
            judgement.judge(read_points(context, self.source.key, self.shard, judgement.images))
        return {OUTCOMES: outcome_rows(judgement, context, seconds=time.perf_counter() - started)}


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
