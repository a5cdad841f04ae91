"""SODEF: the regularisers against closed forms, the solver against an adaptive one, and a training that resumes."""

import itertools
import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional
from torchdiffeq import odeint

from igd_ray.data import load_images
from igd_ray.defenses.sodef import (
    SodefDefense,
    SodefHead,
    SodefTraining,
    integrate,
)
from igd_ray.defenses.sodef_training import (
    diagonal_penalty,
    distant_rows,
    dominance_penalty,
    equilibrium_penalty,
    initial_state,
    jacobians,
    nearest_orthonormal,
    train_epoch,
)
from igd_ray.errors import InputError
from igd_ray.models import find_layer
from igd_ray.models.anatomy.layers import recorded
from igd_ray.models.demo import demo_model
from tests.toys.models import tiny_images, tiny_model

A = torch.tensor([[-2.0, 0.5, 0.0], [1.0, -3.0, -0.25], [0.0, 0.75, 1.0]], dtype=torch.float64)
Z = torch.tensor([[1.0, 0.0, 2.0], [0.5, -1.0, 0.0]], dtype=torch.float64)

SHORT = SodefTraining(
    dimensions=8,
    projection_epochs=2,
    stability_epochs=2,
    classifier_epochs=2,
    batch_size=16,
    stability_batch_size=16,
    jacobians=4,
    dominance_weight=1.0,
    steps=10,
)


def linear(z: Tensor) -> Tensor:
    """dz/dt = A z, whose Jacobian is A everywhere and whose solution is exp(A t) z(0)."""
    return z @ A.T


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def blobs(n: int = 60, width: int = 12, classes: int = 3) -> tuple[Tensor, Tensor]:
    """Features around one centre a class."""
    generator = seeded(5)
    centres = 3 * torch.randn(classes, width, generator=generator)
    labels = torch.arange(n) % classes
    return centres[labels] + 0.3 * torch.randn(n, width, generator=generator), labels


def trained(settings: SodefTraining, features: Tensor, labels: Tensor, seed: int = 1) -> dict[str, Tensor]:
    state = initial_state(features.shape[1], int(labels.max()) + 1, settings, seed)
    for epoch in range(settings.epochs):
        state = train_epoch(state, features, labels, settings, generator=seeded(epoch), epoch=epoch)
    return state


def head_of(width: int = 32, classes: int = 5, *, dimensions: int = 64, seed: int = 3) -> SodefHead:
    return SodefHead(initial_state(width, classes, SodefTraining(dimensions=dimensions), seed))


# --- the regularisers ---------------------------------------------------------------------------------------------


def test_the_equilibrium_penalty_of_a_linear_function_is_the_mean_of_its_squares() -> None:
    # A z is (−2, 0.5, 2) and (−1.5, 3.5, −0.75).
    squares = (4 + 0.25 + 4 + 2.25 + 12.25 + 0.5625) / 6
    assert equilibrium_penalty(linear, Z).item() == pytest.approx(2500 * squares, rel=1e-12)


def test_the_equilibrium_penalty_is_zero_at_equilibria() -> None:
    assert equilibrium_penalty(linear, torch.zeros(4, 3, dtype=torch.float64)).item() == 0


def test_the_jacobian_of_a_linear_function_is_its_matrix_at_every_state() -> None:
    assert torch.equal(jacobians(linear, Z), torch.stack([A, A]))


def test_the_diagonal_penalty_of_a_linear_function_depends_on_its_diagonal_only() -> None:
    expected = (math.exp(-2 + 1) + math.exp(-3 + 1) + math.exp(1 + 1)) / 3
    assert diagonal_penalty(jacobians(linear, Z)).item() == pytest.approx(expected, rel=1e-12)


