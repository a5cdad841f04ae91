"""The adaptive attacks: what each climbs, where it starts, what it costs; held against explicit computations.

The target is a guided defense of the demo model whose masks leave-one-out ranks.
"""

from collections.abc import Callable

import pytest
import torch
from torch import Generator, Tensor, nn
from torch.nn.functional import cross_entropy, one_hot

from igd_ray.attacks import (
    APGD,
    Attack,
    AttackResult,
    BestStartAPGD,
    DetachedMaskAPGD,
    EoTSquare,
    JointLossAPGD,
    LineAPGD,
    OracleMaskAPGD,
    Square,
    TransferAPGD,
    WarmStartedAPGD,
)
from igd_ray.attacks.adaptive import objective
from igd_ray.attacks.adaptive.objective import image_losses
from igd_ray.attacks.adaptive.two_pass import TwoPass
from igd_ray.attacks.adaptive.warm_start import WarmStartedAttack
from igd_ray.attacks.base import GivenPoints
from igd_ray.attacks.counting import CountedTarget
from igd_ray.attacks.pgd import random_points
from igd_ray.data import load_images
from igd_ray.defenses import InterpretabilityGuidedDefense, class_masks
from igd_ray.errors import InputError
from igd_ray.models.anatomy.layers import find_layer
from igd_ray.ranking import leave_one_out
from igd_ray.threat import Norm, ThreatModel
from tests.toys.attacking import run_attack
from tests.toys.counting import PassCounter, hooks_of
from tests.toys.models import Watched

ENDS = ("transfer", "white-box")

STARTED = [
    WarmStartedAPGD("ce", steps=4, sources=["transfer"]),
    WarmStartedAPGD("dlr", steps=3, eot=2, sources=ENDS),
    BestStartAPGD("cw", steps=4, sources=ENDS),
    BestStartAPGD("ce", steps=2, eot=2, sources=ENDS),
    LineAPGD("ce", steps=4),
    LineAPGD("cw", steps=2, eot=2),
]
TWO_PASS = [
    JointLossAPGD("ce", steps=4),
    JointLossAPGD("dlr", steps=3, eot=2),
    OracleMaskAPGD("ce", steps=4),
    OracleMaskAPGD("cw", steps=3),
    DetachedMaskAPGD("ce", steps=4),
    DetachedMaskAPGD("cw", steps=3, eot=2, backward="identity"),
]
ATTACKS = [*STARTED, *TWO_PASS]
every_attack = pytest.mark.parametrize("attack", ATTACKS, ids=repr)
every_started = pytest.mark.parametrize("attack", STARTED, ids=repr)
every_two_pass = pytest.mark.parametrize("attack", TWO_PASS, ids=repr)

# The image whose label is made wrong, so that the defense misclassifies it without any attack.
MISLABELLED = 2
# The image that the transfer has no point for.
WITHOUT_TRANSFER = 7


@pytest.fixture(scope="module")
def labels(digits: tuple[Tensor, Tensor]) -> Tensor:
    labels = digits[1].clone()
    labels[MISLABELLED] = (labels[MISLABELLED] + 1) % 10
    return labels


@pytest.fixture(scope="module")
def defend(model: nn.Module, digits: tuple[Tensor, Tensor]) -> Callable[..., InterpretabilityGuidedDefense]:
    """Build the defense that keeps each class's 24 most important neurons; its noise starts from seed 5."""
    layer = find_layer(model, "penultimate", digits[0][:1])
    masks = class_masks(leave_one_out(model, load_images("digits", split="train", n=200)).scores, 24)

    def build(sigma: float, draws: int = 1, tau: float = 0.01) -> InterpretabilityGuidedDefense:
        noise = Generator().manual_seed(5)
        return InterpretabilityGuidedDefense(
            model, masks, layer=layer, sigma=sigma, tau=tau, draws=draws, generator=noise
        )

    return build


