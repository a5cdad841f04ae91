"""The training of SODEF's head, in three stages: the projection, the stable dynamics, the classifier.

Stages, regularisers and constants are those of the authors' CIFAR-10 code (Kang, Song, Ding & Tay, NeurIPS 2021).
"""

import math
from collections.abc import Iterator, Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional

from igd_ray.defenses.sodef import Dynamics, SodefTraining, Stage, State, integrate, sine_dynamics
from igd_ray.errors import InputError

# The authors' regularisers: mean (50 |f|)², mean exp(J_ii + 1), mean exp(0.1 (Σ_{i≠j} |J_ij| − |J_jj| + 1)).
EQUILIBRIUM_SCALE = 50.0
MARGIN = 1.0
DOMINANCE_EXPONENT = 0.1

# What each stage trains, and the ε of the authors' Adam (with AMSGrad) there.
TRAINED: Mapping[Stage, tuple[str, ...]] = {
    "projection": ("projection",),
    "stability": ("dynamics.weight", "dynamics.bias"),
    "classifier": ("classifier.weight", "classifier.bias"),
}
ADAM_EPSILON: Mapping[Stage, float] = {"projection": 1e-2, "stability": 1e-3, "classifier": 1e-4}

# Features integrated at a time where no gradient is needed.
CHUNK = 2048

# Steps in which the rows of `distant_rows` repel each other, and how strongly only the nearest ones count.
REPULSION_STEPS = 200
REPULSION_SHARPNESS = 5.0
REPULSION_STEP_SIZE = 0.3


def equilibrium_penalty(dynamics: Dynamics, z: Tensor) -> Tensor:
    """Return mean (50 |f_i(z)|)² over states z [B, D]: zero where every state is an equilibrium.

    >>> equilibrium_penalty(torch.neg, torch.tensor([[0.0, 0.02]]))
    tensor(0.5000)
    """
    return (EQUILIBRIUM_SCALE * dynamics(z)).square().mean()


def jacobians(dynamics: Dynamics, z: Tensor) -> Tensor:
    """Return J[b, i, j] = ∂f_i/∂z_j, [B, D, D], at states z [B, D]; gradients flow through it.

    >>> jacobians(torch.square, torch.tensor([[1.0, 3.0]]))
    tensor([[[2., 0.],
             [0., 6.]]])
    """
    jacobian: Tensor = torch.func.vmap(torch.func.jacrev(dynamics))(z)
    return jacobian


def diagonal_penalty(jacobian: Tensor) -> Tensor:
    """Return mean exp(J_ii + 1) over Jacobians [B, D, D]: small where the diagonal is negative.

    >>> diagonal_penalty(torch.tensor([[[-1.0, 5.0], [5.0, -1.0]]]))
    tensor(1.)
    """
    return torch.exp(jacobian.diagonal(dim1=1, dim2=2) + MARGIN).mean()


def dominance_penalty(jacobian: Tensor) -> Tensor:
    """Return mean exp(0.1 (Σ_{i≠j} |J_ij| − |J_jj| + 1)) over the columns j of Jacobians [B, D, D].

    With a negative diagonal that dominates its columns, every eigenvalue has a negative real part (Gershgorin).

    >>> dominance_penalty(torch.tensor([[[-3.0, 2.0], [2.0, -3.0]]]))
    tensor(1.)
    """
    size = jacobian.abs()
    diagonal = size.diagonal(dim1=1, dim2=2)
    return torch.exp(DOMINANCE_EXPONENT * (size.sum(dim=1) - 2 * diagonal + MARGIN)).mean()


def nearest_orthonormal(weight: Tensor) -> Tensor:
    """Return the matrix nearest to `weight` [D, N] with orthonormal rows (D ≤ N) or columns (D > N).

    >>> nearest_orthonormal(torch.tensor([[3.0, 0.0], [0.0, 0.5]])).round(decimals=4)
    tensor([[1., 0.],
            [0., 1.]])
    """
    left, _, right = torch.linalg.svd(weight, full_matrices=False)
    nearest: Tensor = left @ right
    return nearest


