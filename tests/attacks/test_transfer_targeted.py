"""Transfer of targeted APGD-DLR: each run aims at another wrong class, on every image."""

from dataclasses import dataclass

import pytest
import torch
from torch import Generator, Tensor, nn

from igd_ray.attacks import AttackResult, TransferTargetedAPGD
from igd_ray.attacks.transfer import HIGHEST_LOSS, LAST_MISCLASSIFIED
from igd_ray.threat import Norm, ThreatModel
from tests.toys.models import FirstClasses, Watched

STEPS = 8
WRONG_ROWS = [1, 4]


@dataclass
class Runs:
    """A transfer in `runs` runs, and the iterates and logits of each, [runs, STEPS + 1, N, …]."""

    result: AttackResult
    iterates: Tensor
    logits: Tensor
    images: Tensor
    labels: Tensor
    clean_logits: Tensor

    @property
    def misclassified(self) -> Tensor:
        """Bool [runs, STEPS + 1, N]."""
        return self.logits.argmax(dim=3) != self.labels

    @property
    def targets(self) -> list[list[int]]:
        """For each image its wrong classes, the most likely one on the clean image first."""
        ranked = [logits.argsort(descending=True).tolist() for logits in self.clean_logits]
        return [[c for c in order if c != label] for order, label in zip(ranked, self.labels.tolist(), strict=True)]

    @property
    def losses(self) -> Tensor:
        """The loss of METHOD.md, [runs, STEPS + 1, N]; its numerator where there are fewer than four classes."""
        values = torch.empty(self.logits.shape[:3], dtype=torch.float64)
        for run in range(values.shape[0]):
            for row in range(values.shape[2]):
                z = self.logits[run, :, row].double()
                margin = z[:, self.targets[row][run]] - z[:, self.labels[row]]
                ordered = z.sort(dim=1, descending=True).values
                few = z.shape[1] < 4
                values[run, :, row] = margin if few else margin / (ordered[:, 0] - (ordered[:, 2] + ordered[:, 3]) / 2)
        return values


def watched(classes: int, model: nn.Module, images: Tensor, labels: Tensor, threat: ThreatModel) -> Runs:
    target = Watched(FirstClasses(model, classes))
    result = TransferTargetedAPGD(steps=STEPS)(target, images, labels, threat=threat, generator=Generator())
    shape = -1, STEPS + 1, len(images)
    with torch.no_grad():
        clean = model(images)[:, :classes]
    iterates, logits = torch.stack(target.images), torch.stack(target.logits)
    return Runs(
        result,
        iterates.reshape(*shape, *images.shape[1:]),
        logits.reshape(*shape, classes),
        images,
        labels,
        clean,
    )


@pytest.fixture(scope="module", params=[10, 4, 3, 2], ids="{} classes".format)
def classes(request: pytest.FixtureRequest) -> int:
    return request.param


@pytest.fixture(scope="module", params=[Norm.LINF, Norm.L2], ids=str)
def ball(request: pytest.FixtureRequest, threat: ThreatModel) -> ThreatModel:
    return threat if request.param is Norm.LINF else ThreatModel(Norm.L2, 0.8)


@pytest.fixture(scope="module")
def runs(classes: int, model: nn.Module, digits: tuple[Tensor, Tensor], ball: ThreatModel) -> Runs:
    images = digits[0]
    with torch.no_grad():
        labels = model(images)[:, :classes].argmax(dim=1)
    labels[WRONG_ROWS] = (labels[WRONG_ROWS] + 1) % classes
    return watched(classes, model, images, labels, ball)


def test_there_is_one_run_for_each_of_the_three_likeliest_wrong_classes(runs: Runs, classes: int) -> None:
    assert len(runs.iterates) == min(3, classes - 1)


def test_every_run_starts_at_another_random_point_on_every_image(runs: Runs, ball: ThreatModel) -> None:
    starts = runs.iterates[:, 0]
    for start in starts:
        assert ((start - runs.images).flatten(1) != 0).any(dim=1).all()
        assert ball.norm.distance(start, runs.images).max() <= ball.epsilon + 1e-6
    for later in starts[1:]:
        assert (later != starts[0]).flatten(1).any(dim=1).all()


def test_the_highest_loss_point_is_the_highest_of_all_runs(runs: Runs) -> None:
    points, exists = runs.result.points[HIGHEST_LOSS]
    assert exists.all()
    for row, point in enumerate(points):
        losses = runs.losses[:, :, row]
        shown = (runs.iterates[:, :, row] == point).flatten(2).all(dim=2)
        assert shown.any(), row
        # The attack's own losses are float32.
        assert torch.isclose(losses[shown].max(), losses.max(), rtol=1e-4, atol=1e-5), row


def test_runs_after_the_first_give_some_of_the_highest_losses(runs: Runs, classes: int) -> None:
    if classes > 2:
        assert (runs.losses.amax(dim=1).argmax(dim=0) > 0).any()


def test_the_last_misclassified_point_is_the_last_of_the_last_run_that_had_one(runs: Runs) -> None:
    points, exists = runs.result.points[LAST_MISCLASSIFIED]
    assert torch.equal(exists, runs.misclassified.flatten(0, 1).any(dim=0))
    for row in exists.nonzero().flatten().tolist():
        run, step = runs.misclassified[:, :, row].nonzero()[-1].tolist()
        assert torch.equal(points[row], runs.iterates[run, step, row]), row


def test_misclassified_images_are_attacked_and_the_clean_image_is_never_returned(runs: Runs) -> None:
    for points, exists in runs.result.points.values():
        assert (points != runs.images).flatten(1).any(dim=1)[exists].all()
    assert runs.result.found.all()
    assert set(runs.result.stages) == {"apgd-t-dlr"}


def test_an_image_is_broken_if_either_point_breaks_it(runs: Runs, classes: int, model: nn.Module) -> None:
    either = torch.zeros_like(runs.result.broken)
    for points, exists in runs.result.points.values():
        either |= (model(points)[:, :classes].argmax(dim=1) != runs.labels) & exists
    assert torch.equal(runs.result.broken, either)