@pytest.fixture(scope="module")
def starts(model: nn.Module, defend, images: Tensor, labels: Tensor, threat: ThreatModel) -> GivenPoints:
    """A transfer point for every image but one, and the white-box points of a short attack."""
    carried = run_attack(TransferAPGD("ce", steps=4), model, images, labels, threat).points["highest-loss"]
    direct = run_attack(APGD("ce", steps=4), defend(0.0), images, labels, threat).points["returned"]
    exists = carried[1].clone()
    exists[WITHOUT_TRANSFER] = False
    return {"transfer": (carried[0], exists), "white-box": direct}


def ready(attack: Attack, starts: GivenPoints, rows: slice = slice(None)) -> Attack:
    """Give an attack that needs them its starts, for the images of `rows`."""
    if not isinstance(attack, WarmStartedAttack):
        return attack
    return attack.starting_from({name: (starts[name][0][rows], starts[name][1][rows]) for name in attack.sources})


@pytest.fixture(scope="module")
def results() -> dict[str, AttackResult]:
    return {}


@pytest.fixture
def result(attack: Attack, results, defend, starts, images, labels, threat) -> AttackResult:
    """The attack on the defense without noise, with seed 0, computed once."""
    if repr(attack) not in results:
        results[repr(attack)] = run_attack(ready(attack, starts), defend(0.0), images, labels, threat)
    return results[repr(attack)]