def test_the_dominance_penalty_of_a_linear_function_compares_columns_with_the_diagonal() -> None:
    # Columns: 1 beside 2; 0.5 + 0.75 beside 3; 0.25 beside 1.
    expected = (math.exp(0.1 * (1 - 2 + 1)) + math.exp(0.1 * (1.25 - 3 + 1)) + math.exp(0.1 * (0.25 - 1 + 1))) / 3
    assert dominance_penalty(jacobians(linear, Z)).item() == pytest.approx(expected, rel=1e-12)


def test_jacobians_of_the_trained_dynamics_are_minus_the_cosine_times_the_matrix() -> None:
    head = head_of().double()
    z = torch.randn(4, 64, generator=seeded(), dtype=torch.float64)
    weight, bias = head.dynamics_weight, head.dynamics_bias
    expected = -torch.cos(z @ weight.T + bias)[:, :, None] * weight
    torch.testing.assert_close(jacobians(head.dynamics, z), expected, rtol=1e-12, atol=1e-12)


def test_gradients_flow_through_the_penalties_to_the_dynamics() -> None:
    matrix = A.clone().requires_grad_()
    jacobian = jacobians(lambda z: z @ matrix.T, Z)
    (gradient,) = torch.autograd.grad(diagonal_penalty(jacobian), matrix)
    expected = torch.diag(torch.exp(A.diagonal() + 1) / 3)
    torch.testing.assert_close(gradient, expected, rtol=1e-12, atol=1e-12)


def test_columns_that_the_diagonal_dominates_are_penalised_less_than_one_each() -> None:
    dominant = torch.diag(torch.tensor([-3.0, -3.0])) + torch.tensor([[0.0, 1.0], [1.0, 0.0]])
    assert dominance_penalty(dominant[None]).item() == pytest.approx(math.exp(-0.1), rel=1e-6)
    assert dominance_penalty(dominant.T.flip(0)[None]).item() > 1


# --- the solver ---------------------------------------------------------------------------------------------------


def test_a_linear_equation_is_solved_by_the_matrix_exponential() -> None:
    stable = A - 2 * torch.eye(3, dtype=torch.float64)
    solved = integrate(lambda z: z @ stable.T, Z, time=5.0, steps=200)
    torch.testing.assert_close(solved, Z @ torch.linalg.matrix_exp(5 * stable).T, rtol=1e-4, atol=1e-9)


def test_the_solver_is_of_fourth_order() -> None:
    exact = Z @ torch.linalg.matrix_exp(A).T
    errors = [(integrate(linear, Z, time=1.0, steps=steps) - exact).abs().max().item() for steps in (20, 40)]
    assert 12 < errors[0] / errors[1] < 20


def adaptive_difference(head: SodefHead, features: Tensor) -> float:
    """How far the head's z(T) is from that of an adaptive solver with a tight tolerance, relative to its size."""
    double = head.double()
    z = features.double() @ double.projection.T
    steps = integrate(double.dynamics, z, time=double.time, steps=double.steps)
    times = torch.tensor([0.0, double.time], dtype=torch.float64)
    exact = odeint(lambda _t, state: double.dynamics(state), z, times, method="dopri5", rtol=1e-11, atol=1e-11)[-1]
    return ((steps - exact).abs().max() / exact.abs().max()).item()


@pytest.fixture(scope="module")
def stiff() -> tuple[dict[str, Tensor], Tensor]:
    """A training on small features, which makes for large Jacobians, and the features."""
    features, labels = blobs(n=960, width=96, classes=10)
    settings = SodefTraining(projection_epochs=1, stability_epochs=10, classifier_epochs=1)
    return trained(settings, 0.1 * features, labels), 0.1 * features


def test_the_default_steps_agree_with_an_adaptive_solver_far_beyond_the_authors_tolerance(
    stiff: tuple[dict[str, Tensor], Tensor],
) -> None:
    state, features = stiff
    assert adaptive_difference(SodefHead(state), features) < 1e-6  # the authors' dopri5 ran with a tolerance of 1e-3


def test_five_steps_would_not_do(stiff: tuple[dict[str, Tensor], Tensor]) -> None:
    state, features = stiff
    assert adaptive_difference(SodefHead(state | {"steps": torch.tensor(5)}), features) > 1e-3


