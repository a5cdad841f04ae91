"""Units that inspect a defended model on a few images.

Is it random, blind to gradients, dependent on its batch; and do gradient attacks follow its loss?
"""

from dataclasses import dataclass, replace
from functools import cached_property

import torch
from torch import Tensor

from igd_ray.attacks.apgd import APGD
from igd_ray.checks import (
    FEW_STEPS,
    MANY_STEPS,
    Finding,
    check_batch_dependence,
    check_large_epsilon,
    check_more_steps,
    check_output_range,
    check_randomised,
    check_zero_gradient,
    large_threat,
    not_measurable,
)
from igd_ray.defenses.specs import DefenseSpec
from igd_ray.identity import content_hash, derive_seed, unit_key
from igd_ray.judging import judge
from igd_ray.threat import ThreatModel
from igd_ray.units.base import Passes, Rows, Shard, Unit
from igd_ray.units.judged import base_passes, build_defense
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
