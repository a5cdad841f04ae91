"""FAB: the fast adaptive boundary attack, which looks for the closest misclassified point (Croce & Hein, ICML 2020)."""

from collections.abc import Mapping
from dataclasses import KW_ONLY, dataclass
from typing import ClassVar

from pyautoattack.fab_pt import FABAttack_PT
from torch import Tensor

from igd_ray.attacks.apgd import few_targets_note, require_positive
from igd_ray.attacks.base import PYAUTOATTACK, Attack, Points
from igd_ray.attacks.counting import CountedTarget
from igd_ray.attacks.pyautoattack import NORM_NAMES, run_search
from igd_ray.attacks.registry import register
from igd_ray.threat import ThreatModel


@dataclass(frozen=True, repr=False)
class FAB(Attack):
    """Targeted FAB, one run for each of the most likely wrong classes.

    Args:
        classes: how many wrong classes to aim at; all of them where the model has fewer.
        steps: iterations per run.
        restarts: random starts.
    """

    name: ClassVar[str] = "fab-t"

    classes: int = 9
    _: KW_ONLY
    steps: int = 100
    restarts: int = 1

    def __post_init__(self) -> None:
        require_positive(classes=self.classes, steps=self.steps, restarts=self.restarts)

    def fallback_notes(self, num_classes: int) -> tuple[str, ...]:
        """Return that there are fewer wrong classes than asked for, where there are."""
        return few_targets_note(self.classes, num_classes)

    @property
    def searched_by(self) -> Mapping[str, str]:
        """pyautoattack."""
        return {self.name: PYAUTOATTACK}

    def most_passes(self, num_classes: int) -> tuple[int, int]:
        """Two first looks, then for each class and restart three looks and `steps` steps of a gradient and a look."""
        runs = min(self.classes, num_classes - 1) * self.restarts
        return runs * (2 * self.steps + 3) + 2, runs * self.steps

    def search(self, target: CountedTarget, images: Tensor, labels: Tensor, threat: ThreatModel, seed: int) -> Points:
        """Run pyautoattack's targeted FAB; it returns the clean image where the closest point is beyond epsilon."""
        attack = FABAttack_PT(
            target,
            norm=NORM_NAMES[threat.norm],
            n_restarts=self.restarts,
            n_iter=self.steps,
            eps=threat.epsilon,
            seed=seed,
            targeted=True,
            device=images.device,
            n_target_classes=min(self.classes, target.num_classes(images) - 1),
        )
        return run_search(attack.perturb, self.name, target, images, labels)


register("fab-t", FAB, budget="steps")