def test_the_default_steps_are_stable_for_jacobians_larger_than_training_makes() -> None:
    """Fourth-order Runge–Kutta contracts where it should for h|λ| < 2.785: here for |λ| < 27.8."""
    settings = SodefTraining()

    def growth(rate: float) -> float:
        z = torch.ones(1, 1, dtype=torch.float64)
        return integrate(lambda state: -rate * state, z, time=settings.time, steps=settings.steps).item()

    assert growth(27.0) < 1 < growth(29.0)


# --- the orthogonal layer and the fixed classifier ----------------------------------------------------------------


@pytest.mark.parametrize(("width", "dimensions"), [(128, 64), (64, 64), (20, 64), (5, 3), (1, 8)])
def test_the_projection_has_orthonormal_rows_or_where_features_are_few_columns(width: int, dimensions: int) -> None:
    projection = initial_state(width, 10, SodefTraining(dimensions=dimensions), seed=0)["projection"].double()
    assert projection.shape == (dimensions, width)
    product = projection @ projection.T if width >= dimensions else projection.T @ projection
    torch.testing.assert_close(product, torch.eye(len(product), dtype=torch.float64), rtol=0, atol=1e-6)


def test_few_features_keep_their_distances() -> None:
    features = torch.randn(6, 20, generator=seeded())
    projection = initial_state(20, 10, SodefTraining(), seed=0)["projection"]
    torch.testing.assert_close(
        torch.cdist(features @ projection.T, features @ projection.T), torch.cdist(*[features] * 2)
    )


@given(st.integers(0, 10_000), st.integers(1, 6), st.integers(1, 6))
def test_nothing_orthonormal_is_nearer_than_the_nearest(seed: int, rows: int, columns: int) -> None:
    generator = seeded(seed)
    weight = torch.randn(rows, columns, generator=generator, dtype=torch.float64)
    other = nn.init.orthogonal_(torch.empty(rows, columns, dtype=torch.float64), generator=generator)
    assert (nearest_orthonormal(weight) - weight).norm() <= (other - weight).norm() + 1e-9


@pytest.mark.parametrize("classes", [2, 3, 5, 10, 20])
def test_few_distant_rows_are_a_regular_simplex(classes: int) -> None:
    rows = distant_rows(classes, 64, generator=seeded())
    expected = torch.full((classes, classes), -1 / (classes - 1)).fill_diagonal_(1.0)
    torch.testing.assert_close(rows @ rows.T, expected, rtol=0, atol=1e-5)


def test_many_distant_rows_are_farther_apart_than_random_ones() -> None:
    rows = distant_rows(100, 64, generator=seeded())
    random = functional.normalize(torch.randn(100, 64, generator=seeded()))
    nearest = [(each @ each.T).fill_diagonal_(-1).max().item() for each in (rows, random)]
    assert nearest[0] < 0.2 < nearest[1]


def test_one_class_has_one_row() -> None:
    assert distant_rows(1, 8, generator=seeded()).norm().item() == pytest.approx(1, rel=1e-6)


# --- the head and the defense -------------------------------------------------------------------------------------


def test_a_head_written_out() -> None:
    head = head_of(width=20).double()
    features = torch.randn(7, 20, generator=seeded(), dtype=torch.float64)
    z = features @ head.projection.T
    for _ in range(5000):  # Euler's steps, many of them
        z = z + 0.001 * torch.sin(-(z @ head.dynamics_weight.T + head.dynamics_bias))
    expected = z @ head.classifier_weight.T + head.classifier_bias
    torch.testing.assert_close(head(features), expected, rtol=1e-3, atol=1e-3)


def test_an_image_has_the_same_logits_whatever_its_neighbours() -> None:
    head = head_of().double()
    features = torch.randn(9, 32, generator=seeded(), dtype=torch.float64)
    alone = torch.cat([head(feature[None]) for feature in features])
    torch.testing.assert_close(head(features), alone, rtol=0, atol=1e-12)
    with_giant = head(torch.cat([features, 1000 * features[:1]]))[:-1]
    torch.testing.assert_close(with_giant, alone, rtol=0, atol=1e-12)


