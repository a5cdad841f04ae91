"""What an attack owes to an evaluation, beyond what its base class holds it to at every call."""

from functools import partial

import torch
from torch import Generator, Tensor, nn

from igd_ray.attacks.base import Attack, Points
from igd_ray.attacks.counting import CountedTarget
from igd_ray.defenses.contract import condition, counting
from igd_ray.identity import content_hash
from igd_ray.models.anatomy.stand_in import stand_in_logits
from igd_ray.properties import BrokenContractError, Check, Found, Property, properties_of
from igd_ray.threat import DISTANCE_TOLERANCE, ThreatModel, predicted_classes

# Points of one image may differ so much between batches: sums in another order.
SAME = 1e-4


class StandIn(nn.Module):
    """A model without gradients, with a stand-in for them: a target for attacks that follow one."""

    surrogate_passes = (2, 0, 1)

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model
        self.surrogate_logits = partial(stand_in_logits, self, model)

    @torch.no_grad()
    def forward(self, x: Tensor) -> Tensor:
        """Return the model's logits, without gradients."""
        logits: Tensor = self.model(x)
        return logits


def look_at_attack(
    attack: Attack, target: nn.Module, model: nn.Module, images: Tensor, labels: Tensor, threat: ThreatModel
) -> list[Property]:
    """Look at an attack on a few images, and stop at the first error.

    Args:
        attack: as `search` is called.
        target: what is attacked: the base model, or what the attack needs around it.
        model: the base model, deterministic.
        images: float32 [n, C, H, W] in [0, 1], n even.
        labels: int64 [n].
        threat: the norm and epsilon.
    """
    look = _Look(attack, target, model, images, labels, threat)
    checks: tuple[Check, ...] = (
        ("settings", "its name, fields and code tell its results from those of other attacks", look.settings),
        ("fit", "it attacks models of so many classes within this norm", look.fits),
        ("points", "one point per image, as the images are", look.points),
        ("finite", "a point with NaN is an error, never a robust image", look.finite),
        ("range", "a point outside [0, 1] is an error, never a broken image", look.range),
        ("norm", "a point farther than epsilon is an error, never a broken image", look.norm),
        ("counts", "passes are counted at the model, whatever the attack says", look.counts),
        (
            "verdict",
            "igd asks the model afresh at its points; what the attack says of itself counts nothing",
            look.verdict,
        ),
        ("seed", "a seed decides all randomness, so that any worker gives the same rows", look.seed),
        (
            "batch",
            "units of images are attacked as one batch: --shard-size has a part in what depends on it",
            look.batch,
        ),
        ("misclassified", "what it left alone because noise made it wrong is attacked once more", look.leaves),
        ("cost", "--dry-run tells passes and time by `most_passes`", look.cost),
    )
    return properties_of(checks)


