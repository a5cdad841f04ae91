"""Units that ask a random defense for clean images again and again: which ones does noise alone make it get wrong?"""

from dataclasses import dataclass, replace
from functools import cached_property

import torch

from igd_ray.defenses.specs import DefenseSpec
from igd_ray.errors import InputError
from igd_ray.identity import derive_seed, unit_key
from igd_ray.threat import judge
from igd_ray.units.base import Passes, Rows, Shard, Unit
from igd_ray.units.judged import base_passes, build_defense, clean_predictions
from igd_ray.units.replica import Context

TABLE = "noise"

# Evaluations of each clean image. An image that noise makes wrong one time in four is seen with 94 % (1 − 0.75¹⁰), and
# ten passes are little beside the hundreds of any attack.
NOISE_DRAWS = 10


@dataclass(frozen=True)
class NoiseUnit(Unit):
    """How often a random defense is wrong on clean images that it gets right at first.

    At first means the clean prediction in `outcomes` of a unit with the same defense, shard and seed.

    Attributes:
        defense: a random one. Noise makes no image wrong for any other: there is nothing to measure.
        shard: the images.
        seed: the run's seed.

    Raises:
        InputError: if the defense is not random.
    """

    defense: DefenseSpec
    shard: Shard
    seed: int

    kind = "noise"
    tables = (TABLE,)

    def __post_init__(self) -> None:
        if not self.defense.is_random:
            raise InputError(f"noise alone needs a random defense, {self.defense.label!r} is not; leave its unit out")

    @cached_property
    def key(self) -> str:
        """The hash of defense, images, number of evaluations and seed."""
        return unit_key(
            "noise",
            defense=self.defense.defense_id,
            images=self.shard.digest,
            draws=NOISE_DRAWS,
            seed=self.seed,
        )

    def halved(self) -> "tuple[NoiseUnit, NoiseUnit]":
        """Return two units of half the images each, for when memory does not suffice for all at once."""
        first, second = self.shard.halves()
        return replace(self, shard=first), replace(self, shard=second)

    @property
    def family(self) -> str:
        """The kind and the defense."""
        return f"{self.kind}/{self.defense.label}/"

    def most_passes(self, num_classes: int) -> Passes:
        """The clean images, then the draws."""
        return base_passes(self.defense, len(self.shard.ids), 1 + NOISE_DRAWS, 0)

    def compute(self, context: Context) -> dict[str, Rows]:
        """Ask for the clean images that are right, with fresh noise each time."""
        images, labels = context.images(self.shard.images, self.shard.start, self.shard.stop)
        generator = torch.Generator()
        target = build_defense(self.defense, context, generator)
        correct = clean_predictions(self.defense, self.shard, self.seed, target, images, generator) == labels
        failures: dict[int, int] = {}
        if correct.any():
            seed = derive_seed(self.key, "noise-only")
            verdict = judge(target, images[correct], generator, seed=seed, draws=NOISE_DRAWS)
            counts = verdict.broken(labels[correct]).sum(dim=0)
            failures = dict(zip(correct.nonzero().flatten().tolist(), counts.tolist(), strict=True))
        shared = {
            "unit_key": self.key,
            "model": context.setup.model.label,
            "dataset": context.setup.images[self.shard.images].dataset,
            "defense": self.defense.label,
            "defense_id": self.defense.defense_id,
        }
        rows = [
            {
                **shared,
                "image_id": image_id,
                "label": int(labels[index]),
                "clean_correct": index in failures,
                "draws": NOISE_DRAWS if index in failures else None,
                "failures": failures.get(index),
            }
            for index, image_id in enumerate(self.shard.ids)
        ]
        return {TABLE: rows}