def test_the_defense_is_the_head_on_the_penultimate_features() -> None:
    model, x = tiny_model(), tiny_images()
    head = head_of()
    defense = SodefDefense(model, head)
    expected = head(model[:-1](x))
    assert torch.equal(defense(x), expected)
    assert torch.equal(SodefDefense(model, head, layer=find_layer(model, "penultimate", x[:1]))(x), expected)
    assert not torch.allclose(defense(x), model(x))


def test_the_defense_costs_one_pass_of_the_base_model() -> None:
    model, x = tiny_model(), tiny_images()
    defense = SodefDefense(model, head_of(), layer=find_layer(model, "penultimate", x[:1]))
    calls: list[int] = []
    model[0].register_forward_hook(lambda _module, _inputs, output: calls.append(len(output)))
    defense(x)
    assert calls == [len(x)]
    assert defense.forward_passes == 1


def test_gradients_of_the_defense_are_those_of_finite_differences() -> None:
    model = tiny_model().double()
    defense = SodefDefense(model, head_of())
    x = tiny_images(2).double().requires_grad_()
    assert torch.autograd.gradcheck(lambda images: defense(images).sum(dim=0), (x,), eps=1e-5, atol=1e-5)


def test_the_defense_computes_in_the_models_dtype_and_leaves_the_head_alone() -> None:
    head = head_of()
    assert SodefDefense(tiny_model().double(), head)(tiny_images().double()).dtype == torch.float64
    assert SodefDefense(tiny_model(), head)(tiny_images()).dtype == torch.float32
    assert head.projection.dtype == torch.float32


def test_a_head_of_a_1x1_convolution_gives_the_same_as_a_linear_one() -> None:
    convolution = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Conv2d(3, 4, 1), nn.Flatten()).eval()
    line = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(3, 4)).eval()
    head = head_of(width=3, classes=4)
    x = torch.rand(5, 3, 8, 8, generator=seeded())
    assert torch.equal(SodefDefense(convolution, head)(x), SodefDefense(line, head)(x))


def test_the_defense_is_in_eval_mode_has_nothing_to_train_and_leaves_the_global_generator_alone() -> None:
    before = torch.get_rng_state()
    defense = SodefDefense(tiny_model(), head_of())
    defense(tiny_images())
    assert torch.equal(torch.get_rng_state(), before)
    assert not defense.training
    assert not any(parameter.requires_grad for parameter in defense.head.parameters())
    assert "32 -> 64 -> 5, time=5, steps=50" in repr(defense)


def test_other_layers_and_other_widths_are_refused() -> None:
    model, x = tiny_model(), tiny_images()
    with pytest.raises(InputError, match="its layer is 'penultimate', not '3'"):
        SodefDefense(model, head_of(), layer="3")
    with pytest.raises(InputError, match="trained on 31 features, layer 'penultimate' has 32"):
        SodefDefense(model, head_of(width=31), layer=find_layer(model, "penultimate", x[:1]))
    with pytest.raises(InputError, match="trained on 31 features, layer 'penultimate' has 32"):
        SodefDefense(model, head_of(width=31))(x)
    with pytest.raises(InputError, match="trained on 32 features, not 30"):
        head_of()(torch.zeros(2, 30))


def test_a_state_that_is_no_head_is_refused() -> None:
    state = initial_state(32, 5, SodefTraining(), seed=0)
    with pytest.raises(InputError, match=r"lacks dynamics\.bias, time"):
        SodefHead({name: value for name, value in state.items() if name not in ("dynamics.bias", "time")})
    with pytest.raises(InputError, match="must be"):
        SodefHead(state | {"classifier.bias": torch.zeros(6)})


# --- the training -------------------------------------------------------------------------------------------------


