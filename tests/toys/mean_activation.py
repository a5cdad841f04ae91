"""A ranking that the package does not know: one file, which registers itself when it is imported."""

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor, nn

from igd_ray.ranking import Batch, StatisticRanking, pooled_activations, register


@register("toy")
@dataclass(frozen=True)
class MeanActivation(StatisticRanking):
    """A neuron matters to a class as much as it is active on its images, on average."""

    def update(self, batch: Batch) -> Mapping[str, Tensor]:
        activations = pooled_activations(batch.model, self.layer, batch.images).double()
        classes = nn.functional.one_hot(batch.labels, len(self.class_names)).double()
        return {"totals": classes.T @ activations, "counts": classes.sum(dim=0)}

    def compute(self, state: Mapping[str, Tensor]) -> Tensor:
        return state["totals"] / state["counts"][:, None]
