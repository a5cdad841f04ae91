"""FGSM: one step along the sign of the gradient (Goodfellow et al., ICLR 2015)."""

from collections.abc import Mapping

from igd_ray.attacks.pgd import PGD


class FGSM(PGD):
    """One step of size epsilon from the image itself, in the 2-norm along the gradient; draws nothing at random."""

    stage = "fgsm"

    def __init__(self) -> None:
        super().__init__(steps=1, step_size=1.0, random_start=False)

    @property
    def settings(self) -> Mapping[str, object]:
        """Everything that the result depends on besides target, images, threat model and seed."""
        return {"attack": "fgsm"}
