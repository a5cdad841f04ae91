"""FAB: the fast adaptive boundary attack, which looks for the closest misclassified point (Croce & Hein, ICML 2020)."""

from collections.abc import Mapping

from pyautoattack.fab_pt import FABAttack_PT
from torch import Tensor

from igd_ray.attacks.apgd import few_targets_note, require_positive
from igd_ray.attacks.base import Attack, Points
from igd_ray.attacks.counting import CountedTarget
from igd_ray.attacks.pyautoattack import NORM_NAMES, run_search
from igd_ray.threat import ThreatModel


class FAB(Attack):
    """Targeted FAB, one run for each of the most likely wrong classes.

    Args:
        classes: how many wrong classes to aim at; all of them where the model has fewer.
        steps: iterations a run.
        restarts: random starts.
    """

    def __init__(self, classes: int = 9, *, steps: int = 100, restarts: int = 1) -> None:
        require_positive(classes=classes, steps=steps, restarts=restarts)
        self.classes, self.steps, self.restarts = classes, steps, restarts

    @property
    def settings(self) -> Mapping[str, object]:
        """Everything that the result depends on besides target, images, threat model and seed."""
        return {"attack": "fab-t", "classes": self.classes, "steps": self.steps, "restarts": self.restarts}

    def fallback_notes(self, num_classes: int) -> tuple[str, ...]:
        """Return that there are fewer wrong classes than asked for, where there are."""
        return few_targets_note(self.classes, num_classes)

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
        return run_search(attack.perturb, "fab-t", target, images, labels)
