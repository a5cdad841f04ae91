"""Checks of a defended model, of its attacks' points, and of what its attacks say of each other.

Is it random, blind to gradients, dependent on its batch; do gradient attacks follow its loss; do stored points hold?
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import NamedTuple

import pyarrow as pa
import torch
from torch import Tensor

from igd_ray.attacks.apgd import APGD
from igd_ray.attacks.base import GRADIENT, QUERY
from igd_ray.attacks.registry import NamedAttack
from igd_ray.catalog import Catalog
from igd_ray.checks import (
    FEW_STEPS,
    MANY_STEPS,
    Finding,
    Rounded,
    StoredPoints,
    check_batch_dependence,
    check_large_epsilon,
    check_more_steps,
    check_output_range,
    check_query_beats_gradient,
    check_randomised,
    check_rounding,
    check_stored_points,
    check_transfer_beats_direct,
    check_zero_gradient,
    large_threat,
    measure_rounding,
    measure_stored_points,
    not_measurable,
)
from igd_ray.defenses.specs import DefenseSpec
from igd_ray.identity import content_hash, derive_seed, unit_key
from igd_ray.threat import ThreatModel, judge
from igd_ray.units.base import Passes, Rows, Shard, Unit
from igd_ray.units.judged import JudgedUnit, base_passes, build_defense, read_points
from igd_ray.units.replica import Context

TABLE = "checks"

# Images that a defense is inspected on.
INSPECTED_IMAGES = 64


@dataclass(frozen=True)
class DefenseCheckUnit(Unit):
    """The checks of one defense that need the model rather than attack outcomes."""

    defense: DefenseSpec
    shard: Shard
    protocol: str
    seed: int

    kind = "inspection"
    tables = (TABLE,)

    @cached_property
    def key(self) -> str:
        """The hash of defense, images, protocol and seed."""
        return unit_key(
            "inspection",
            defense=self.defense.defense_id,
            images=self.shard.digest,
            protocol=self.protocol,
            seed=self.seed,
        )

    def halved(self) -> "tuple[DefenseCheckUnit]":
        """Return a unit that looks at half of the images only, for when memory does not suffice for all at once."""
        return (replace(self, shard=self.shard.halves()[0]),)

    @property
    def family(self) -> str:
        """The kind and the defense."""
        return f"{self.kind}/{self.defense.label}/"

    def most_passes(self, num_classes: int) -> Passes:
        """Two looks at the images and their blends, one for the gradient, one at the range; two without noise."""
        images = len(self.shard.ids)
        random, still = base_passes(self.defense, images, 6, 1), base_passes(self.defense.still(), images, 2, 0)
        return Passes(random.forwards + still.forwards, random.backwards + still.backwards)

    def compute(self, context: Context) -> dict[str, Rows]:
        """Run the checks."""
        images, labels = context.images(self.shard.images, self.shard.start, self.shard.stop)
        generator = torch.Generator().manual_seed(derive_seed(self.key, "noise"))
        target = build_defense(self.defense, context, generator)
        # A random target's predictions change with the batch because its noise does: only without it can one tell.
        still = build_defense(self.defense.still(), context, generator)
        findings = [
            check_randomised(target, images, protocol=self.protocol),
            check_zero_gradient(target, images, labels),
            check_batch_dependence(still, images),
            check_output_range(target, images),
        ]
        model = context.setup.model.label
        return {TABLE: [finding_row(finding, self.key, None, model, self.defense.label, None) for finding in findings]}


@dataclass(frozen=True)
class GradientCheckUnit(Unit):
    """The checks whether gradient attacks work on one defense: with more steps, and in a ball 16 times as large.

    APGD on the cross-entropy attacks the images that the defense gets right, each time from the same start, and each
    point is judged by an evaluation of its own. The gradients of a random defense are not averaged (EoT 1): a step in
    the direction of one draw is a step all the same, and that of twenty would cost twenty times as much.

    Attributes:
        defense: what is attacked.
        shard: a few images, such as the inspected ones.
        threat: the evaluation's.
        seed: the run's seed.
        batch: how many images memory suffices for at once; all by default.
    """

    defense: DefenseSpec
    shard: Shard
    threat: ThreatModel
    seed: int
    batch: int | None = None

    kind = "gradient-check"
    tables = (TABLE,)

    @cached_property
    def key(self) -> str:
        """The hash of defense, images, threat model, attacks and seed."""
        return unit_key(
            "gradient-check",
            defense=self.defense.defense_id,
            images=self.shard.digest,
            norm=self.threat.norm.value,
            epsilon=self.threat.epsilon,
            attacks=[[dict(attack.settings), threat.epsilon] for attack, threat in self._attacks],
            seed=self.seed,
            **({"batch": self.batch} if self.batch else {}),
        )

    @property
    def _attacks(self) -> tuple[tuple[APGD, ThreatModel], ...]:
        few, many = APGD("ce", steps=FEW_STEPS), APGD("ce", steps=MANY_STEPS)
        return (few, self.threat), (many, self.threat), (few, large_threat(self.threat))

    def halved(self) -> "tuple[GradientCheckUnit, ...]":
        """Return a unit that attacks half as many images at once, and compares on all of them; none below one."""
        images = len(self.shard.ids) if self.batch is None else self.batch
        return () if images < 2 else (replace(self, batch=(images + 1) // 2),)

    @property
    def family(self) -> str:
        """The kind and the defense."""
        return f"{self.kind}/{self.defense.label}/"

    def most_passes(self, num_classes: int) -> Passes:
        """The clean images, three attacks, and a verdict on the point of each."""
        asked = [attack.most_passes(num_classes) for attack, _ in self._attacks]
        queries = 1 + sum(queries + 1 for queries, _ in asked)
        return base_passes(self.defense, len(self.shard.ids), queries, sum(gradients for _, gradients in asked))

    def compute(self, context: Context) -> dict[str, Rows]:
        """Attack and compare."""
        size = self.batch or len(self.shard.ids)
        starts = range(self.shard.start, self.shard.stop, size)
        batches = [self._broken(context, start, min(start + size, self.shard.stop)) for start in starts]
        few, many, large = (torch.cat([batch[number] for batch in batches]) for number in range(len(self._attacks)))
        if len(few):
            findings = [
                check_more_steps(only_few=int((few & ~many).sum()), only_many=int((many & ~few).sum())),
                check_large_epsilon(int((~large).sum()), len(large)),
            ]
        else:
            why = f"none of {len(self.shard.ids)} images is right without an attack"
            findings = [not_measurable(check, why) for check in ("more-steps", "large-epsilon")]
        model = context.setup.model.label
        return {TABLE: [finding_row(finding, self.key, None, model, self.defense.label, None) for finding in findings]}

    def _broken(self, context: Context, start: int, stop: int) -> list[Tensor]:
        """Return which of the images start…stop that the defense gets right each attack breaks, bool [n] each."""
        key = self.key if self.batch is None else content_hash([self.key, start])
        images, labels = context.images(self.shard.images, start, stop)
        generator = torch.Generator()
        target = build_defense(self.defense, context, generator)
        correct = judge(target, images, generator, seed=derive_seed(key, "clean")).predictions[0] == labels
        if not correct.any():
            return [correct[correct]] * len(self._attacks)
        broken = []
        for attack, threat in self._attacks:
            generator.manual_seed(derive_seed(key, "noise"))
            begin = torch.Generator().manual_seed(derive_seed(key, "attack"))
            broken.append(attack(target, images[correct], labels[correct], threat=threat, generator=begin).broken)
        return broken


def finding_row(
    finding: Finding, key: str | None, run_id: str | None, model: str, defense: str, attack: str | None
) -> dict[str, object]:
    """Return the row of `finding` for the table `checks`."""
    return {
        "unit_key": key,
        "run_id": run_id,
        "model": model,
        "defense": defense,
        "attack": attack,
        "check": finding.check,
        "severity": finding.severity,
        "value": finding.value,
        "message": finding.message,
    }


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


def compare_attacks(catalog: Catalog, units: Sequence[JudgedUnit]) -> list[Finding]:
    """Compare what direct, transferred, gradient and query attacks broke, for the units of one defense.

    An attack that skipped an image says nothing of it: where a cascade's earlier attacks broke images, only those
    count that both sides attacked, and transfers, which come first, are not compared. What noise broke without any
    point, no attack did.
    """
    units = [unit for unit in units if not unit.attack.audits and (unit.is_transfer or unit.ways)]
    broken_by: dict[str, set[str]] = {"query": set(), "gradient": set(), "transfer": set(), "direct": set()}
    skipped: set[str] = set()
    for unit in units:
        table: pa.Table = catalog.read("outcomes", unit.key)
        for row in table.select(["image_id", "status", "stage", "distance"]).to_pylist():
            if row["status"] == "skipped" and GRADIENT in unit.ways:
                skipped.add(row["image_id"])
            if row["status"] != "broken" or row["distance"] == 0:
                continue
            broken_by["transfer" if unit.is_transfer else "direct"].add(row["image_id"])
            if not unit.is_transfer and unit.attack.algorithm is not None:
                follows = GRADIENT in unit.attack.algorithm.ways_of(row["stage"])
                broken_by["gradient" if follows else "query"].add(row["image_id"])
    ways = {way for unit in units for way in unit.ways}
    findings = []
    if ways == {QUERY, GRADIENT}:
        compared = (broken_by["query"] | broken_by["gradient"]) - skipped
        alone = compared & broken_by["query"] - broken_by["gradient"]
        findings.append(check_query_beats_gradient(len(alone), len(compared)))
    if {unit.is_transfer for unit in units} != {True, False}:
        return findings
    if any(unit.after for unit in units):
        why = "in a cascade the direct attacks skip what transfers broke"
        findings.append(not_measurable("transfer-beats-direct", why))
    else:
        only_transfer = broken_by["transfer"] - broken_by["direct"]
        only_direct = broken_by["direct"] - broken_by["transfer"]
        findings.append(check_transfer_beats_direct(len(only_transfer), len(only_direct)))
    return findings
