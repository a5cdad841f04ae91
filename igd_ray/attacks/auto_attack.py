"""AutoAttack: an ensemble without parameters to tune (Croce & Hein, ICML 2020)."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import ClassVar, Self

import torch
from torch import Tensor

from igd_ray.attacks.apgd import APGD, FEW_CLASSES, TargetedAPGD, require_positive
from igd_ray.attacks.base import FIRST_STAGE, MOST_LOOKS, POOLED, PYAUTOATTACK, UNSTATED, Attack, GivenPoints, Points
from igd_ray.attacks.counting import CountedTarget, even_shares
from igd_ray.attacks.fab import FAB
from igd_ray.attacks.registry import register
from igd_ray.attacks.square import Square
from igd_ray.errors import InputError, did_you_mean
from igd_ray.threat import Norm, ThreatModel, check_given, predicted_classes

# The version that is searched by the engine only.
FAST = "fast"

# The published budgets. "standard" is for deterministic targets, "rand" for randomised ones (20 gradients per step),
# "strong" is the stronger AutoAttack of Kulkarni & Weng, ECCV 2024, table 9.
VERSIONS: Mapping[str, tuple[tuple[str, Attack], ...]] = {
    "standard": (
        ("apgd-ce", APGD("ce")),
        ("apgd-t", TargetedAPGD()),
        ("fab-t", FAB()),
        ("square", Square()),
    ),
    "rand": (("apgd-ce", APGD("ce", eot=20)), ("apgd-dlr", APGD("dlr", eot=20))),
    "strong": (
        ("apgd-ce", APGD("ce", steps=200, restarts=10)),
        ("apgd-t", TargetedAPGD(steps=200, restarts=10)),
        ("fab-t", FAB(restarts=10)),
        ("square", Square(restarts=5)),
    ),
    # For a first answer: a tenth of the passes of "standard" for an image that stands, of which most go where most
    # images fall, to the likely target classes. Not AutoAttack: what it leaves may fall to that.
    FAST: (
        ("apgd-ce", APGD("ce", steps=25)),
        ("apgd-t", TargetedAPGD(classes=9, steps=25)),
        ("square", Square(250)),
    ),
}


@dataclass(frozen=True, repr=False)
class AutoAttack(Attack):
    """The attacks of one AutoAttack version in sequence, each on the images still correct.

    Every attack starts from the seed of the generator given, so that the verdicts are those of pyautoattack's
    `AutoAttack(version=…, seed=…)` on the same batch.

    Args:
        version: "standard" (APGD-CE, APGD-T, FAB-T, Square), "rand" (APGD-CE and APGD-DLR, 20 gradients per step) or
            "strong" (as "standard": APGD with 200 steps and 10 restarts, FAB-T with 10 restarts, Square with 5); or
            "fast" (APGD-CE and APGD-T of 25 steps, 250 queries of Square, in the engine's pool).
        percent: of the published steps and queries of each of its attacks.
    """

    name: ClassVar[str] = "autoattack"

    version: str = "standard"
    percent: int = field(default=100, metadata=UNSTATED)
    engine: str = field(default=PYAUTOATTACK, init=False, metadata=UNSTATED)
    _collapse: bool = field(default=False, init=False)
    _few_classes: int = field(default=0, init=False)
    _given: tuple[Tensor, Tensor] | None = field(default=None, init=False, compare=False)

    def __post_init__(self) -> None:
        if self.version not in VERSIONS:
            raise InputError(
                f"AutoAttack version must be one of {', '.join(VERSIONS)}, not {self.version!r}"
                f"{did_you_mean(self.version, VERSIONS)}"
            )
        require_positive(percent=self.percent)
        if self.version == FAST:
            object.__setattr__(self, "engine", POOLED)

    @property
    def _attacks(self) -> tuple[tuple[str, Attack], ...]:
        attacks = VERSIONS[self.version]
        if self.percent != 100:
            attacks = tuple((stage, _with_share(attack, self.percent / 100)) for stage, attack in attacks)
        attacks = tuple((stage, attack.on_engine(self.engine)) for stage, attack in attacks)
        if self._collapse:
            attacks = tuple((stage, attack.collapsed()) for stage, attack in attacks)
        if self._few_classes:
            attacks = tuple((stage, attack.for_classes(self._few_classes)) for stage, attack in attacks)
        return attacks

    @property
    def stages(self) -> tuple[str, ...]:
        """The names of its attacks, in sequence."""
        return tuple(name for name, _ in self._attacks)

    @property
    def ways(self) -> frozenset[str]:
        """Those of its attacks."""
        return frozenset[str]().union(*(attack.ways for _, attack in self._attacks))

    def ways_of(self, stage: str | None) -> frozenset[str]:
        """Return how the attack called `stage` learns of the target."""
        attacks = dict(self._attacks)
        return attacks[stage].ways if stage in attacks else self.ways

    @property
    def eot(self) -> int:
        """How many gradients its attacks average at most."""
        return max(attack.eot for _, attack in self._attacks)

    @property
    def collapsed_eot(self) -> int:
        """How many identical answers each one stands for, at most."""
        return max(attack.collapsed_eot for _, attack in self._attacks)

    @property
    def continues(self) -> str | None:
        """The transfer that walks as the first stage of "standard", in its published length, does."""
        published = self.version == "standard" and self.percent == 100 and self.engine == PYAUTOATTACK
        return "tr-apgd-ce" if published else None

    @property
    def settings(self) -> Mapping[str, object]:
        """Its version and the settings of its attacks."""
        return {
            **super().settings,
            "stages": [dict(attack.settings) for _, attack in self._attacks],
            **({"few_classes": FEW_CLASSES} if self._few_classes else {}),
            **({"first_stage": "given"} if self._given else {}),
        }

    def for_classes(self, num_classes: int) -> Self:
        """With too few classes for the DLR losses of its attacks, their margins take their place."""
        fits = all(attack.for_classes(num_classes) is attack for _, attack in self._attacks)
        return self if fits else self._with(_few_classes=num_classes)

    def fallback_notes(self, num_classes: int) -> tuple[str, ...]:
        """Return those of its attacks, each after its stage."""
        return tuple(
            f"{stage}: {note}" for stage, attack in self._attacks for note in attack.fallback_notes(num_classes)
        )

    def on_engine(self, engine: str) -> Self:
        """Return the sequence of its attacks, each searched by `engine` where that has it; "fast" has one engine."""
        return self if self.version == FAST else self._with(engine=engine)

    @property
    def searched_by(self) -> Mapping[str, str]:
        """The engines of its attacks."""
        return {stage: engine for stage, attack in self._attacks for engine in attack.searched_by.values()}

    def collapsed(self) -> Self:
        """Return the sequence of its attacks, collapsed; whether the target is deterministic is checked once."""
        return self if self.eot == 1 and self.engine == PYAUTOATTACK else self._with(_collapse=True)

    def given(self, points: GivenPoints) -> Self:
        """Return this attack, `continuing` the points called `FIRST_STAGE`."""
        return self.continuing(*points[FIRST_STAGE])

    def continuing(self, points: Tensor, fooled: Tensor) -> Self:
        """Return this attack with the points of its first stage, APGD-CE, which is then looked at but not run.

        Points, stages and verdicts are those of the attack itself if the points are the last misclassified ones of
        `TransferAPGD("ce")` with the same seed on the same target and images.

        Args:
            points: float32 [N, C, H, W], aligned with the images to be attacked.
            fooled: where there is one, bool [N].

        Raises:
            InputError: if the version is not "standard"; at the attack, if a point lies outside the ball or [0, 1].
        """
        if self.version != "standard":
            raise InputError(f"only AutoAttack 'standard' can continue given points, not {self.version!r}")
        return self._with(_given=(points, fooled))

    def check(self, num_classes: int, norm: Norm = Norm.LINF) -> None:
        """Check every attack of the version, or what takes its place with so few classes."""
        for _, attack in self.for_classes(num_classes)._attacks:
            attack.check(num_classes, norm)

    def most_passes(self, num_classes: int) -> tuple[int, int]:
        """A first look, then all of every attack and a look at its points; of a given first stage only the latter."""
        attacks = [attack for _, attack in self._attacks]
        bounds = [attack.most_passes(num_classes) for attack in attacks]
        if self._given:
            # The look at the number of classes remains.
            bounds[0] = 1 + attacks[0].guard_passes, 0
        # The target is checked once, not by every attack.
        guards = self.guard_passes - sum(attack.guard_passes for attack in attacks)
        return 1 + guards + sum(queries + 1 for queries, _ in bounds), sum(gradients for _, gradients in bounds)

    @property
    def wasted_queries(self) -> int:
        """That of a run, and a look of each attack."""
        return super().wasted_queries + len(self._attacks)

    def search(self, target: CountedTarget, images: Tensor, labels: Tensor, threat: ThreatModel, seed: int) -> Points:
        """Run the version's attacks in sequence; with few classes, those of `for_classes`."""
        attacks = self.for_classes(target.num_classes(images))._attacks
        given = None
        if self._given:
            points, fooled = self._given
            check_given(points, fooled, images, threat, "the first stage's points")
            points, fooled = points.to(images.device), fooled.to(images.device)
            given = torch.where(fooled[:, None, None, None], points, images)
        return search_in_sequence(attacks, target, images, labels, threat, seed, given=given)

    def __repr__(self) -> str:
        said = [repr(self.version)]
        if self.percent != 100:
            said.append(f"percent={self.percent}")
        if self.engine != PYAUTOATTACK:
            said.append(f"engine={self.engine!r}")
        if self._given:
            said.append("first_stage='given'")
        if self._collapse:
            said.append(f"collapsed_eot={self.collapsed_eot}")
        if self._few_classes:
            said.append(f"few_classes={FEW_CLASSES!r}")
        return f"AutoAttack({', '.join(said)})"


def _with_share(attack: Attack, share: float) -> Attack:
    """Return an attack of a version with a share of its steps, or queries, at least one."""
    name = "queries" if isinstance(attack, Square) else "steps"
    return attack._with(**{name: max(1, round(share * getattr(attack, name)))})


register("aa", AutoAttack, budget="percent")
register("aa-rand", partial(AutoAttack, "rand"))
register("aa-strong", partial(AutoAttack, "strong"))
register("aa-fast", partial(AutoAttack, FAST))
register("apgd-eot", partial(AutoAttack, "rand"), budget="percent", on_deterministic="tr-apgd-eot")


def search_in_sequence(
    attacks: Sequence[tuple[str, Attack]],
    target: CountedTarget,
    images: Tensor,
    labels: Tensor,
    threat: ThreatModel,
    seed: int,
    *,
    given: Tensor | None = None,
) -> Points:
    """Run `attacks`, each (stage name, attack), one after another on the images that are still correct.

    Every attack starts from the same `seed`, as AutoAttack does. An image whose clean version is misclassified is
    not attacked; one that only noise makes wrong when a later attack looks at it is looked at again.

    Args:
        given: the points of the first attack, [N, C, H, W], the clean image where it found none; it is then not run.
    """
    start = target.queries, target.forwards, target.backwards
    robust = predicted_classes(target, images) == labels
    attacked = robust.clone()
    queries, forwards, backwards = even_shares(target, start, len(images), images.device)
    adversarial = images.clone()
    stages: list[str | None] = [None] * len(images)
    for number, (stage, attack) in enumerate(attacks):
        rows = robust.nonzero().flatten()
        if len(rows) == 0:
            break
        before = target.queries, target.forwards, target.backwards
        if given is not None and number == 0:
            points = given[rows]
        else:
            points, spared = _search_standing(attack, target, images[rows], labels[rows], threat, seed)
            attacked[rows[spared]] = False
        # An image without a point has not been broken, whatever a random target says of it now.
        moved = (points != images[rows]).flatten(1).any(dim=1)
        wrong = (predicted_classes(target, points) != labels[rows]) & moved
        for total, shares in zip(
            (queries, forwards, backwards), even_shares(target, before, len(rows), images.device), strict=True
        ):
            total[rows] += shares
        adversarial[rows[wrong]] = points[wrong].detach()
        robust[rows[wrong]] = False
        for row in rows[wrong].tolist():
            stages[row] = stage
    found = torch.tensor([stage is not None for stage in stages], device=images.device)
    # What one attack broke needs no other, also where another one left it alone.
    return Points(adversarial, stages, found, queries, forwards, backwards, attacked=attacked | found)


def _search_standing(
    attack: Attack, target: CountedTarget, images: Tensor, labels: Tensor, threat: ThreatModel, seed: int
) -> tuple[Tensor, Tensor]:
    """Return the points of `attack`, [N, C, H, W], and the rows that noise made wrong at all of its looks, int64 [n].

    It is run again for images that noise made wrong at a look.
    """
    points = images.clone()
    rows = torch.arange(len(images), device=images.device)
    for _ in range(MOST_LOOKS):
        target.await_look(len(rows))
        points[rows] = attack.search(target, images[rows], labels[rows], threat, seed).images.detach()
        if not attack.leaves_misclassified or target.first_look is None:
            return points, rows[:0]
        rows = rows[target.first_look != labels[rows]]
        if len(rows) == 0:
            break
    return points, rows
