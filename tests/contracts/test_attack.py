"""The look at an attack finds what would spoil an evaluation, and passes the package's own attacks."""

from dataclasses import dataclass, field, replace
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor, nn

from igd_ray.attacks import APGD, FAB, FGSM, PGD, Attack, RayS, Square, moved_points
from igd_ray.attacks.base import Points
from igd_ray.attacks.counting import CountedTarget
from igd_ray.contracts import look_at_attack
from igd_ray.data import load_images
from igd_ray.models import load_model
from igd_ray.properties import Property
from igd_ray.threat import Norm, ThreatModel

MODEL = load_model("demo")
IMAGES, LABELS = (lambda digits: (digits.images, digits.labels))(load_images("digits", n=8))
THREAT = ThreatModel(Norm.LINF, 0.15)

NAMES = ["settings", "fit", "points", "finite", "range", "norm", "counts", "verdict", "seed", "batch", "misclassified"]
NAMES += ["cost"]


@dataclass(frozen=True, repr=False)
class Corners(Attack):
    """Random corners of the ball, until the target is wrong; what differs in a subclass is wrong with it."""

    queries: int = 4

    def most_passes(self, num_classes: int) -> tuple[int, int]:
        return 2 + self.queries, 0

    def search(self, target: CountedTarget, images: Tensor, labels: Tensor, threat: ThreatModel, seed: int) -> Points:
        before = target.queries, target.forwards, target.backwards
        generator = torch.Generator().manual_seed(seed)
        points, right = images.clone(), self.looked(target, images) == labels
        for _ in range(self.queries):
            signs = torch.randint(2, images[right].shape, generator=self.drawn_from(generator)) * 2 - 1
            points[right] = self.placed(images[right], threat.epsilon * signs)
            right = right & (self.ask(target)(points).argmax(dim=1) == labels)
        return self.returned(moved_points(points, "corners", target, before, images))

    def looked(self, target: CountedTarget, images: Tensor) -> Tensor:
        return target(images).argmax(dim=1)

    def drawn_from(self, generator: torch.Generator) -> torch.Generator | None:
        return generator

    def placed(self, images: Tensor, offset: Tensor) -> Tensor:
        return (images + offset).clamp(0, 1)

    def ask(self, target: CountedTarget) -> nn.Module:
        return target

    def returned(self, points: Points) -> Points:
        return points


class Far(Corners):
    def placed(self, images: Tensor, offset: Tensor) -> Tensor:
        return (images + 1.01 * offset).clamp(0, 1)


class Outside(Corners):
    def placed(self, images: Tensor, offset: Tensor) -> Tensor:
        return images + offset


class NotANumber(Corners):
    def returned(self, points: Points) -> Points:
        points.images[0] = torch.nan
        return points


class OfDoubles(Corners):
    def returned(self, points: Points) -> Points:
        return replace(points, images=points.images.double())


class Nothing(Corners):
    def returned(self, points: Points) -> Any:
        return None


class GlobalNoise(Corners):
    def drawn_from(self, generator: torch.Generator) -> None:
        return None


class Claiming(Corners):
    def returned(self, points: Points) -> Points:
        return replace(points, queries=points.queries + 100)


class Bypassing(Corners):
    def ask(self, target: CountedTarget) -> nn.Module:
        return MODEL


class Judging(Corners):
    def __call__(self, *arguments: Any, **named: Any) -> Any:  # type: ignore[misc]
        return super().__call__(*arguments, **named)


class SayingItAttacksAll(Corners):
    leaves_misclassified: ClassVar[bool] = False


class LookingElsewhere(Corners):
    def looked(self, target: CountedTarget, images: Tensor) -> Tensor:
        target(1 - images)
        return torch.cat([target(image[None]) for image in images]).argmax(dim=1)


class Printing(Corners):
    def returned(self, points: Points) -> Points:
        print("done")
        return points


class Failing(Corners):
    def returned(self, points: Points) -> Points:
        raise KeyError("points")


@dataclass(frozen=True, repr=False)
class OfTensors(Corners):
    start: Any = field(default_factory=lambda: torch.zeros(1))


class Training(Corners):
    def returned(self, points: Points) -> Points:
        with torch.no_grad():
            next(MODEL.parameters()).add_(1e-6)
        return points


BROKEN = {
    Far: ("norm", "a point is 0.1515 away, epsilon is 0.15"),
    Outside: ("range", "clamp them to [0, 1]"),
    NotANumber: ("finite", "1 of"),
    OfDoubles: ("points", "its points are torch.float64"),
    Nothing: ("points", "search returns NoneType"),
    GlobalNoise: ("seed", "torch.Generator().manual_seed(seed)"),
    Claiming: ("counts", "it claims"),
    Bypassing: ("counts", "ask nothing but `target`"),
    Judging: ("settings", "it overrides __call__"),
    SayingItAttacksAll: ("misclassified", "says leaves_misclassified = False"),
    Printing: ("points", "it prints 'done'"),
    Failing: ("points", "KeyError: 'points'"),
    OfTensors: ("settings", "numbers, texts, true or false"),
}


def look(attack: Attack) -> dict[str, Property]:
    return {each.name: each for each in look_at_attack(attack, MODEL, MODEL, IMAGES, LABELS, THREAT)}


@pytest.mark.parametrize(
    "attack",
    [Corners(), FGSM(), PGD(5), APGD("ce", steps=5), FAB(2, steps=5), Square(queries=20), RayS(queries=40)],
    ids=lambda attack: type(attack).__name__,
)
def test_an_attack_that_keeps_its_contract_passes(attack: Attack) -> None:
    found = look(attack)
    assert list(found) == NAMES
    assert not [each for each in found.values() if each.result == "error"]
    assert found["cost"].result == "ok"
    assert found["misclassified"].result == "ok"
    assert all(each.meaning for each in found.values())


@pytest.mark.parametrize("kind", BROKEN, ids=lambda kind: kind.__name__)
def test_what_is_wrong_with_an_attack_is_the_last_row(kind: type[Corners]) -> None:
    name, said = BROKEN[kind]
    last = list(look(kind()).values())[-1]
    assert (last.name, last.result) == (name, "error")
    assert said in last.found


def test_a_changed_model_is_found() -> None:
    before = next(MODEL.parameters()).clone()
    try:
        last = list(look(Training()).values())[-1]
    finally:
        with torch.no_grad():
            next(MODEL.parameters()).copy_(before)
    assert (last.name, last.result) == ("points", "error")
    assert "changes the model's weights" in last.found


def test_warnings_say_how_to_read_an_evaluation() -> None:
    looks = look(LookingElsewhere())["misclassified"]
    # Its first question about all eight images at once is about others.
    assert looks.result == "error"
    assert "ask target(images) first" in looks.found

    class Cheap(Corners):
        def most_passes(self, num_classes: int) -> tuple[int, int]:
            return 3, 0

    cost = look(Cheap())["cost"]
    assert (cost.result, cost.found) == (
        "warning",
        "6 queries and 0 gradients an image; by most_passes at most 3 and 0",
    )

    class Weak(Corners):
        def placed(self, images: Tensor, offset: Tensor) -> Tensor:
            return (images + 0.01 * offset).clamp(0, 1)

    assert look(Weak())["verdict"].result == "warning"