class TestContract:
    """What `test_attack_contract.py` asks of attacks that need neither two passes nor starts."""

    @every_attack
    def test_every_point_is_an_image_within_epsilon_and_judged_afresh(
        self, result: AttackResult, defend, images: Tensor, labels: Tensor, threat: ThreatModel
    ) -> None:
        assert result.adversarial.min() >= 0
        assert result.adversarial.max() <= 1
        assert (result.adversarial - images).abs().max() <= threat.epsilon + 1e-6
        assert torch.equal(result.broken, defend(0.0)(result.adversarial).argmax(dim=1) != labels)
        assert result.found.tolist() == [stage is not None for stage in result.stages]

    @every_attack
    def test_misclassified_images_are_broken_without_being_attacked(self, result: AttackResult, images) -> None:
        assert result.broken[MISLABELLED]
        assert torch.equal(result.adversarial[MISLABELLED], images[MISLABELLED])
        assert not result.found[MISLABELLED]

    @every_attack
    def test_the_attack_breaks_some_images(self, result: AttackResult) -> None:
        assert int(result.broken.sum()) > 1

    @every_attack
    def test_images_that_hold_get_a_point_too(self, attack: Attack, result: AttackResult) -> None:
        """A line without a transfer point starts at the image, and may end there."""
        attacked = torch.ones_like(result.found)
        attacked[MISLABELLED] = False
        if isinstance(attack, LineAPGD):
            attacked[WITHOUT_TRANSFER] = False
        assert result.found[attacked].all()

    @every_attack
    def test_the_seed_alone_decides_and_nothing_outside_is_changed(
        self, attack: Attack, result: AttackResult, defend, starts, images, labels, threat, model: nn.Module
    ) -> None:
        before = images.clone(), {name: points.clone() for name, (points, _) in starts.items()}
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(987)
            state = torch.random.get_rng_state()
            again = run_attack(ready(attack, starts), defend(0.0), images, labels, threat)
            assert torch.equal(torch.random.get_rng_state(), state)
        assert torch.equal(again.adversarial, result.adversarial)
        assert torch.equal(again.queries, result.queries)
        assert torch.equal(images, before[0])
        assert all(torch.equal(starts[name][0], points) for name, points in before[1].items())
        assert hooks_of(model) == 0

    @every_attack
    @pytest.mark.parametrize(("sigma", "draws"), [(0.0, 1), (0.07, 2)], ids=["no noise", "two draws"])
    def test_counts_are_the_passes_that_the_base_model_ran(
        self, attack: Attack, sigma: float, draws: int, defend, starts, images, labels, threat, model: nn.Module
    ) -> None:
        with PassCounter(model.conv1) as counter:
            result = run_attack(ready(attack, starts), defend(sigma, draws), images, labels, threat)
        assert int(result.forwards.sum()) == counter.forwards
        assert int(result.backwards.sum()) == counter.backwards
        assert counter.backwards > 0
        queries, gradients = attack.most_passes(10)
        assert int(result.queries.sum()) <= len(images) * (queries + 1)
        passes = defend(sigma, draws).forward_passes
        assert counter.forwards <= len(images) * (queries + 1) * passes
        assert counter.backwards <= len(images) * gradients * passes
        assert (result.adversarial - images).abs().max() <= threat.epsilon + 1e-6

    @every_attack
    @pytest.mark.parametrize("row", [0, MISLABELLED, WITHOUT_TRANSFER])
    def test_one_image_is_a_batch(
        self, attack: Attack, row: int, defend, starts, images, labels, threat: ThreatModel
    ) -> None:
        rows = slice(row, row + 1)
        alone = run_attack(ready(attack, starts, rows), defend(0.0), images[rows], labels[rows], threat)
        assert alone.adversarial.shape == (1, 1, 8, 8)

    @every_attack
    def test_the_l2_ball_holds_as_well(self, attack: Attack, defend, images: Tensor, labels: Tensor) -> None:
        threat = ThreatModel(Norm.L2, 0.8)
        points = random_points(images, threat, Generator().manual_seed(3))
        everywhere = torch.ones(len(images), dtype=torch.bool)
        given = dict.fromkeys(ENDS, (points, everywhere))
        result = run_attack(ready(attack, given), defend(0.0), images, labels, threat)
        lengths = (result.adversarial - images).double().flatten(1).square().sum(dim=1).sqrt()
        assert lengths.max() <= 0.8 + 1e-6

    @pytest.mark.parametrize(
        ("build", "what"),
        [
            (lambda: JointLossAPGD("cv"), "loss must be one of ce, cw, dlr, not 'cv'"),
            (lambda: JointLossAPGD(steps=0), "steps must be at least 1, not 0"),
            (lambda: OracleMaskAPGD(steps=0), "steps must be at least 1, not 0"),
            (lambda: DetachedMaskAPGD(eot=0), "eot must be at least 1, not 0"),
            (lambda: DetachedMaskAPGD(backward="identiti"), "did you mean 'identity'"),
            (lambda: EoTSquare(0), "queries must be at least 1, not 0"),
            (lambda: EoTSquare(eot=0), "eot must be at least 1, not 0"),
            (lambda: WarmStartedAPGD(sources=[]), "at least one"),
            (lambda: WarmStartedAPGD(sources=["a", "a"]), "different names"),
            (lambda: LineAPGD(sources=["a"]), "a line has two ends"),
            (lambda: JointLossAPGD("dlr").check(2), "needs at least 3 classes, the model has 2"),
        ],
    )
    def test_settings_that_make_no_sense_are_refused(self, build: Callable[[], object], what: str) -> None:
        with pytest.raises(InputError, match=what):
            build()


class TestTwoPasses:
    @every_two_pass
    def test_a_target_without_two_passes_is_refused(self, attack: Attack, model, images, labels, threat) -> None:
        with pytest.raises(InputError, match=r"which \w+ does not offer; attack a defense with masks"):
            run_attack(attack, model, images, labels, threat)

    def test_the_passes_one_by_one_are_the_defense_and_are_counted(self, defend, model, images: Tensor) -> None:
        defense = defend(0.07, draws=3)
        assert isinstance(defense, TwoPass)
        expected = defend(0.07, draws=3)(images)
        target = CountedTarget(defense)
        passes = target.two_pass()
        with PassCounter(model.conv1) as counter, torch.no_grad():
            first = passes.first_logits(images)
            assert (target.queries, target.forwards, target.backwards) == (12, 36, 0)
            final = passes.masked_logits(images, passes.pseudo_labels(first))
        assert torch.equal(final, expected)
        assert (target.queries, target.forwards, target.backwards) == (24, 48, 0)
        assert counter.forwards == 48

    @pytest.mark.parametrize(("which", "backwards"), [("first", 36), ("masked", 12)])
    def test_a_gradient_of_one_pass_costs_that_pass(
        self, which: str, backwards: int, defend, model, images: Tensor
    ) -> None:
        target = CountedTarget(defend(0.07, draws=3))
        passes = target.two_pass()
        points = images.clone().requires_grad_()
        with PassCounter(model.conv1) as counter:
            if which == "first":
                logits = passes.first_logits(points)
            else:
                logits = passes.masked_logits(points, one_hot(torch.arange(12) % 10, 10).float())
            torch.autograd.grad(logits.sum(), [points])
        assert target.backwards == counter.backwards == backwards


