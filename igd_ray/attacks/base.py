"""What every attack is: a search for points, which the base class then checks and judges itself.

No attack grades itself. After the search the base class checks the points' range and distance and asks the target
afresh; a point that is not allowed is an error, never a robust image.
"""

import copy
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import ClassVar, Self, final

import torch
from torch import Tensor, nn

from igd_ray.attacks.counting import CountedTarget, even_shares
from igd_ray.data.images import check_images
from igd_ray.errors import IgdError, InputError
from igd_ray.models.sources import code_digest
from igd_ray.threat import DISTANCE_TOLERANCE, Norm, ThreatModel, predicted_classes

# How an attack learns of its target: by its gradients, or by asking for logits or classes only.
GRADIENT, QUERY = "gradient", "query"

# Two passes that differ by more in some logit are those of a randomised target, as in the check `randomised`.
RANDOMISED_DIFFERENCE = 1e-4

# Whose code searches: pyautoattack's, image by image equal to AutoAttack's; or `igd_ray.attacks.engine`, which has the
# rows of all images in one pool and random numbers that belong to the image.
PYAUTOATTACK, POOLED = ENGINES = ("pyautoattack", "pooled")

# How often an attack looks at an image of a random target when noise spoils its looks: an image that is right one time
# in twenty is left over after so many less than once in a hundred times.
MOST_LOOKS = 100

# Metadata of a field that the settings of an attack leave out while it has its default value.
UNSTATED = {"stated": False}

# The name of the points that take the place of an attack's own first stage, see `Attack.given`.
FIRST_STAGE = "first-stage"

# Passes per image that tell a randomised target from a deterministic one: the images and blends of them, twice.
GUARD_PASSES = 4


class AttackError(IgdError):
    """An attack broke its contract: it left the ball or the image range, or returned NaN."""


# Points of an attack by name: [N, C, H, W], and a bool [N] that says where they exist.
GivenPoints = Mapping[str, tuple[Tensor, Tensor]]


@dataclass
class Points:
    """What a search found.

    Attributes:
        images: the point for each image, [N, C, H, W]; the clean image where there is none.
        stages: which attack of an ensemble found each point; None where none did.
        found: whether there is a point at all, bool [N].
        queries, forwards, backwards: int64 [N]; each image's share of the counts. A batch is searched as a whole,
            so counts are shared evenly among its images; the base class shares the rest evenly, too.
        alternatives: further points under a name, each with a bool [N] that says where it exists.
        attacked: which images the search did not leave alone, bool [N], where its first look does not tell.
    """

    images: Tensor
    stages: list[str | None]
    found: Tensor
    queries: Tensor
    forwards: Tensor
    backwards: Tensor
    alternatives: dict[str, tuple[Tensor, Tensor]] = field(default_factory=dict)
    attacked: Tensor | None = None


@dataclass(frozen=True)
class AttackResult:
    """Checked points and the target's fresh verdict on them.

    Attributes:
        adversarial: float32 [N, C, H, W] in [0, 1], within epsilon of the clean image; where several points were
            kept, one that breaks the target if any does.
        broken: bool [N]: the target, asked afresh, gives another class than the label for any of the points, or for
            the clean image where the search gave none.
        distance: float32 [N], of `adversarial`, in [0, 1] pixel units.
        queries, forwards, backwards: int64 [N], see `Points`; the fresh verdict is included.
        stages: which attack of an ensemble found the point; None where none did.
        found: bool [N]: whether the search gave a point other than the clean image.
        attacked: bool [N]: false where the search's own look called the image misclassified and left it alone.
        points: every point kept, by name, with a bool [N] that says where it exists.
    """

    adversarial: Tensor
    broken: Tensor
    distance: Tensor
    queries: Tensor
    forwards: Tensor
    backwards: Tensor
    stages: tuple[str | None, ...]
    found: Tensor
    attacked: Tensor
    points: Mapping[str, tuple[Tensor, Tensor]]


