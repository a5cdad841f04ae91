"""What attacks share that pyautoattack and the engine of this package both have."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Self

from igd_ray.attacks.base import POOLED, PYAUTOATTACK, UNSTATED, Attack


@dataclass(frozen=True, repr=False)
class EngineAttack(Attack):
    """An attack that either of `ENGINES` searches.

    Attributes:
        engine: which one; `on_engine` chooses.
    """

    engine: str = field(default=PYAUTOATTACK, init=False, metadata=UNSTATED)

    @property
    def stage(self) -> str:
        """What it is called as the stage of an ensemble."""
        return self.name

    def on_engine(self, engine: str) -> Self:
        """Return this attack, searched by `engine`."""
        return self._with(engine=engine)

    @property
    def searched_by(self) -> Mapping[str, str]:
        """The engine."""
        return {self.stage: self.engine}


@dataclass(frozen=True, repr=False)
class ClimbingAttack(EngineAttack):
    """An attack that climbs a loss step by step.

    Attributes:
        ends_when_broken: whether an image leaves the pool at its first misclassified point; `collapsed` says so, where
            the target is deterministic. Otherwise each run goes to its end and keeps the last one, as a random target
            may have been wrong by chance.
    """

    ends_when_broken: bool = field(default=False, init=False, metadata=UNSTATED)

    def collapsed(self) -> Self:
        """Compute equal gradients once; in the pool, images also leave at their first misclassified point."""
        collapsed = super().collapsed()
        return collapsed._with(ends_when_broken=True) if self.engine == POOLED else collapsed
