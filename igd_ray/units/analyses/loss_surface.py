"""Units that compute the loss on a plane through an image (the paper's figure 8)."""

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Generator, Tensor
from torch.nn.functional import cross_entropy

from igd_ray.defenses.specs import DefenseSpec
from igd_ray.identity import derive_seed, unit_key
from igd_ray.units.analyses.base import TABLE, measurement
from igd_ray.units.base import Passes, Rows, Shard, Unit
from igd_ray.units.judged import base_passes, build_defense
from igd_ray.units.replica import Context

ANALYSIS = "loss-surface"


@dataclass(frozen=True)
class LossSurfaceUnit(Unit):
    """The cross-entropy of a defense at x + eps (a g + b h), for a and b from −1 to 1 in `grid` steps each.

    g is the sign of the gradient at the image, of the defense itself with its noise; h holds signs orthogonal to g,
    half of which agree with it. Each point is clipped to [0, 1].

    Attributes:
        defense: whose loss.
        epsilon: in [0, 1] pixel units.
        grid: points along each direction, odd.
        shard: the images.
        seed: the run's seed.
    """

    defense: DefenseSpec
    epsilon: float
    grid: int
    shard: Shard
    seed: int

    kind = "loss-surface"
    tables = (TABLE,)

    @cached_property
    def key(self) -> str:
        """The hash of defense, plane, images and seed."""
        return unit_key(
            "analysis",
            analysis=ANALYSIS,
            defense=self.defense.defense_id,
            epsilon=self.epsilon,
            grid=self.grid,
            images=self.shard.digest,
            seed=self.seed,
        )

    @property
    def title(self) -> str:
        """The kind and the defense."""
        return f"{self.kind} of {self.defense.label}"

    def most_passes(self, num_classes: int) -> Passes:
        """The gradient, and a query at each point."""
        return base_passes(self.defense, len(self.shard.ids), self.grid**2, 1)

    def compute(self, context: Context) -> dict[str, Rows]:
        """Find the directions and query each point."""
        images, labels = context.images(self.shard.images, self.shard.start, self.shard.stop)
        generator = Generator()
        target = build_defense(self.defense, context, generator)
        generator.manual_seed(derive_seed(self.key, "noise"))
        points = images.clone().requires_grad_()
        (gradient,) = torch.autograd.grad(cross_entropy(target(points), labels, reduction="sum"), [points])
        along = gradient.sign()
        across = orthogonal_signs(along, derive_seed(self.key, "orthogonal"))
        places = torch.linspace(-1, 1, self.grid).tolist()
        rows = []
        for y in places:
            for x in places:
                moved = (images + self.epsilon * (x * along + y * across)).clamp(0, 1)
                with torch.no_grad():
                    losses = cross_entropy(target(moved), labels, reduction="none").tolist()
                rows += [
                    measurement(
                        self.key,
                        ANALYSIS,
                        context,
                        quantity="cross-entropy",
                        value=loss,
                        defense=self.defense.label,
                        image_id=self.shard.ids[index],
                        label=int(labels[index]),
                        x=x,
                        y=y,
                    )
                    for index, loss in enumerate(losses)
                ]
        return {TABLE: rows}


def orthogonal_signs(signs: Tensor, seed: int) -> Tensor:
    """Return for each of `signs` [n, …] in {−1, 0, 1} others of the same size that are orthogonal to it.

    A random half of the places that are not zero agree with `signs`, the others disagree; of an odd number one is zero.

    >>> signs = torch.tensor([[1.0, -1.0, 1.0, 1.0]])
    >>> float((signs * orthogonal_signs(signs, 0)).sum()), float(orthogonal_signs(signs, 0).abs().sum())
    (0.0, 4.0)

    Args:
        seed: of the choice, drawn on the CPU so that it is the same on every device.
    """
    generator = Generator().manual_seed(seed)
    found = torch.zeros_like(signs).flatten(1)
    for row, own in zip(found, signs.flatten(1), strict=True):
        places = own.nonzero().flatten()
        order = places[torch.randperm(len(places), generator=generator).to(places.device)]
        half = len(places) // 2
        row[order[:half]] = own[order[:half]]
        row[order[half : 2 * half]] = -own[order[half : 2 * half]]
    return found.reshape(signs.shape)