def distant_rows(classes: int, dimensions: int, *, generator: torch.Generator) -> Tensor:
    """Return unit vectors, float32 [C, D], far from each other: the first stage's fixed classifier.

    From a random start the rows repel each other. With few classes, as in CIFAR-10, they end as a regular simplex:
    every cosine is −1/(C − 1), which no arrangement beats. The authors read such a matrix from a file.

    >>> rows = distant_rows(3, 2, generator=torch.Generator().manual_seed(0))
    >>> (rows @ rows.T).round(decimals=3)
    tensor([[ 1.0000, -0.5000, -0.5000],
            [-0.5000,  1.0000, -0.5000],
            [-0.5000, -0.5000,  1.0000]])
    """
    rows = torch.randn(classes, dimensions, generator=generator, dtype=torch.float64)
    rows = functional.normalize(rows)
    itself = torch.eye(classes, dtype=torch.bool)
    for _ in range(REPULSION_STEPS if classes > 1 else 0):
        nearness = torch.softmax((REPULSION_SHARPNESS * rows @ rows.T).masked_fill(itself, -math.inf), dim=1)
        rows = functional.normalize(rows - REPULSION_STEP_SIZE * nearness @ rows)
    return rows.to(torch.float32)


def initial_state(width: int, classes: int, settings: SodefTraining, seed: int) -> dict[str, Tensor]:
    """Return what training starts from: named CPU tensors, the parameters float32.

    The projection has orthonormal rows, or orthonormal columns where N < D, so that it keeps all of the features.

    Args:
        width: N ≥ 1, the number of features.
        classes: C ≥ 1.
        settings: the training's.
        seed: where all of it is drawn from.
    """
    generator = torch.Generator().manual_seed(seed)
    size = settings.dimensions

    def uniform(*shape: int) -> Tensor:
        return (2 * torch.rand(*shape, generator=generator) - 1) / math.sqrt(size)

    projection = nn.init.orthogonal_(torch.empty(size, width), generator=generator)
    return {
        "projection": nearest_orthonormal(projection),
        "targets": distant_rows(classes, size, generator=generator),
        "dynamics.weight": uniform(size, size),
        "dynamics.bias": uniform(size),
        "classifier.weight": uniform(classes, size),
        "classifier.bias": uniform(classes),
        "time": torch.tensor(settings.time, dtype=torch.float64),
        "steps": torch.tensor(settings.steps),
        "epochs": torch.tensor(settings.epochs),
        "epoch": torch.tensor(0),
    }


