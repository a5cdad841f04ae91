"""Units that time defenses and rankings, in turn with the base model's forward pass (the paper's table 12)."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Generator

from igd_ray.defenses.specs import DefenseSpec
from igd_ray.identity import derive_seed, unit_key
from igd_ray.units.analyses.base import TABLE, measurement
from igd_ray.units.base import Passes, Rows, Shard, Unit
from igd_ray.units.judged import build_defense
from igd_ray.units.replica import Context

ANALYSIS = "cost"
FORWARD, INFERENCE, RANKING = "forward pass", "inference", "ranking"


@dataclass(frozen=True)
class CostUnit(Unit):
    """The seconds of each repetition for a batch of images: the base model's forward pass, then what is compared.

    What is compared is a defense's forward pass or, of a ranking, the units that turn this batch into its states. What
    a ranking does once with the states of all batches is not timed, it takes no pass.

    Attributes:
        label: what is compared.
        defense: the defense; None for a ranking.
        units: the ranking's units for this batch.
        shard: the batch.
        repetitions: how often.
    """

    label: str
    defense: DefenseSpec | None
    units: tuple[Unit, ...]
    shard: Shard
    repetitions: int

    kind = "cost"
    tables = (TABLE,)

    @cached_property
    def key(self) -> str:
        """The hash of what is timed; the times themselves are the machine's."""
        return unit_key(
            "analysis",
            analysis=ANALYSIS,
            label=self.label,
            defense=None if self.defense is None else self.defense.defense_id,
            units=[unit.key for unit in self.units],
            images=self.shard.digest,
            repetitions=self.repetitions,
        )

    @property
    def title(self) -> str:
        """The kind and what is timed."""
        return f"{self.kind} of {self.label}"

    def most_passes(self, num_classes: int) -> Passes:
        """Those of each repetition and of one to warm up."""
        times = self.repetitions + 1
        forwards = len(self.shard.ids) * (1 + (self.defense.passes.query_forwards if self.defense else 0))
        backwards = len(self.shard.ids) * (self.defense.passes.query_backwards if self.defense else 0)
        of_units = [unit.most_passes(num_classes) for unit in self.units]
        return Passes(
            times * (forwards + sum(each.forwards for each in of_units)),
            times * (backwards + sum(each.backwards for each in of_units)),
        )

    def compute(self, context: Context) -> dict[str, Rows]:
        """Take the times, the first of each left out: it warms up."""
        images, _ = context.images(self.shard.images, self.shard.start, self.shard.stop)

        @torch.no_grad()
        def forward() -> None:
            context.model(images)

        compared, quantity = self._compared(context)
        rows = []
        for repetition in range(-1, self.repetitions):
            for name, act in ((FORWARD, forward), (quantity, compared)):
                seconds = _seconds(act, context.device)
                if repetition >= 0:
                    rows.append(
                        measurement(
                            self.key,
                            ANALYSIS,
                            context,
                            quantity=name,
                            value=seconds,
                            defense=self.label,
                            x=float(repetition),
                        )
                    )
        return {TABLE: rows}

    def _compared(self, context: Context) -> tuple[Callable[[], None], str]:
        """Return what is timed beside the forward pass, and what it is."""
        if self.defense is None:

            def rank() -> None:
                for unit in self.units:
                    unit.compute(context)

            return rank, RANKING
        images, _ = context.images(self.shard.images, self.shard.start, self.shard.stop)
        generator = Generator().manual_seed(derive_seed(self.key, "noise"))
        defended = build_defense(self.defense, context, generator)

        @torch.no_grad()
        def infer() -> None:
            defended(images)

        return infer, INFERENCE


def _seconds(act: Callable[[], None], device: str) -> float:
    """Return how long `act` takes, with what it has a GPU do."""
    started = time.perf_counter()
    act()
    if torch.device(device).type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - started
