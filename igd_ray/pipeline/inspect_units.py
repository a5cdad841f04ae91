"""Units that inspect a defended model on a few clean images: is it random, blind to gradients, batch-dependent?"""

from dataclasses import dataclass
from functools import cached_property

import torch

from igd_ray.checks import (
    Finding,
    check_batch_dependence,
    check_output_range,
    check_randomised,
    check_zero_gradient,
)
from igd_ray.defenses.specs import DefenseSpec
from igd_ray.identity import derive_seed, unit_key
from igd_ray.pipeline.attack_units import build_defense
from igd_ray.pipeline.setup import Context
from igd_ray.pipeline.unit import Rows, Shard

TABLE = "checks"

# Images that a defense is inspected on.
INSPECTED_IMAGES = 64


@dataclass(frozen=True)
class InspectionUnit:
    """The checks of one defense that need the model rather than attack outcomes."""

    defense: DefenseSpec
    shard: Shard
    protocol: str
    seed: int

    kind = "inspection"
    tables = (TABLE,)
    needs: frozenset[str] = frozenset()

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