def test_stages_follow_each_other() -> None:
    stages = [SHORT.stage(epoch) for epoch in range(SHORT.epochs)]
    assert stages == ["projection"] * 2 + ["stability"] * 2 + ["classifier"] * 2


def test_each_stage_changes_its_own_weights_only() -> None:
    features, labels = blobs()
    state = initial_state(12, 3, SHORT, seed=1)
    for epoch in range(SHORT.epochs):
        after = train_epoch(state, features, labels, SHORT, generator=seeded(epoch), epoch=epoch)
        changed = {
            name.split(".")[0]
            for name in state
            if "." in name or name in ("projection", "targets")
            if not name.startswith("optimizer") and not torch.equal(state[name], after[name])
        }
        assert changed == {{"stability": "dynamics"}.get(SHORT.stage(epoch), SHORT.stage(epoch))}
        state = after


def test_a_stored_state_continues_to_the_same_bits() -> None:
    """What an epoch needs of the past is in the state: copies, as they come from storage, make no difference."""
    features, labels = blobs()
    straight = trained(SHORT, features, labels)
    state = initial_state(12, 3, SHORT, seed=1)
    for epoch in range(SHORT.epochs):
        stored = {name: torch.from_numpy(value.numpy().copy()) for name, value in state.items()}
        state = train_epoch(stored, features, labels, SHORT, generator=seeded(epoch), epoch=epoch)
    assert state.keys() == straight.keys()
    assert all(torch.equal(state[name], straight[name]) for name in state)


def test_moments_are_carried_within_a_stage() -> None:
    """Forgetting them gives another result, so that the test before means something."""
    features, labels = blobs()
    state = initial_state(12, 3, SHORT, seed=1)
    first = train_epoch(state, features, labels, SHORT, generator=seeded(0), epoch=0)
    assert int(first["optimizer.projection.step"]) == 4
    kept = train_epoch(first, features, labels, SHORT, generator=seeded(1), epoch=1)
    assert int(kept["optimizer.projection.step"]) == 8
    without = {name: value for name, value in first.items() if not name.startswith("optimizer.")}
    forgotten = train_epoch(without, features, labels, SHORT, generator=seeded(1), epoch=1)
    assert not torch.equal(kept["projection"], forgotten["projection"])


def test_an_epoch_changes_neither_its_state_nor_the_global_generator() -> None:
    features, labels = blobs()
    state = initial_state(12, 3, SHORT, seed=1)
    copies = {name: value.clone() for name, value in state.items()}
    before = torch.get_rng_state()
    for epoch in range(SHORT.epochs):
        after = train_epoch(state, features, labels, SHORT, generator=seeded(epoch), epoch=epoch)
        assert all(torch.equal(state[name], copies[name]) for name in state)
        state, copies = after, {name: value.clone() for name, value in after.items()}
    assert torch.equal(torch.get_rng_state(), before)


def test_the_first_step_of_the_stability_stage_is_adams_on_the_three_penalties() -> None:
    features, labels = blobs(n=10)
    settings = SodefTraining(dimensions=4, projection_epochs=0, stability_epochs=1, dominance_weight=2.0)
    state = initial_state(12, 3, settings, seed=1)
    after = train_epoch(state, features, labels, settings, generator=seeded(), epoch=0)
    weight = state["dynamics.weight"].clone().requires_grad_()
    z = features @ state["projection"].T
    f = torch.sin(-(z @ weight.T + state["dynamics.bias"]))
    jacobian = -torch.cos(z @ weight.T + state["dynamics.bias"])[:, :, None] * weight
    # Ten features are one batch, all of whose Jacobians count.
    loss = 0.1 * (50 * f).square().mean() + 10 * diagonal_penalty(jacobian) + 2 * dominance_penalty(jacobian)
    (gradient,) = torch.autograd.grad(loss, weight)
    # Adam's first step is the rate times g / (|g| + ε).
    expected = state["dynamics.weight"] - 0.01 * gradient / (gradient.abs() + 1e-3)
    torch.testing.assert_close(after["dynamics.weight"], expected, rtol=1e-4, atol=1e-5)
    assert after["loss"].item() == pytest.approx(loss.item(), rel=1e-5)


