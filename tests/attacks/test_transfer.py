"""Transfer APGD: every image, a random start, two points; held against the iterates that the model was shown."""

from dataclasses import dataclass

import pytest
import torch
from torch import Generator, Tensor, nn

from igd_ray.attacks import APGD, AttackResult, TransferAPGD
from igd_ray.attacks.transfer import HIGHEST_LOSS, LAST_MISCLASSIFIED
from igd_ray.threat import Norm, ThreatModel

STEPS = 12


@dataclass
class Run:
    """A transfer, and what went through the model while it searched.

    Attributes:
        iterates, logits: [STEPS + 1, N, …], the first of them the random start; the images in their own order,
            though those that the model gets right were shown first and the misclassified ones after them.
    """

    result: AttackResult
    iterates: Tensor
    logits: Tensor
    images: Tensor
    labels: Tensor

    @property
    def misclassified(self) -> Tensor:
        """Bool [STEPS + 1, N]."""
        return self.logits.argmax(dim=2) != self.labels


def watched(loss: str, model: nn.Module, images: Tensor, labels: Tensor, threat: ThreatModel, seed: int = 0) -> Run:
    iterates: list[Tensor] = []
    logits: list[Tensor] = []

    def keep(_module: nn.Module, inputs: tuple[Tensor], output: Tensor) -> None:
        if inputs[0].requires_grad:
            iterates.append(inputs[0].detach().clone())
            logits.append(output.detach().clone())

    handle = model.register_forward_hook(keep)
    try:
        attack = TransferAPGD(loss, steps=STEPS)
        result = attack(model, images, labels, threat=threat, generator=Generator().manual_seed(seed))
    finally:
        handle.remove()
    correct = model(images).argmax(dim=1) == labels
    order = torch.cat([correct.nonzero().flatten(), (~correct).nonzero().flatten()]).argsort()

    def in_order(shown: list[Tensor]) -> Tensor:
        runs = [torch.stack(shown[first : first + STEPS + 1]) for first in range(0, len(shown), STEPS + 1)]
        return torch.cat(runs, dim=1)[:, order]

    return Run(result, in_order(iterates), in_order(logits), images, labels)


def losses(name: str, logits: Tensor, labels: Tensor) -> Tensor:
    """Return cross-entropy, CW or DLR, [STEPS + 1, N], written out from METHOD.md."""
    true = logits.gather(2, labels.expand(len(logits), -1)[..., None])[..., 0]
    if name == "ce":
        return logits.logsumexp(dim=2) - true
    ordered = logits.sort(dim=2, descending=True).values
    others = logits.masked_fill(nn.functional.one_hot(labels, logits.shape[2]).bool(), -torch.inf).amax(dim=2)
    if name == "cw":
        return -(true - others)
    return -(true - others) / (ordered[..., 0] - ordered[..., 2])


@pytest.fixture(scope="module")
def wrong_rows() -> list[int]:
    return [1, 4]


