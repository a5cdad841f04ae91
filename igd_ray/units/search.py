"""The units of a search: what all of its trials read."""

from dataclasses import dataclass
from functools import cached_property

import torch

from igd_ray.defenses.interpretability_guided import InterpretabilityGuidedDefense
from igd_ray.identity import derive_seed, unit_key
from igd_ray.models import Layer
from igd_ray.models.anatomy.cutting import SplitModel
from igd_ray.models.anatomy.layers import recorded
from igd_ray.units.arrays import TABLE, array_rows
from igd_ray.units.base import Passes, Rows, Shard, Unit
from igd_ray.units.objective import packed
from igd_ray.units.replica import Context


@dataclass(frozen=True)
class ActivationUnit(Unit):
    """a(x) at a layer and f(x), for one shard of images; at the output of a module, also what the rest reads."""

    model_id: str
    layer: Layer
    shard: Shard

    kind = "activations"
    tables = (TABLE,)

    @cached_property
    def key(self) -> str:
        """The hash of model, layer and images."""
        return unit_key(
            "search",
            cache="activations",
            model=self.model_id,
            layer=self.layer.identity,
            images=self.shard.digest,
        )

    @property
    def title(self) -> str:
        """The kind and the layer."""
        return f"{self.kind} at {self.layer.name}"

    @torch.no_grad()
    def compute(self, context: Context) -> dict[str, Rows]:
        """Run one pass."""
        images, _ = context.images(self.shard.images, self.shard.start, self.shard.stop)
        if not self.layer.is_last:
            split = SplitModel(context.model, self.layer)
            prefix = split.prefix(images)
            arrays = {"activations": prefix.activation, "logits": prefix.logits}
            return {TABLE: array_rows(self.key, {**arrays, "rest": packed(split.trimmed(prefix))})}
        with recorded(context.model, self.layer) as activations:
            logits = context.model(images)
        return {TABLE: array_rows(self.key, {"activations": activations[0], "logits": logits})}


@dataclass(frozen=True)
class NoisyLogitsUnit(Unit):
    """The first pass's logits for one σ and number of draws, for one shard of search images."""

    model_id: str
    layer: Layer
    shard: Shard
    sigma: float
    draws: int
    seed: int

    kind = "noisy-logits"
    tables = (TABLE,)

    @cached_property
    def key(self) -> str:
        """The hash of model, images, σ, draws and seed."""
        return unit_key(
            "search",
            cache="noisy-logits",
            model=self.model_id,
            images=self.shard.digest,
            sigma=self.sigma,
            draws=self.draws,
            seed=self.seed,
        )

    def most_passes(self, num_classes: int) -> Passes:
        """A pass for each draw."""
        return Passes(len(self.shard.ids) * self.draws, 0)

    @torch.no_grad()
    def compute(self, context: Context) -> dict[str, Rows]:
        """Run the noisy passes, with the defense's own code."""
        images, _ = context.images(self.shard.images, self.shard.start, self.shard.stop)
        defense = InterpretabilityGuidedDefense(
            context.model,
            torch.ones(1, self.layer.width),
            layer=self.layer,
            sigma=self.sigma,
            draws=self.draws,
            generator=torch.Generator().manual_seed(derive_seed(self.key, "noise")),
        )
        return {TABLE: array_rows(self.key, {"logits": defense.first_logits(images)})}