def objective_of(attack: Attack, monkeypatch, defense: nn.Module, images, labels, threat, run_number: int = 0):
    """Return what a run of `attack` climbs on `images`, all attacked: points to logits and losses."""
    climbed = []

    def keep(_self, objective, task, **_settings):
        climbed.append(objective)
        return task.images, torch.zeros(len(task.images), dtype=torch.bool)

    monkeypatch.setattr(objective.ObjectiveAPGD, "climb", keep)
    rows = torch.arange(len(images))
    attack.run(objective.Task(run_number, CountedTarget(defense), images, labels, rows, threat, 0))
    return climbed[0]


def gradient_of(losses: Callable[[Tensor], Tensor], points: Tensor) -> Tensor:
    points = points.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(losses(points).sum(), [points])
    return gradient


class TwoNeurons(nn.Module):
    """z = W (ỹ ⊙ (V x)) for an image x of two pixels: the mask of class 0 keeps neuron 0, that of class 1 neuron 1."""

    V = torch.tensor([[2.0, -1.0], [0.5, 3.0]], dtype=torch.float64)
    W = torch.tensor([[1.0, -2.0], [-0.5, 1.5]], dtype=torch.float64)
    draws = 1

    def first_logits(self, x: Tensor) -> Tensor:
        return x.flatten(1) @ self.V.T @ self.W.T

    def pseudo_labels(self, first_logits: Tensor) -> Tensor:
        return first_logits.softmax(dim=1)

    def masked_logits(self, x: Tensor, class_weights: Tensor) -> Tensor:
        return (x.flatten(1) @ self.V.T * class_weights) @ self.W.T

    def forward(self, x: Tensor) -> Tensor:
        return self.masked_logits(x, self.pseudo_labels(self.first_logits(x)))


X = torch.tensor([0.4, 0.7], dtype=torch.float64)


