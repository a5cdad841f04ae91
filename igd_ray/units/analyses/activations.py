"""Units that compare activations before and after an attack (the paper's section 3, figure 2 and table 7)."""

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from igd_ray.defenses.masks import class_masks
from igd_ray.identity import unit_key
from igd_ray.models import Layer
from igd_ray.models.anatomy.layers import recorded
from igd_ray.units.analyses.base import TABLE, measurement
from igd_ray.units.base import Passes, Rows, Shard, Unit
from igd_ray.units.judged import read_points
from igd_ray.units.ranking import read_ranking
from igd_ray.units.replica import Context

ANALYSIS = "activations"

# The neuron sets, by the k best neurons of which classes they are.
TRUE, POST_ATTACK, REMAINING, UNIMPORTANT = "true class", "class after the attack", "remaining classes", "no class"


@dataclass(frozen=True)
class ActivationChangeUnit(Unit):
    """The change of mean activations of four neuron sets, for the images of a shard that the base model gets right.

    Attributes:
        model_id, layer: whose activations.
        defense: the label of the defense with these masks, for people.
        ranking_id, k: which neurons are important to which class.
        attack: the label of the attack, for people.
        points: the key of the unit that keeps the attack's points.
        shard: the images.
    """

    model_id: str
    layer: Layer
    defense: str
    ranking_id: str
    k: int
    attack: str
    points: str
    shard: Shard

    kind = "activation-changes"
    tables = (TABLE,)

    @cached_property
    def key(self) -> str:
        """The hash of layer, ranking, k and points, which stand for the images and the model."""
        return unit_key(
            "analysis",
            analysis=ANALYSIS,
            model=self.model_id,
            layer=self.layer.identity,
            ranking=self.ranking_id,
            k=self.k,
            points=self.points,
            images=self.shard.digest,
        )

    @property
    def needs(self) -> frozenset[str]:
        """The points."""
        return frozenset({self.points})

    @property
    def title(self) -> str:
        """The kind, the attack and the masks."""
        return f"{self.kind} under {self.attack}, {self.defense}"

    def most_passes(self, num_classes: int) -> Passes:
        """The image and its point."""
        return Passes(2 * len(self.shard.ids), 0)

    @torch.no_grad()
    def compute(self, context: Context) -> dict[str, Rows]:
        """Run both passes."""
        images, labels = context.images(self.shard.images, self.shard.start, self.shard.stop)
        ((points, exist),) = list(read_points(context, self.points, self.shard, images).values())[:1]
        important = class_masks(read_ranking(context.catalog, self.ranking_id).scores, self.k).bool()
        important = important.to(images.device)
        with recorded(context.model, self.layer) as activations:
            clean = context.model(images).argmax(dim=1)
            after = context.model(points).argmax(dim=1)
        before, attacked = (self.layer.pool(each).double() for each in activations)
        rows = []
        for index in ((clean == labels) & exist).nonzero().flatten().tolist():
            label, prediction = int(labels[index]), int(after[index])
            for name, neurons in neuron_sets(important, label, prediction).items():
                rows.append(
                    measurement(
                        self.key,
                        ANALYSIS,
                        context,
                        quantity=name,
                        value=relative_change(before[index], attacked[index], neurons),
                        defense=self.defense,
                        attack=self.attack,
                        image_id=self.shard.ids[index],
                        label=label,
                        broken=prediction != label,
                    )
                )
        return {TABLE: rows}


def neuron_sets(important: Tensor, label: int, prediction: int) -> dict[str, Tensor]:
    """Return the neuron sets of one attacked image by name, bool [N] each.

    An unsuccessful attack has no set of the class after it: that is the true class.

    >>> sets = neuron_sets(torch.eye(3, 4).bool(), label=0, prediction=2)
    >>> {name: neurons.nonzero().flatten().tolist() for name, neurons in sets.items()}
    {'true class': [0], 'class after the attack': [2], 'remaining classes': [1], 'no class': [3]}

    Args:
        important: bool [C, N]: the k best neurons of each class.
        label: the true class.
        prediction: the class that the model predicts after the attack.
    """
    others = torch.ones(len(important), dtype=torch.bool, device=important.device)
    others[[label, prediction]] = False
    sets = {TRUE: important[label]}
    if prediction != label:
        sets[POST_ATTACK] = important[prediction]
    return {**sets, REMAINING: important[others].any(dim=0), UNIMPORTANT: ~important.any(dim=0)}


def relative_change(before: Tensor, after: Tensor, neurons: Tensor) -> float | None:
    """Return by how much percent the mean activation of `neurons` changes (Kulkarni & Weng, ECCV 2024, eq. 1 and 2).

    None for an empty set, and for one that is silent before: a change relative to zero is not defined.

    >>> before, after = torch.tensor([1.0, 3.0, 9.0]), torch.tensor([2.0, 4.0, 0.0])
    >>> relative_change(before, after, torch.tensor([True, True, False]))
    50.0

    Args:
        before, after: activations, [N].
        neurons: bool [N].
    """
    if not neurons.any():
        return None
    mean = float(before[neurons].mean())
    return None if mean == 0 else 100 * (float(after[neurons].mean()) - mean) / mean
