"""Units that look again at the points an attack left in the catalog: are they allowed, are they images of 8 bits?"""

from dataclasses import dataclass, replace
from functools import cached_property
from typing import NamedTuple

import torch
from torch import Tensor

from igd_ray.attacks.registry import NamedAttack
from igd_ray.checks import (
    Rounded,
    StoredPoints,
    check_rounding,
    check_stored_points,
    measure_rounding,
    measure_stored_points,
)
from igd_ray.defenses.specs import DefenseSpec
from igd_ray.identity import content_hash, derive_seed, unit_key
from igd_ray.threat import ThreatModel
from igd_ray.units.base import Passes, Rows, Shard, Unit
from igd_ray.units.checks.defense import TABLE, finding_row
from igd_ray.units.judged import base_passes, build_defense
from igd_ray.units.points import read_points
from igd_ray.units.replica import Context

# Evaluations of a point of a broken image: as it is, rounded, and as it is again.
LOOKS = 3


class CheckedShard(NamedTuple):
    """What is reviewed of one shard.

    Attributes:
        outcomes: the key of the unit whose verdicts count.
        points: the key of the unit that keeps the points: of a transfer the one on the base model, otherwise the same.
        shard: the images.
        is_half: memory did not suffice for all of the units' images at once, of which these are some.
    """

    outcomes: str
    points: str
    shard: Shard
    is_half: bool = False


@dataclass(frozen=True)
class StoredPointsCheckUnit(Unit):
    """The checks of one attack's stored points on one defense, over all shards, one shard in memory at a time.

    Attributes:
        defense, attack: whose outcomes are reviewed.
        threat: what the points were allowed.
        parts: at least one, consecutive shards of one set of images.
        seed: the run's seed.
    """

    defense: DefenseSpec
    attack: NamedAttack
    threat: ThreatModel
    parts: tuple[CheckedShard, ...]
    seed: int

    kind = "review"
    tables = (TABLE,)

    @property
    def needs(self) -> frozenset[str]:
        """The units whose verdicts and points are reviewed."""
        return frozenset(key for part in self.parts for key in (part.outcomes, part.points))

    @cached_property
    def shard(self) -> Shard:
        """The images of all parts."""
        shards = [part.shard for part in self.parts]
        ids = tuple(image_id for shard in shards for image_id in shard.ids)
        digest = content_hash([shard.digest for shard in shards])
        return Shard(shards[0].images, shards[0].start, shards[-1].stop, ids, digest)

    @cached_property
    def key(self) -> str:
        """The hash of the defense, of the reviewed units' keys, of the bounds and of the seed."""
        return unit_key(
            "review",
            defense=self.defense.defense_id,
            norm=self.threat.norm.value,
            epsilon=self.threat.epsilon,
            parts=[[part.outcomes, part.points, *([part.shard.digest] if part.is_half else [])] for part in self.parts],
            seed=self.seed,
        )

    def halved(self) -> "tuple[StoredPointsCheckUnit, ...]":
        """Return a unit that has half a shard at a time in memory, and reviews all of them; none below one image."""
        parts = tuple(
            part._replace(shard=half, is_half=True) if len(part.shard.ids) > 1 else part
            for part in self.parts
            for half in (part.shard.halves() if len(part.shard.ids) > 1 else (part.shard,))
        )
        return () if parts == self.parts else (replace(self, parts=parts),)

    @property
    def family(self) -> str:
        """The kind, the defense and the attack."""
        return f"{self.kind}/{self.defense.label}/{self.attack.label}"

    def most_passes(self, num_classes: int) -> Passes:
        """Some looks at each point."""
        points = self.attack.algorithm.most_points if self.attack.algorithm else 0
        return base_passes(self.defense, len(self.shard.ids), LOOKS * points, 0)

    def compute(self, context: Context) -> dict[str, Rows]:
        """Read the points back, shard by shard."""
        generator = torch.Generator().manual_seed(derive_seed(self.key, "noise"))
        target = build_defense(self.defense, context, generator)
        stored: list[StoredPoints] = []
        rounded: list[Rounded] = []
        for part in self.parts:
            images, labels = context.images(part.shard.images, part.shard.start, part.shard.stop)
            broken = _broken(context, part).to(images.device)
            for points, exists in read_points(context, part.points, part.shard, images).values():
                stored.append(measure_stored_points(points[exists], images[exists], self.threat))
                # Rows that are not images are a finding of the first kind; a model cannot be asked about them.
                asked = exists & broken & torch.isfinite(points).flatten(1).all(dim=1)
                rounded.append(measure_rounding(target, points[asked], labels[asked]))
        model = context.setup.model.label
        return {
            TABLE: [
                finding_row(finding, self.key, None, model, self.defense.label, self.attack.label)
                for finding in (check_stored_points(stored), check_rounding(rounded))
            ]
        }


def _broken(context: Context, part: CheckedShard) -> Tensor:
    """Return which images of a shard the outcomes call broken, bool [n]."""
    table = context.catalog.read("outcomes", part.outcomes)
    statuses = dict(zip(table["image_id"].to_pylist(), table["status"].to_pylist(), strict=True))
    return torch.tensor([statuses[image_id] == "broken" for image_id in part.shard.ids])