class TestByHand:
    """On two neurons everything can be written out: V x = (0.1, 2.3), z⁽¹⁾ = W V x = (−4.5, 3.4)."""

    @pytest.fixture
    def by_hand(self, monkeypatch, threat: ThreatModel):
        def build(attack: Attack, label: int, run_number: int = 0):
            images, labels = X.view(1, 1, 1, 2), torch.tensor([label])
            return objective_of(attack, monkeypatch, TwoNeurons(), images, labels, threat, run_number)

        return build

    def test_the_joint_loss_is_that_of_both_passes(self, by_hand) -> None:
        a = [2 * 0.4 - 0.7, 0.5 * 0.4 + 3 * 0.7]
        first = [a[0] - 2 * a[1], -0.5 * a[0] + 1.5 * a[1]]
        assert (a, first) == (pytest.approx([0.1, 2.3]), pytest.approx([-4.5, 3.4]))
        # ỹ = (1, e^7.9) / (1 + e^7.9) and z = W (ỹ ⊙ a).
        second = float(torch.tensor(7.9, dtype=torch.float64).exp())
        weights = [1 / (1 + second), second / (1 + second)]
        final = [weights[0] * a[0] - 2 * weights[1] * a[1], -0.5 * weights[0] * a[0] + 1.5 * weights[1] * a[1]]
        logits, losses = by_hand(JointLossAPGD("cw"), label=1)(X.view(1, 1, 1, 2))
        assert logits[0].tolist() == pytest.approx(final)
        assert float(losses) == pytest.approx((first[0] - first[1]) + (final[0] - final[1]))

    def test_the_joint_gradient_flows_through_both_passes(self, by_hand) -> None:
        objective = by_hand(JointLossAPGD("cw"), label=1)
        points = X.view(1, 1, 1, 2)
        gradient = gradient_of(lambda points: objective(points)[1], points)
        # Central differences, in float64.
        for pixel in range(2):
            step = torch.zeros_like(points)
            step[..., pixel] = 1e-6
            slope = (objective(points + step)[1] - objective(points - step)[1]) / 2e-6
            assert float(gradient[..., pixel]) == pytest.approx(float(slope), rel=1e-6)

    @pytest.mark.parametrize(("run_number", "neuron"), [(0, 1), (1, 0)], ids=["true class", "runner-up"])
    def test_the_oracle_s_gradient_is_that_of_one_neuron(self, by_hand, run_number: int, neuron: int) -> None:
        """Class 1 is true: its mask keeps neuron 1. CW is z₀ − z₁ = (W₀ᵢ − W₁ᵢ)·Vᵢ x, whose gradient is constant."""
        objective = by_hand(OracleMaskAPGD("cw"), label=1, run_number=run_number)
        gradient = gradient_of(lambda points: objective(points)[1], X.view(1, 1, 1, 2))
        factor = [1.0 - -0.5, -2.0 - 1.5][neuron]
        row = [[2.0, -1.0], [0.5, 3.0]][neuron]
        assert gradient.flatten().tolist() == pytest.approx([factor * row[0], factor * row[1]])
        # The answer that decides is the defense's own.
        assert torch.equal(objective(X.view(1, 1, 1, 2))[0], TwoNeurons()(X.view(1, 1, 1, 2)))

    def test_a_constant_mask_has_no_gradient_of_its_own(self, by_hand) -> None:
        """∂(z₀ − z₁)/∂x = Σᵢ (W₀ᵢ − W₁ᵢ)·ỹᵢ·Vᵢ, with ỹ as it is."""
        objective = by_hand(DetachedMaskAPGD("cw"), label=1)
        gradient = gradient_of(lambda points: objective(points)[1], X.view(1, 1, 1, 2))
        weight = 1 / (1 + float(torch.tensor(7.9, dtype=torch.float64).exp()))
        expected = [1.5 * weight * 2.0 - 3.5 * (1 - weight) * 0.5, 1.5 * weight * -1.0 - 3.5 * (1 - weight) * 3.0]
        assert gradient.flatten().tolist() == pytest.approx(expected)

    def test_the_identity_s_gradient_is_that_of_all_neurons(self, by_hand) -> None:
        """Its value is the defense's, its gradient Σᵢ (W₀ᵢ − W₁ᵢ)·Vᵢ = 1.5·(2, −1) − 3.5·(0.5, 3)."""
        objective = by_hand(DetachedMaskAPGD("cw", backward="identity"), label=1)
        points = X.view(1, 1, 1, 2)
        assert torch.equal(objective(points)[0], TwoNeurons()(points))
        gradient = gradient_of(lambda points: objective(points)[1], points)
        assert gradient.flatten().tolist() == pytest.approx([1.25, -12.0])