@dataclass(frozen=True, repr=False)
class Attack(ABC):
    """An attack: `attack(model, images, labels, threat=…, generator=…)`.

    A subclass is a frozen dataclass. Its fields are its settings, and it gives `search` and `most_passes`. It sees a
    logits callable and bounds, and nothing of defenses. A call runs in this order:

    1. Images and labels are checked, then `check` says whether the attack fits the number of classes and the norm.
    2. `search` returns points.
    3. Range, distance and finiteness of each point are checked, and the target is asked afresh for the verdict.

    Attributes:
        name: what its settings call it; by default the name of the class.
        point_names: the names of the points that it may keep for an image, first the one that the search returns.
        leaves_misclassified: it first looks at all images, and leaves alone those that are misclassified.
        needs_two_passes: it attacks only defenses that offer their two passes one by one.
        needs_surrogate: it attacks only defenses that offer a stand-in for their gradient.
    """

    name: ClassVar[str]
    point_names: ClassVar[tuple[str, ...]] = ("returned",)
    leaves_misclassified: ClassVar[bool] = True
    needs_two_passes: ClassVar[bool] = False
    needs_surrogate: ClassVar[bool] = False

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        if not hasattr(cls, "name"):
            cls.name = cls.__name__

    @property
    def eot(self) -> int:
        """How many answers of the target are averaged for each one used."""
        return 1

    @property
    def collapsed_eot(self) -> int:
        """In a collapsed attack, how many identical answers each computed one stands for; 1 in any other attack."""
        return 1

    @property
    def continues(self) -> str | None:
        """The label of a transfer whose points may take the place of this attack's first stage."""
        return None

    @property
    def image_set(self) -> str | None:
        """The set of images that holds its points, aligned with those evaluated; None for an attack that searches."""
        return None

    @property
    def ways(self) -> frozenset[str]:
        """How it learns of its target: `GRADIENT`, `QUERY`, both for an ensemble, nothing for points given."""
        return frozenset({GRADIENT})

    def ways_of(self, stage: str | None) -> frozenset[str]:
        """Return how the part called `stage` learns of the target; `ways` for an attack that has no parts."""
        return self.ways

    @property
    def settings(self) -> Mapping[str, object]:
        """Everything that the attack's result depends on besides target, images, threat model and seed.

        These are `name`, under "attack", the fields and, for an attack outside this package, its code. Left out are
        private fields, and those that are marked `UNSTATED` and have their default value.
        """
        code = code_digest(type(self))
        return {"attack": self.name, **self._fields(), **({} if code is None else {"code": code})}

    def _fields(self) -> dict[str, object]:
        values = [(each, getattr(self, each.name)) for each in fields(self) if not each.name.startswith("_")]
        stated = {each.name: value for each, value in values if each.metadata != UNSTATED or value != each.default}
        return {name: list(value) if isinstance(value, tuple) else value for name, value in stated.items()}

    @abstractmethod
    def search(self, target: CountedTarget, images: Tensor, labels: Tensor, threat: ThreatModel, seed: int) -> Points:
        """Search for points that the target gets wrong."""

    @abstractmethod
    def most_passes(self, num_classes: int) -> tuple[int, int]:
        """Return upper bounds of the queries and of the gradients per image, for a target of `num_classes` classes.

        The look at the number of classes is included, the verdict on each point kept is not.
        """

    def check(self, num_classes: int, norm: Norm = Norm.LINF) -> None:  # noqa: B027 — most attacks fit anything
        """Check that the attack fits a model of `num_classes` classes and a ball of `norm`.

        Raises:
            InputError: saying what the attack needs.
        """

    def for_classes(self, num_classes: int) -> Self:
        """Return the attack that takes this one's place on a model of `num_classes` classes: itself where it fits.

        With too few classes for the denominator of DLR, its numerator takes its place.
        """
        return self

    def fallback_notes(self, num_classes: int) -> tuple[str, ...]:
        """Return a clause for each thing that `for_classes`, not called yet, would replace or cut down."""
        return ()

    def collapsed(self) -> Self:
        """Return this attack for a deterministic target, where `eot` identical answers are computed once.

        The points are the same, bit for bit. A target that turns out random is an `AttackError`.
        """
        return self if self.eot == 1 else self._with(eot=1, collapsed_eot=self.eot)

    def on_engine(self, engine: str) -> Self:
        """Return this attack, searched by `engine`, one of `ENGINES`; itself where there is no choice."""
        return self

    @property
    def searched_by(self) -> Mapping[str, str]:
        """The engine of each of its stages that has one; nothing for an attack that is code of its own."""
        return {}

    @property
    def has_image_streams(self) -> bool:
        """Whether its random numbers belong to the image, so that its seed may not depend on the others of a batch."""
        return POOLED in self.searched_by.values()

    def given(self, points: GivenPoints) -> Self:
        """Return this attack with `points` for the images that are to be attacked; an InputError if it takes none."""
        raise InputError(f"{self!r} takes no points of other attacks, but was given {', '.join(points)}")

    @property
    def point_name(self) -> str:
        """The name of the point that the search returns first."""
        return self.point_names[0]

    @property
    def most_points(self) -> int:
        """How many points it may keep per image."""
        return len(self.point_names)

    @property
    def wasted_queries(self) -> int:
        """Upper bound of the queries per image of a run that noise spoils, so that it has to be repeated."""
        return 1 + 1 + self.most_points if self.leaves_misclassified else 0

    @property
    def guard_passes(self) -> int:
        """Queries per image by which a collapsed attack makes sure that its target is deterministic."""
        return GUARD_PASSES if self.collapsed_eot > 1 else 0

    def _with(self, **attributes: object) -> Self:
        """Return a copy with other `attributes`."""
        other = copy.copy(self)
        vars(other).update(attributes)
        return other

    @final
    def __call__(
        self, model: nn.Module, images: Tensor, labels: Tensor, *, threat: ThreatModel, generator: torch.Generator
    ) -> AttackResult:
        """Attack `model` on `images` and judge the points found.

        Args:
            model: [0, 1] images to logits [B, C]; a defense or a base model.
            images: float32 [N, C, H, W] in [0, 1].
            labels: int64 [N].
            threat: the norm and epsilon.
            generator: its seed (`generator.initial_seed()`) decides all of the attack's randomness; its state is
                neither used nor changed.

        Raises:
            InputError: if images or labels are not what they should be, the model answers with anything but logits,
                or the attack does not fit the model.
            AttackError: if the search returned points that are not allowed, or a collapsed attack met a random model.
            IgdError: if the model gives NaN or infinite logits for a point.
        """
        _check_input(images, labels)
        target = CountedTarget(model)
        # One memory layout, also of images with one channel, whose strides are ambiguous and steer the rounding.
        images = images.flatten().view(images.shape)
        num_classes = target.num_classes(images)
        self.check(num_classes, threat.norm)
        if labels.min() < 0 or labels.max() >= num_classes:
            raise InputError(
                f"labels must lie in 0…{num_classes - 1}, the model's classes, "
                f"but range over {int(labels.min())}…{int(labels.max())}"
            )
        if self.guard_passes:
            self._check_deterministic(target, images)
        target.await_look(len(images))
        # Copies: a search that wrote into the clean images would move what its points are measured against.
        points = self.search(target, images.clone(), labels.clone(), threat, generator.initial_seed())
        kept = {self.point_name: (points.images.detach(), points.found), **points.alternatives}
        chosen = images.clone()
        broken = torch.zeros(len(images), dtype=torch.bool, device=images.device)
        for name, (candidates, exists) in kept.items():
            self._check_points(candidates, images, exists, threat, name)
            # Rows without a point went unchecked: the clean image takes their place.
            candidates = torch.where(exists[:, None, None, None], candidates, images)
            kept[name] = candidates, exists
            wrong = predicted_classes(target, candidates) != labels
            if name == self.point_name:
                # Without a point of its own, an image stands for itself: a misclassified one is broken unattacked.
                chosen = candidates.clone()
            else:
                wrong &= exists
            better = wrong & ~broken
            chosen[better] = candidates[better]
            broken |= wrong
        extra = self._unclaimed_shares(target, points)
        return AttackResult(
            adversarial=chosen,
            broken=broken,
            distance=threat.norm.distance(chosen, images),
            queries=points.queries + extra[0],
            forwards=points.forwards + extra[1],
            backwards=points.backwards + extra[2],
            stages=tuple(points.stages),
            found=points.found,
            attacked=self._attacked(points, target, labels),
            points=kept,
        )

    def __repr__(self) -> str:
        settings = ", ".join(f"{name}={value!r}" for name, value in self._fields().items())
        return f"{type(self).__name__}({settings})"

    def _unclaimed_shares(self, target: CountedTarget, points: Points) -> tuple[Tensor, Tensor, Tensor]:
        """Share evenly what `target` counted beyond what the search put down to images: the base class's own looks."""
        claimed = int(points.queries.sum()), int(points.forwards.sum()), int(points.backwards.sum())
        counted = target.queries, target.forwards, target.backwards
        if any(claim > count for claim, count in zip(claimed, counted, strict=True)):
            raise AttackError(
                f"{self!r} claims {claimed} queries, forward and backward passes, the target counted {counted}"
            )
        return even_shares(target, claimed, len(points.images), points.images.device)

    def _attacked(self, points: Points, target: CountedTarget, labels: Tensor) -> Tensor:
        if points.attacked is not None:
            return points.attacked
        if not self.leaves_misclassified or target.first_look is None:
            return torch.ones_like(labels, dtype=torch.bool)
        return target.first_look == labels

    @torch.no_grad()
    def _check_deterministic(self, target: CountedTarget, images: Tensor) -> None:
        # Blends of two images, too: noise behind a hard pseudo-label shows only where the label is in doubt.
        points = torch.cat([images, (images + images.roll(1, dims=0)) / 2])
        difference = float((target(points) - target(points)).abs().max())
        if not difference <= RANDOMISED_DIFFERENCE:
            raise AttackError(
                f"{self!r} takes one answer for {self.collapsed_eot} identical ones, but two passes over the same "
                f"images differ by {difference:.2g} in a logit: the model is randomised; average its gradients with "
                "apgd-eot"
            )

    def _check_points(self, points: Tensor, images: Tensor, exists: Tensor, threat: ThreatModel, name: str) -> None:
        if points.shape != images.shape or points.dtype != images.dtype:
            raise AttackError(
                f"{self!r} returned {points.dtype} {list(points.shape)} as {name!r} points, "
                f"expected {images.dtype} {list(images.shape)}"
            )
        if exists.shape != images.shape[:1] or exists.dtype != torch.bool:
            raise AttackError(
                f"{self!r} returned {exists.dtype} {list(exists.shape)} for where {name!r} points exist, "
                f"expected bool [{len(images)}]"
            )
        points, images = points[exists], images[exists]
        if len(points) == 0:
            return
        if not torch.isfinite(points).all():
            count = int((~torch.isfinite(points)).flatten(1).any(dim=1).sum())
            raise AttackError(f"{self!r} returned NaN or infinity in {count} of {len(points)} {name!r} points")
        if points.min() < 0 or points.max() > 1:
            raise AttackError(
                f"{self!r} left [0, 1]: its {name!r} points range over [{points.min():g}, {points.max():g}]"
            )
        distance = threat.norm.distance(points, images).max()
        if distance > threat.epsilon + DISTANCE_TOLERANCE:
            raise AttackError(
                f"{self!r} left the ball: a {name!r} point is {distance:g} away, epsilon is {threat.epsilon:g}"
            )


def _check_input(images: Tensor, labels: Tensor) -> None:
    check_images(images)
    if images.dtype != torch.float32:
        raise InputError(f"expected float32 images, got {images.dtype}")
    if labels.shape != images.shape[:1] or labels.dtype != torch.int64:
        raise InputError(f"expected int64 labels [{len(images)}], got {labels.dtype} {list(labels.shape)}")