def test_training_lowers_the_penalties_and_learns_the_classes() -> None:
    features, labels = blobs()
    settings = SodefTraining(dimensions=8, classifier_epochs=20, batch_size=16, classifier_learning_rate=0.05)
    before = SodefHead(initial_state(12, 3, settings, seed=1))
    state = trained(settings, features, labels)
    after = SodefHead(state)

    def objective(head: SodefHead) -> float:
        z = features @ state["projection"].T
        penalty = 0.1 * equilibrium_penalty(head.dynamics, z) + 10 * diagonal_penalty(jacobians(head.dynamics, z))
        return penalty.item()

    assert objective(after) < 0.5 * objective(before)
    assert (after(features).argmax(dim=1) == labels).float().mean() == 1
    assert state["accuracy"].item() > 0.9


def test_loss_and_accuracy_are_those_of_the_epoch() -> None:
    """With one batch the classifier's epoch sees its start only, so that both can be computed beforehand."""
    features, labels = blobs(n=12)
    settings = SodefTraining(dimensions=8, projection_epochs=0, stability_epochs=0, classifier_epochs=1)
    state = initial_state(12, 3, settings, seed=1)
    logits = SodefHead(state)(features)
    after = train_epoch(state, features, labels, settings, generator=seeded(), epoch=0)
    assert after["loss"].item() == pytest.approx(functional.cross_entropy(logits, labels).item(), rel=1e-5)
    assert after["accuracy"].item() == pytest.approx((logits.argmax(dim=1) == labels).float().mean().item())


def test_epochs_out_of_order_are_refused() -> None:
    features, labels = blobs()
    state = initial_state(12, 3, SHORT, seed=1)
    with pytest.raises(InputError, match="epoch 1 of 6 cannot follow a state of 0 epochs"):
        train_epoch(state, features, labels, SHORT, generator=seeded(), epoch=1)
    done = trained(SHORT, features, labels)
    with pytest.raises(InputError, match="epoch 6 of 6 cannot follow"):
        train_epoch(done, features, labels, SHORT, generator=seeded(), epoch=6)


def test_training_without_images_is_refused() -> None:
    state = initial_state(12, 3, SHORT, seed=1)
    with pytest.raises(InputError, match="at least one training image"):
        train_epoch(state, torch.zeros(0, 12), torch.zeros(0, dtype=torch.int64), SHORT, generator=seeded(), epoch=0)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *itertools.product(["dimensions", "classifier_epochs", "batch_size", "jacobians", "steps"], [0, -1]),
        *itertools.product(["projection_epochs", "stability_epochs"], [-1]),
        *itertools.product(["stability_learning_rate", "time"], [0.0, -1.0, math.inf, math.nan]),
        *itertools.product(["equilibrium_weight", "diagonal_weight", "dominance_weight"], [-1.0, math.nan]),
    ],
)
def test_settings_out_of_range_are_refused(name: str, value: float) -> None:
    with pytest.raises(InputError, match=f"sodef: {name} must be"):
        SodefTraining(**{name: value})


def test_the_demo_model_keeps_its_clean_accuracy() -> None:
    model = demo_model()
    train, test = load_images("digits", split="train"), load_images("digits", split="test")
    layer = find_layer(model, "penultimate", test.images[:1])
    with recorded(model, layer) as activations, torch.no_grad():
        model(train.images)
    settings = SodefTraining(stability_epochs=5)
    state = trained(settings, activations[0].flatten(1), train.labels)
    with torch.no_grad():
        accuracies = [
            (defended(test.images).argmax(dim=1) == test.labels).double().mean().item()
            for defended in (SodefDefense(model, SodefHead(state)), model)
        ]
    assert accuracies[0] >= accuracies[1] - 0.03