class TestGradients:
    """The attack's gradients on the defended demo model are those of the defense's own methods, in float64."""

    @pytest.fixture
    def doubled(self, defend, model: nn.Module):
        """The defense in float64; the session's model is given back as it was."""
        model.double()
        yield defend(0.0, tau=2.0)
        model.float()

    def test_those_of_the_oracle_are_those_of_one_hot_weights(
        self, doubled, monkeypatch, images: Tensor, labels: Tensor, threat: ThreatModel
    ) -> None:
        points = images.double()
        with torch.no_grad():
            runner_up = doubled(points).scatter(1, labels[:, None], -torch.inf).argmax(dim=1)
        for run_number, classes in ((0, labels), (1, runner_up)):
            with monkeypatch.context() as patch:
                objective = objective_of(OracleMaskAPGD("ce"), patch, doubled, points, labels, threat, run_number)
            gradient = gradient_of(lambda points, objective=objective: objective(points)[1], points)
            weights = one_hot(classes, 10).double()
            expected = gradient_of(
                lambda points, weights=weights: cross_entropy(
                    doubled.masked_logits(points, weights), labels, reduction="none"
                ),
                points,
            )
            assert expected.abs().max() > 0
            assert torch.allclose(gradient, expected, rtol=1e-10, atol=1e-14)

    def test_those_of_the_joint_loss_are_those_of_both_passes(
        self, doubled, monkeypatch, images: Tensor, labels: Tensor, threat: ThreatModel
    ) -> None:
        points = images.double()
        objective = objective_of(JointLossAPGD("ce"), monkeypatch, doubled, points, labels, threat)
        gradient = gradient_of(lambda points: objective(points)[1], points)
        of_first = gradient_of(
            lambda points: cross_entropy(doubled.first_logits(points), labels, reduction="none"), points
        )
        of_whole = gradient_of(lambda points: cross_entropy(doubled(points), labels, reduction="none"), points)
        assert torch.allclose(gradient, of_first + of_whole, rtol=1e-8, atol=1e-12)

    def test_those_of_the_identity_are_the_base_model_s_pulled_back_from_the_defended_logits(
        self, doubled, monkeypatch, model: nn.Module, images: Tensor, labels: Tensor, threat: ThreatModel
    ) -> None:
        points = images.double()
        attack = DetachedMaskAPGD("ce", backward="identity")
        objective = objective_of(attack, monkeypatch, doubled, points, labels, threat)
        gradient = gradient_of(lambda points: objective(points)[1], points)
        with torch.no_grad():
            upstream = doubled(points).softmax(dim=1) - one_hot(labels, 10)
        expected = gradient_of(lambda points: (model(points) * upstream).sum(dim=1), points)
        assert torch.allclose(gradient, expected, rtol=1e-8, atol=1e-12)


@pytest.mark.parametrize("name", ["ce", "cw", "dlr"])
def test_losses_are_those_of_their_formulas(name: str) -> None:
    logits = torch.tensor([[2.0, -1.0, 0.5, 1.0], [0.0, 3.0, 1.0, 2.0]], dtype=torch.float64)
    labels = torch.tensor([0, 3])
    expected = {
        "ce": [float(row.exp().sum().log() - row[label]) for row, label in zip(logits, labels, strict=True)],
        "cw": [1.0 - 2.0, 3.0 - 2.0],
        "dlr": [(1.0 - 2.0) / (2.0 - 0.5), (3.0 - 2.0) / (3.0 - 1.0)],
    }[name]
    assert image_losses(name, logits, labels).tolist() == pytest.approx(expected)