class _Look:
    """The checks, each of which rests on those before."""

    def __init__(
        self,
        attack: Attack,
        target: nn.Module,
        model: nn.Module,
        images: Tensor,
        labels: Tensor,
        threat: ThreatModel,
    ) -> None:
        self._attack, self._target, self._model = attack, target, model
        self._images, self._labels, self._threat = images, labels, threat
        self._predicted = predicted_classes(target, images)
        self._classes = CountedTarget(target).num_classes(images)
        self._found = Points(images, [], torch.zeros(0), *3 * (torch.zeros(0),))
        self._counted, self._hooked = CountedTarget(target), (0, 0)
        self._random = False

    def search(
        self, labels: Tensor | None = None, rows: slice = slice(None), *, seed: int = 0, global_seed: int = 0
    ) -> tuple[Points, CountedTarget]:
        """Return what the attack finds, and what was counted, with the global generator at a seed."""
        labels = self._labels if labels is None else labels
        target, images = CountedTarget(self._target), self._images[rows]
        target.num_classes(images)
        target.await_look(len(images))
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(global_seed)
            points = self._attack.search(target, images.clone(), labels[rows].clone(), self._threat, seed)
        return points, target

    def settings(self) -> Found:
        if type(self._attack).__call__ is not Attack.__call__:
            raise BrokenContractError("it overrides __call__, in which igd judges its points; give `search` only")
        try:
            content_hash(dict(self._attack.settings))
        except (TypeError, ValueError) as error:
            raise BrokenContractError(f"its fields must be numbers, texts, true or false: {error}") from None
        return "ok", repr(self._attack)

    def fits(self) -> Found:
        self._attack.check(self._classes, self._threat.norm)
        return "ok", f"{self._classes} classes, {self._threat}"

    def points(self) -> Found:
        before = condition(self._model)
        with counting(self._model) as hooked:
            found, counted = self.search()
            self._hooked = hooked[0], hooked[1]
        if condition(self._model) != before:
            raise BrokenContractError("it changes the model's weights, mode or hooks; leave them as they are")
        images = self._images
        if not isinstance(found, Points):
            raise BrokenContractError(f"search returns {type(found).__name__}, not igd_ray.attacks.base.Points")
        if found.images.shape != images.shape or found.images.dtype != images.dtype:
            raise BrokenContractError(
                f"its points are {found.images.dtype} {list(found.images.shape)}, "
                f"not {images.dtype} {list(images.shape)}"
            )
        if found.found.dtype != torch.bool or found.found.shape != images.shape[:1]:
            raise BrokenContractError(
                f"`found` is {found.found.dtype} {list(found.found.shape)}, not bool [{len(images)}]"
            )
        self._found, self._counted = found, counted
        return "ok", f"for {int(found.found.sum())} of {len(images)} images"

    @property
    def _moved(self) -> tuple[Tensor, Tensor]:
        """The points that were found, and their images."""
        return self._found.images.detach()[self._found.found], self._images[self._found.found]

    def finite(self) -> Found:
        points, _ = self._moved
        wrong = int((~torch.isfinite(points)).flatten(1).any(dim=1).sum())
        if wrong:
            raise BrokenContractError(f"{wrong} of {len(points)} points have NaN or infinity")
        return "ok", "no NaN"

    def range(self) -> Found:
        points, _ = self._moved
        if not len(points):
            return "ok", "no points"
        low, high = points.aminmax()
        if low < 0 or high > 1:
            raise BrokenContractError(f"its points range over [{low:g}, {high:g}]; clamp them to [0, 1]")
        return "ok", f"[{low:.3g}, {high:.3g}]"

    def norm(self) -> Found:
        points, images = self._moved
        if not len(points):
            return "ok", "no points"
        farthest = float(self._threat.norm.distance(points, images).max())
        if farthest > self._threat.epsilon + DISTANCE_TOLERANCE:
            raise BrokenContractError(f"a point is {farthest:g} away, epsilon is {self._threat.epsilon:g}")
        return "ok", f"at most {farthest:.4g} of {self._threat.epsilon:.4g} away"

    def verdict(self) -> Found:
        result = self._attack(
            self._target, self._images, self._labels, threat=self._threat, generator=Generator().manual_seed(0)
        )
        right = self._predicted == self._labels
        broken = int((result.broken & right).sum())
        found = f"breaks {broken} of the {int(right.sum())} images that the model gets right"
        return ("ok" if broken else "warning"), found

    def counts(self) -> Found:
        claimed = tuple(int(each.sum()) for each in (self._found.queries, self._found.forwards, self._found.backwards))
        counted = self._counted.queries, self._counted.forwards, self._counted.backwards
        if any(claim > count for claim, count in zip(claimed, counted, strict=True)):
            raise BrokenContractError(
                f"it claims {claimed} queries, forward and backward passes, {counted} were counted; take the counts of "
                "`target`, as `moved_points` does"
            )
        # Less than a call of the base model may make the passes of a target around it.
        if self._target is self._model and counted[1:] != self._hooked:
            raise BrokenContractError(
                f"the model made {self._hooked} forward and backward passes, `target` counted {counted[1:]}; ask "
                "nothing but `target`"
            )
        return "ok", f"{counted[0]} queries, {counted[1]} forward and {counted[2]} backward passes, as hooks count"

    def seed(self) -> Found:
        again, _ = self.search(global_seed=1)
        differing = self._differing(again.images, self._found.images)
        if differing:
            raise BrokenContractError(
                f"points of {differing} images change with the global generator; draw from "
                "torch.Generator().manual_seed(seed), or seed the library within torch.random.fork_rng()"
            )
        other, _ = self.search(seed=1)
        self._random = bool(self._differing(other.images, self._found.images))
        return "ok", "random, the same again with the same seed" if self._random else "draws nothing at random"

    def batch(self) -> Found:
        if self._random:
            return "ok", "not measurable: its random numbers are drawn for a batch at once"
        half = len(self._images) // 2
        halves = [self.search(rows=rows)[0].images for rows in (slice(half), slice(half, None))]
        differing = self._differing(torch.cat(halves), self._found.images)
        found = f"points of {differing} of {len(self._images)} images differ when they are attacked in halves"
        return ("warning" if differing else "ok"), found

    def leaves(self) -> Found:
        half = len(self._images) // 2
        labels = self._predicted.clone()
        labels[:half] = (labels[:half] + 1) % self._classes
        found, target = self.search(labels)
        if found.attacked is not None:
            return "ok", "it says itself which images it attacked"
        moved = ((found.images != self._images).flatten(1).any(dim=1) & found.found).tolist()
        left_alone = not any(moved[:half])
        if not self._attack.leaves_misclassified:
            if left_alone and any(moved[half:]):
                raise BrokenContractError(
                    "it leaves misclassified images alone, but says leaves_misclassified = False: where noise made an "
                    "image wrong, it would count as attacked"
                )
            return "ok", "it attacks all images, as it says"
        if target.first_look is None or not torch.equal(target.first_look, self._predicted):
            if left_alone:
                raise BrokenContractError(
                    "its first question is not about all images as they are, so that igd cannot tell which it leaves "
                    "alone; ask target(images) first, or return Points(…, attacked=…)"
                )
            return "warning", "it attacks all images; say leaves_misclassified: ClassVar[bool] = False"
        if not left_alone:
            return "warning", "it attacks misclassified images, too; say leaves_misclassified: ClassVar[bool] = False"
        return "ok", "it leaves misclassified images alone, as it says"

    def cost(self) -> Found:
        queries, gradients = self._attack.most_passes(self._classes)
        n = len(self._images)
        gradient = max(1, int(getattr(self._target, "backward_passes", 1)))
        used = -(-self._counted.queries // n), -(-self._counted.backwards // (n * gradient))
        found = f"{used[0]} queries and {used[1]} gradients an image; by most_passes at most {queries} and {gradients}"
        return ("ok" if used[0] <= queries and used[1] <= gradients else "warning"), found

    def _differing(self, one: Tensor, other: Tensor) -> int:
        return int(((one - other).abs() > SAME).flatten(1).any(dim=1).sum())