def train_epoch(
    state: State,
    features: Tensor,
    labels: Tensor,
    settings: SodefTraining,
    *,
    generator: torch.Generator,
    epoch: int,
) -> dict[str, Tensor]:
    """Return the state after one more epoch; nothing else is remembered from one epoch to the next.

    First stage: Q, kept orthonormal, by the cross-entropy of fixed distant class vectors. Second: W and b by the
    three regularisers at z(0). Third: V and v by the cross-entropy at z(T). Each trains with what came before frozen.

    Args:
        state: of `initial_state`, or of the epoch before: parameters, and the optimizer's "optimizer.…".
        features: float32 [n, N].
        labels: int64 [n].
        settings: the training's, the same for all epochs.
        generator: where the order of the features comes from, on the CPU.
        epoch: counted from 0.

    Returns:
        Tensors by name, counters on the CPU and the others on the features' device, with the mean "loss" of the
        epoch's images and, in the stages that classify, their "accuracy", a fraction.

    Raises:
        InputError: if the epoch is not the state's next, or there are no features.
    """
    if int(state["epoch"]) != epoch or not epoch < settings.epochs:
        raise InputError(f"epoch {epoch} of {settings.epochs} cannot follow a state of {int(state['epoch'])} epochs")
    if len(features) == 0:
        raise InputError("sodef needs at least one training image")
    stage = settings.stage(epoch)
    device = features.device
    values = {name: tensor.to(device) for name, tensor in state.items()}
    starts = epoch == 0 or settings.stage(epoch - 1) != stage
    trained = {name: values[name].clone().requires_grad_() for name in TRAINED[stage]}
    optimizer = _adam(stage, trained, {} if starts else values, settings)
    with torch.no_grad():
        inputs = _stage_inputs(stage, values, features.to(torch.float32), settings)

    total, correct = torch.zeros(2, dtype=torch.float64, device=device)
    batches = _batches(len(inputs), settings.stability_batch_size if stage == "stability" else settings.batch_size)
    order = torch.randperm(len(inputs), generator=generator).to(device)
    for start, stop in batches:
        rows = order[start:stop]
        if stage == "stability":
            loss = _stability_loss(trained["dynamics.weight"], trained["dynamics.bias"], inputs[rows], settings)
        else:
            if stage == "projection":
                logits = functional.linear(functional.linear(inputs[rows], trained["projection"]), values["targets"])
            else:
                logits = functional.linear(inputs[rows], trained["classifier.weight"], trained["classifier.bias"])
            loss = functional.cross_entropy(logits, labels[rows])
            correct += (logits.argmax(dim=1) == labels[rows]).sum()
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        if stage == "projection":
            with torch.no_grad():
                trained["projection"].copy_(nearest_orthonormal(trained["projection"]))
        total += loss.detach() * (stop - start)

    after = {name: tensor for name, tensor in values.items() if not name.startswith(("optimizer.", "accuracy"))}
    after |= {name: tensor.detach() for name, tensor in trained.items()} | _optimizer_state(optimizer, trained)
    after |= {"epoch": torch.tensor(epoch + 1), "loss": total / len(inputs)}
    return after if stage == "stability" else after | {"accuracy": correct / len(inputs)}


def _stage_inputs(stage: Stage, values: State, features: Tensor, settings: SodefTraining) -> Tensor:
    """Return what the stage's trained part takes: a(x), z(0) or z(T); all before it is frozen."""
    if stage == "projection":
        return features
    z = functional.linear(features, values["projection"])
    if stage == "stability":
        return z

    def dynamics(state: Tensor) -> Tensor:
        return sine_dynamics(state, values["dynamics.weight"], values["dynamics.bias"])

    return torch.cat(
        [integrate(dynamics, part, time=settings.time, steps=settings.steps) for part in torch.split(z, CHUNK)]
    )


def _stability_loss(weight: Tensor, bias: Tensor, z: Tensor, settings: SodefTraining) -> Tensor:
    def dynamics(state: Tensor) -> Tensor:
        return sine_dynamics(state, weight, bias)

    # The batch is in random order, so its first rows are a random subset, as in the authors' code.
    jacobian = jacobians(dynamics, z[: settings.jacobians])
    return (
        settings.equilibrium_weight * equilibrium_penalty(dynamics, z)
        + settings.diagonal_weight * diagonal_penalty(jacobian)
        + settings.dominance_weight * dominance_penalty(jacobian)
    )


def _batches(count: int, size: int) -> Iterator[tuple[int, int]]:
    return ((start, min(start + size, count)) for start in range(0, count, size))


def _adam(stage: Stage, trained: Mapping[str, Tensor], values: State, settings: SodefTraining) -> torch.optim.Adam:
    """Return the stage's optimizer, with the moments that `values` holds."""
    rate = getattr(settings, f"{stage}_learning_rate")
    # One tensor at a time: the fused and batched forms may round differently.
    optimizer = torch.optim.Adam(trained.values(), lr=rate, eps=ADAM_EPSILON[stage], amsgrad=True, foreach=False)
    for name, parameter in trained.items():
        prefix = f"optimizer.{name}."
        moments = {key.removeprefix(prefix): value.clone() for key, value in values.items() if key.startswith(prefix)}
        if moments:
            # Adam counts its steps on the CPU.
            optimizer.state[parameter] = moments | {"step": moments["step"].cpu()}
    return optimizer


def _optimizer_state(optimizer: torch.optim.Adam, trained: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {
        f"optimizer.{name}.{key}": value
        for name, parameter in trained.items()
        for key, value in optimizer.state[parameter].items()
    }