class TestStarts:
    @every_started
    def test_every_image_that_a_start_breaks_is_broken(
        self, attack: WarmStartedAttack, result: AttackResult, defend, starts, images, labels
    ) -> None:
        by_start = torch.zeros_like(result.broken)
        for name in attack.sources:
            points, exists = starts[name]
            by_start |= (defend(0.0)(points).argmax(dim=1) != labels) & exists
        assert by_start.any()
        assert result.broken[by_start].all()

    def test_the_climb_starts_at_the_point_or_at_random_in_the_ball(
        self, defend, starts, images, labels, threat: ThreatModel
    ) -> None:
        watched = Watched(defend(0.0))
        attack = WarmStartedAPGD(steps=1, sources=["transfer"])
        run_attack(ready(attack, starts), watched, images, labels, threat)
        rows = torch.tensor([row for row in range(len(images)) if row != MISLABELLED])
        first = watched.images[0]
        given = rows != WITHOUT_TRANSFER
        assert torch.equal(first[given], starts["transfer"][0][rows[given]])
        instead = (first[~given] - images[rows[~given]]).abs()
        assert 0.8 * threat.epsilon < instead.max() <= threat.epsilon + 1e-6
        assert not torch.equal(first[~given], starts["transfer"][0][rows[~given]])

    def test_the_best_start_is_the_one_of_highest_margin(
        self, defend, starts, images, labels, threat: ThreatModel
    ) -> None:
        watched = Watched(defend(0.0))
        run_attack(ready(BestStartAPGD(steps=1, sources=ENDS), starts), watched, images, labels, threat)
        rows = torch.tensor([row for row in range(len(images)) if row != MISLABELLED])
        margins = []
        for name in ENDS:
            points, exists = starts[name]
            logits = defend(0.0)(points)
            true = logits.gather(1, labels[:, None])[:, 0]
            margin = logits.scatter(1, labels[:, None], -torch.inf).amax(dim=1) - true
            margins.append(torch.where(exists, margin, -torch.inf))
        chosen = torch.stack(margins).argmax(dim=0)
        assert set(chosen[rows].tolist()) == {0, 1}
        assert torch.isfinite(torch.stack(margins).amax(dim=0)[rows]).any()
        for place, row in enumerate(rows.tolist()):
            if torch.isfinite(margins[chosen[row]][row]):
                assert torch.equal(watched.images[0][place], starts[ENDS[chosen[row]]][0][row]), row

    def test_every_point_of_the_line_is_on_the_line(self, defend, starts, images, labels, threat) -> None:
        watched = Watched(defend(0.0))
        result = run_attack(ready(LineAPGD("ce", steps=5), starts), watched, images, labels, threat)
        ends = [torch.where(starts[name][1][:, None, None, None], starts[name][0], images) for name in ENDS]
        way = (ends[1] - ends[0]).flatten(1)
        along = (result.adversarial - ends[0]).flatten(1)
        position = (along * way).sum(dim=1) / way.square().sum(dim=1).clamp(min=1e-12)
        position[MISLABELLED], along[MISLABELLED] = 0, 0
        assert position.min() >= -1e-5
        assert position.max() <= 1 + 1e-5
        assert torch.allclose(along, position[:, None] * way, atol=1e-5)
        assert ((position > 0.01) & (position < 0.99)).any()

    def test_a_line_finds_what_only_its_middle_breaks(self, threat: ThreatModel) -> None:
        """On the way from 0.4 to 0.6, in one pixel, only 0.52 to 0.58 is misclassified."""
        images = torch.full((1, 1, 1, 1), 0.5)

        class Middle(nn.Module):
            def forward(self, x: Tensor) -> Tensor:
                inside = 0.03 - (x.flatten(1) - 0.55).abs()
                return torch.cat([torch.zeros_like(inside), inside], dim=1)

        everywhere = torch.ones(1, dtype=torch.bool)
        starts = {"transfer": (images - 0.1, everywhere), "white-box": (images + 0.1, everywhere)}
        for outside in (images, images - 0.1, images + 0.1):
            assert Middle()(outside).argmax(dim=1).tolist() == [0]
        watched = Watched(Middle())
        result = run_attack(LineAPGD("cw", steps=10).starting_from(starts), watched, images, torch.tensor([0]), threat)
        assert result.broken.all()
        assert 0.52 < float(result.adversarial) < 0.58
        # Of the five looks, at 0.4, 0.45, …, 0.6, the climb starts at the one of highest margin.
        assert float(watched.images[0]) == pytest.approx(0.55)

    def test_an_image_without_either_end_is_left_alone(self, defend, starts, images, labels, threat) -> None:
        nowhere = {name: (points, torch.zeros_like(exists)) for name, (points, exists) in starts.items()}
        result = run_attack(LineAPGD(steps=2).starting_from(nowhere), defend(0.0), images, labels, threat)
        assert not result.found.any()
        assert torch.equal(result.adversarial, images)

    def test_without_starts_there_is_no_attack(self, model, images, labels, threat) -> None:
        with pytest.raises(InputError, match=r"needs the points transfer of other attacks; give them with starting"):
            run_attack(WarmStartedAPGD(sources=["transfer"]), model, images, labels, threat)

    def test_the_starts_are_those_of_the_sources(self, starts) -> None:
        with pytest.raises(InputError, match="starts from the points other, but was given transfer, white-box"):
            WarmStartedAPGD(sources=["other"]).starting_from(starts)

    def test_binding_starts_leaves_the_attack_as_it_was(self, starts, model, images, labels, threat) -> None:
        attack = LineAPGD(steps=1)
        attack.starting_from(starts)
        with pytest.raises(InputError, match="needs the points"):
            run_attack(attack, model, images, labels, threat)

    @pytest.mark.parametrize(
        ("spoil", "what"),
        [
            (lambda points, exists: (points[:-1], exists), r"starts must be torch.float32 \[12, 1, 8, 8\]"),
            (lambda points, exists: (points.double(), exists), r"not torch.float64"),
            (lambda points, exists: (points, exists[:-1]), r"exist must be bool \[12\], not torch.bool \[11\]"),
            (lambda points, exists: (points, exists.float()), r"exist must be bool \[12\], not torch.float32"),
            (lambda points, exists: (points.roll(1, dims=0), exists), r"starts lie outside linf 0.15 or \[0, 1\]"),
            (lambda points, exists: (points * float("nan"), exists), "12 of 12 'transfer' starts lie outside"),
            (lambda points, exists: (points - 0.01, exists), "starts lie outside"),
        ],
    )
    def test_starts_that_do_not_belong_to_the_images_are_refused(
        self, spoil, what: str, model, images, labels, threat
    ) -> None:
        spoilt = spoil(images.clone(), torch.ones(len(images), dtype=torch.bool))
        attack = WarmStartedAPGD(steps=1, sources=["transfer"]).starting_from({"transfer": spoilt})
        with pytest.raises(InputError, match=what):
            run_attack(attack, model, images, labels, threat)


