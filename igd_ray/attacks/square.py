"""Square: random search with square-shaped changes, without gradients (Andriushchenko et al., ECCV 2020)."""

from dataclasses import KW_ONLY, dataclass
from typing import ClassVar

from pyautoattack.square import SquareAttack
from torch import Tensor

from igd_ray.attacks.apgd import require_positive
from igd_ray.attacks.base import POOLED, PYAUTOATTACK, QUERY, Points
from igd_ray.attacks.counting import CountedTarget
from igd_ray.attacks.engine.choice import EngineAttack
from igd_ray.attacks.engine.square import search_squares
from igd_ray.attacks.pyautoattack import NORM_NAMES, moved_points, run_search
from igd_ray.attacks.registry import register
from igd_ray.errors import InputError
from igd_ray.threat import Norm, ThreatModel, predicted_classes


@dataclass(frozen=True, repr=False)
class Square(EngineAttack):
    """Square attack on the margin of the images that the target gets right.

    Args:
        queries: how many queries per image and restart at most.
        restarts: random starts.
    """

    name: ClassVar[str] = "square"

    queries: int = 5000
    _: KW_ONLY
    restarts: int = 1

    def __post_init__(self) -> None:
        require_positive(queries=self.queries, restarts=self.restarts)

    @property
    def ways(self) -> frozenset[str]:
        """It asks for logits only."""
        return frozenset({QUERY})

    def check(self, num_classes: int, norm: Norm = Norm.LINF) -> None:
        """Check that the engine has the norm."""
        if self.engine == POOLED and norm is not Norm.LINF:
            raise InputError(
                f"Square of the {POOLED} engine (in AutoAttack, too) has the infinity norm only, not {norm.value}; "
                f"use --engine {PYAUTOATTACK}"
            )

    def most_passes(self, num_classes: int) -> tuple[int, int]:
        """Two first looks, then a start, `queries` queries and a last look for each restart."""
        return self.restarts * (self.queries + 2) + 2, 0

    def search(self, target: CountedTarget, images: Tensor, labels: Tensor, threat: ThreatModel, seed: int) -> Points:
        """Run the engine's Square."""
        if self.engine == POOLED:
            before = target.queries, target.forwards, target.backwards
            attacked = (predicted_classes(target, images) == labels).nonzero().flatten().tolist()
            budget = {"queries": self.queries, "restarts": self.restarts}
            points, _ = search_squares(target, images, labels, threat, seed, **budget, attacked=attacked)
            return moved_points(points, self.stage, target, before, images)
        attack = SquareAttack(
            target,
            norm=NORM_NAMES[threat.norm],
            n_queries=self.queries,
            eps=threat.epsilon,
            p_init=0.8,
            n_restarts=self.restarts,
            seed=seed,
            device=images.device,
            resc_schedule=False,
        )
        return run_search(attack.perturb, self.name, target, images, labels)


register("square", Square, budget="queries")