@pytest.fixture(scope="module", params=["ce", "cw", "dlr"])
def loss(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture(scope="module")
def run(loss: str, model, digits: tuple[Tensor, Tensor], wrong_rows: list[int], threat: ThreatModel) -> Run:
    images, labels = digits[0], digits[1].clone()
    labels[wrong_rows] = (labels[wrong_rows] + 3) % 10
    return watched(loss, model, images, labels, threat)


def test_every_image_is_shown_at_every_step(run: Run) -> None:
    assert run.iterates.shape == (STEPS + 1, *run.images.shape)


def test_the_start_is_random_in_the_ball_for_every_image(run: Run, threat: ThreatModel) -> None:
    moved = (run.iterates[0] - run.images).flatten(1)
    assert moved.abs().max() <= threat.epsilon + 1e-6
    # On pixels that clipping to [0, 1] leaves alone, the start spreads over the whole interval.
    free = (run.images.flatten(1) > threat.epsilon) & (run.images.flatten(1) < 1 - threat.epsilon)
    spread = moved[free] / threat.epsilon
    assert spread.min() < -0.8
    assert spread.max() > 0.8
    assert abs(float(spread.mean())) < 0.2
    assert len(torch.unique(spread)) > 0.9 * len(spread)


def test_the_highest_loss_point_is_the_iterate_of_highest_loss(run: Run, loss: str) -> None:
    points, exists = run.result.points[HIGHEST_LOSS]
    assert exists.all()
    value = losses(loss, run.logits, run.labels)
    best = value.argmax(dim=0)
    for row, step in enumerate(best.tolist()):
        assert torch.equal(points[row], run.iterates[step, row]), row
    assert (value.amax(dim=0) > value[0]).all()  # so that it is not the start either


def test_the_last_misclassified_point_exists_where_some_iterate_was_misclassified(run: Run) -> None:
    points, exists = run.result.points[LAST_MISCLASSIFIED]
    assert torch.equal(exists, run.misclassified.any(dim=0))
    assert exists.any()
    assert not exists.all()
    for row in exists.nonzero().flatten().tolist():
        last = int(run.misclassified[:, row].nonzero().max())
        assert torch.equal(points[row], run.iterates[last, row]), row


def test_misclassified_images_are_attacked_like_any_other(run: Run, wrong_rows: list[int], loss: str) -> None:
    points, exists = run.result.points[HIGHEST_LOSS]
    assert exists[wrong_rows].all()
    assert (points[wrong_rows] != run.images[wrong_rows]).flatten(1).any(dim=1).all()
    assert [run.result.stages[row] for row in wrong_rows] == [f"apgd-{loss}"] * len(wrong_rows)


def test_the_clean_image_is_never_returned(run: Run) -> None:
    for points, exists in run.result.points.values():
        assert (points != run.images).flatten(1).any(dim=1)[exists].all()
    assert (run.result.adversarial != run.images).flatten(1).any(dim=1).all()
    assert run.result.found.all()


def test_an_image_is_broken_if_either_point_breaks_it(run: Run, model: nn.Module) -> None:
    either = torch.zeros_like(run.result.broken)
    for points, exists in run.result.points.values():
        either |= (model(points).argmax(dim=1) != run.labels) & exists
    assert torch.equal(run.result.broken, either)


def test_without_an_iterate_misclassified_there_is_no_last_one(model, digits: tuple[Tensor, Tensor]) -> None:
    tiny = ThreatModel(Norm.LINF, 1e-4)
    run = watched("ce", model, *digits, tiny)
    assert not run.misclassified.any()
    assert not run.result.points[LAST_MISCLASSIFIED][1].any()
    assert run.result.points[HIGHEST_LOSS][1].all()
    assert not run.result.broken.any()


def test_a_start_that_is_misclassified_is_kept_when_no_later_iterate_is(model, digits, threat) -> None:
    """Against labels that the attack's own loss cannot hold on to: it climbs away from the one it started wrong in."""

    class WrongAtFirst(nn.Module):
        """Misclassifies everything at its first call with a gradient, nothing later."""

        def __init__(self) -> None:
            super().__init__()
            self.calls = 0

        def forward(self, images: Tensor) -> Tensor:
            logits = model(images)
            self.calls += images.requires_grad
            return -logits if images.requires_grad and self.calls == 1 else logits

    run = watched("ce", WrongAtFirst(), *digits, ThreatModel(Norm.LINF, 1e-4))
    points, exists = run.result.points[LAST_MISCLASSIFIED]
    assert run.misclassified[0].all()
    assert not run.misclassified[1:].any()
    assert exists.all()
    assert torch.equal(points, run.iterates[0])


@pytest.mark.parametrize("norm", [Norm.LINF, Norm.L2], ids=str)
def test_on_images_that_are_right_it_walks_as_apgd_does(
    loss: str, norm: Norm, model, digits: tuple[Tensor, Tensor], wrong_rows: list[int], threat
) -> None:
    """So that one trajectory can serve both, as the first stage of AutoAttack, whatever else is in the batch."""
    images, labels = digits[0], digits[1].clone()
    labels[wrong_rows] = (labels[wrong_rows] + 3) % 10
    threat = threat if norm is Norm.LINF else ThreatModel(norm, 0.8)
    transfer = TransferAPGD(loss, steps=STEPS)(model, images, labels, threat=threat, generator=Generator())
    direct = APGD(loss, steps=STEPS)(model, images, labels, threat=threat, generator=Generator())
    points, exists = transfer.points[LAST_MISCLASSIFIED]
    right = model(images).argmax(dim=1) == labels
    assert (~right).nonzero().flatten().tolist() == wrong_rows
    assert torch.equal(exists[right], direct.found[right])
    assert direct.found.any()
    assert torch.equal(points[direct.found], direct.adversarial[direct.found])


def test_misclassified_images_are_a_batch_of_their_own(loss: str, run: Run, model, wrong_rows, threat) -> None:
    alone = TransferAPGD(loss, steps=STEPS)(
        model, run.images[wrong_rows], run.labels[wrong_rows], threat=threat, generator=Generator().manual_seed(0)
    )
    for name, (points, exists) in alone.points.items():
        assert torch.equal(run.result.points[name][0][wrong_rows], points), name
        assert torch.equal(run.result.points[name][1][wrong_rows], exists), name


def test_the_settings_name_the_batches(loss: str) -> None:
    assert TransferAPGD(loss).settings["batches"] == ["correct", "misclassified"]


def test_the_first_step_climbs_the_loss_of_its_name(loss: str, run: Run, model: nn.Module, threat) -> None:
    """Held against the sign of the gradient of the loss as METHOD.md writes it, not as pyautoattack does."""
    start = run.iterates[0].clone().requires_grad_()
    (gradient,) = torch.autograd.grad(losses(loss, model(start)[None], run.labels).sum(), [start])
    # The first step is twice epsilon long, so that it ends where the ball or [0, 1] ends.
    low, high = (run.images - threat.epsilon).clamp(min=0), (run.images + threat.epsilon).clamp(max=1)
    end = torch.where(gradient > 0, high, low)
    climbs = gradient.abs() > 1e-6
    assert climbs.float().mean() > 0.8
    assert torch.allclose(run.iterates[1][climbs], end[climbs], atol=1e-6)