class TestEoTSquare:
    @pytest.mark.parametrize("eot", [1, 3])
    def test_every_point_is_asked_for_so_many_times(self, eot: int, model, images, labels, threat) -> None:
        """On an image that holds: a look at the classes, one at the image, then the start and ten points."""
        holds = slice(0, 1)
        result = run_attack(EoTSquare(10, eot=eot), model, images[holds], labels[holds], threat)
        assert not result.broken.any()
        assert int(result.queries) == 2 + 11 * eot + 1  # and the verdict

    def test_with_one_answer_it_is_square(self, model, images, labels, threat) -> None:
        expected = run_attack(Square(30), model, images, labels, threat)
        result = run_attack(EoTSquare(30, eot=1), model, images, labels, threat)
        assert expected.found.any()
        assert torch.equal(result.broken, expected.broken)
        assert torch.equal(result.adversarial[expected.found], expected.adversarial[expected.found])

    def test_the_mean_over_answers_sees_through_noise(self, threat: ThreatModel) -> None:
        """The margin of the brightness, under noise ten times its range: of the mean over answers, a step is judged
        rightly more often, so that the point is darker."""
        images = torch.full((40, 1, 4, 4), 0.5)

        class Bright(nn.Module):
            noise = Generator().manual_seed(1)

            def forward(self, x: Tensor) -> Tensor:
                noise = torch.randn(len(x), generator=self.noise)
                right = 10 + x.mean(dim=(1, 2, 3)) + noise
                return torch.stack([right, torch.zeros_like(right)], dim=1)

        labels = torch.zeros(40, dtype=torch.int64)
        once = run_attack(EoTSquare(30, eot=1), Bright(), images, labels, threat)
        averaged = run_attack(EoTSquare(30, eot=100), Bright(), images, labels, threat)
        assert averaged.adversarial.mean() < once.adversarial.mean() - 0.01
