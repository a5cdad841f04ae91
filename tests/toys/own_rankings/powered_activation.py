"""A ranking as a user's file, which imports a module beside it."""

from collections.abc import Mapping
from dataclasses import dataclass

from powers import powered
from torch import Tensor, nn

from igd_ray.ranking import Batch, StatisticRanking, pooled_activations


@dataclass(frozen=True)
class PoweredActivation(StatisticRanking):
    """A neuron matters to a class as much as a power of its activation on its images, on average."""

    power: float = 1.0

    def update(self, batch: Batch) -> Mapping[str, Tensor]:
        activations = powered(pooled_activations(batch.model, self.layer, batch.images).double(), self.power)
        classes = nn.functional.one_hot(batch.labels, len(self.class_names)).double()
        return {"totals": classes.T @ activations, "counts": classes.sum(dim=0)}

    def compute(self, state: Mapping[str, Tensor]) -> Tensor:
        return state["totals"] / state["counts"][:, None]
