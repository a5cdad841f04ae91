"""SODEF: a neural ODE between features and classifier, trained so that features are its stable equilibria.

z(0) = Q a(x),  dz/dt = f(z) = sin(−(W z + b)),  logits = V z(T) + v
(Kang, Song, Ding & Tay, "Stable Neural ODE with Lyapunov-Stable Equilibrium Points for Defending Against Adversarial
Attacks", NeurIPS 2021). Architecture, three training stages and constants are those of the authors' CIFAR-10 code.
"""

import copy
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from igd_ray.defenses.base import Defense
from igd_ray.defenses.registry import Arguments, DefenseKind, Parts, Run, as_settings, register
from igd_ray.defenses.specs import DefenseSpec
from igd_ray.errors import InputError
from igd_ray.models.anatomy.layers import PENULTIMATE, Layer, find_layer, recorded

Dynamics = Callable[[Tensor], Tensor]
State = Mapping[str, Tensor]
Stage = Literal["projection", "stability", "classifier"]

# Weights that make up the trained head.
WEIGHTS = ("projection", "dynamics.weight", "dynamics.bias", "classifier.weight", "classifier.bias")


@dataclass(frozen=True)
class SodefTraining:
    """Settings of the training; by default the authors', for CIFAR-10.

    Attributes:
        dimensions: D, of the ODE's state.
        projection_epochs, stability_epochs, classifier_epochs: length of the three stages.
        batch_size: in the first and the last stage.
        stability_batch_size: in the second.
        projection_learning_rate, stability_learning_rate, classifier_learning_rate: of Adam.
        jacobians: features of each batch whose Jacobian is regularised.
        equilibrium_weight, diagonal_weight, dominance_weight: of the regularisers.
        time: T, where the ODE's solution is read.
        steps: equal Runge–Kutta steps from 0 to T.

    Raises:
        InputError: if a value is out of range.
    """

    dimensions: int = 64
    projection_epochs: int = 5
    stability_epochs: int = 20
    classifier_epochs: int = 10
    batch_size: int = 128
    stability_batch_size: int = 32
    projection_learning_rate: float = 0.01
    stability_learning_rate: float = 0.01
    classifier_learning_rate: float = 0.01
    jacobians: int = 16
    equilibrium_weight: float = 0.1
    diagonal_weight: float = 10.0
    dominance_weight: float = 0.0
    time: float = 5.0
    steps: int = 50

    def __post_init__(self) -> None:
        for name in ("dimensions", "classifier_epochs", "batch_size", "stability_batch_size", "jacobians", "steps"):
            if getattr(self, name) < 1:
                raise InputError(f"sodef: {name} must be at least 1, not {getattr(self, name)}")
        for name in ("projection_epochs", "stability_epochs"):
            if getattr(self, name) < 0:
                raise InputError(f"sodef: {name} must be at least 0, not {getattr(self, name)}")
        for name in ("projection_learning_rate", "stability_learning_rate", "classifier_learning_rate", "time"):
            if not 0 < getattr(self, name) < math.inf:
                raise InputError(f"sodef: {name} must be positive, not {getattr(self, name)}")
        for name in ("equilibrium_weight", "diagonal_weight", "dominance_weight"):
            if not 0 <= getattr(self, name) < math.inf:
                raise InputError(f"sodef: {name} must be at least 0, not {getattr(self, name)}")

    @property
    def epochs(self) -> int:
        """All epochs."""
        return self.projection_epochs + self.stability_epochs + self.classifier_epochs

    def stage(self, epoch: int) -> Stage:
        """Return the stage that `epoch`, counted from 0, belongs to."""
        if epoch < self.projection_epochs:
            return "projection"
        return "stability" if epoch < self.projection_epochs + self.stability_epochs else "classifier"


class SodefHead(nn.Module):
    """The trained part: penultimate features [B, N], or [B, N, 1, 1], to logits [B, C].

    The solver takes equal steps (torchdiffeq's fourth-order Runge–Kutta, 3/8 rule): an adaptive solver chooses its
    steps for the whole batch, so that an image's logits would depend on its neighbours. Gradients flow through the
    steps themselves.

    Args:
        state: holds the `WEIGHTS`, and "time" and "steps": what `train_epoch` returns.

    Raises:
        InputError: if one is missing, or the shapes do not fit together.
    """

    projection: nn.Parameter
    dynamics_weight: nn.Parameter
    dynamics_bias: nn.Parameter
    classifier_weight: nn.Parameter
    classifier_bias: nn.Parameter

    def __init__(self, state: State) -> None:
        super().__init__()
        missing = [name for name in (*WEIGHTS, "time", "steps") if name not in state]
        if missing:
            raise InputError(f"the state of a SODEF training lacks {', '.join(missing)}")
        shapes = [list(state[name].shape) for name in WEIGHTS]
        dimensions, classes = state["projection"].shape[0], state["classifier.weight"].shape[0]
        expected = [shapes[0], [dimensions, dimensions], [dimensions], [classes, dimensions], [classes]]
        if len(shapes[0]) != 2 or shapes != expected:
            raise InputError(f"the shapes of {', '.join(WEIGHTS)} must be {expected}, not {shapes}")
        self.time = float(state["time"])
        self.steps = int(state["steps"])
        for name in WEIGHTS:
            self.register_parameter(name.replace(".", "_"), nn.Parameter(state[name].clone(), requires_grad=False))
        self.eval()

    @property
    def width(self) -> int:
        """N, the number of features."""
        return int(self.projection.shape[1])

    def forward(self, features: Tensor) -> Tensor:
        """Return the logits [B, C] of features [B, N] or [B, N, 1, 1].

        Raises:
            InputError: if the features are not of width N.
        """
        flat = features.flatten(1)
        if flat.shape[1] != self.width:
            raise InputError(f"SODEF was trained on {self.width} features, not {flat.shape[1]}")
        z = integrate(self.dynamics, functional.linear(flat, self.projection), time=self.time, steps=self.steps)
        return functional.linear(z, self.classifier_weight, self.classifier_bias)

    def dynamics(self, z: Tensor) -> Tensor:
        """Return f(z), [..., D], of states z [..., D]."""
        return sine_dynamics(z, self.dynamics_weight, self.dynamics_bias)

    def extra_repr(self) -> str:
        """Return the settings shown by `repr`."""
        dimensions, classes = len(self.projection), len(self.classifier_bias)
        return f"{self.width} -> {dimensions} -> {classes}, time={self.time:g}, steps={self.steps}"


class SodefDefense(Defense):
    """A base model, unchanged, whose classifier is replaced by a trained `SodefHead`.

    Args:
        model: the base model: [0, 1] images to logits [B, C], in eval mode.
        head: trained on the features of this model; copied, on the model's device and in its dtype.
        layer: "penultimate", or that layer, found before.

    Raises:
        InputError: for another layer, or one whose width is not the head's.
    """

    head: SodefHead

    def __init__(self, model: nn.Module, head: SodefHead, *, layer: str | Layer = PENULTIMATE) -> None:
        super().__init__(model)
        name = layer if isinstance(layer, str) else layer.name
        if name != PENULTIMATE:
            raise InputError(f"sodef replaces the classifier, so its layer is {PENULTIMATE!r}, not {name!r}")
        if isinstance(layer, Layer):
            _require_width(head, layer)
        self.head = copy.deepcopy(head)
        parameter = next(model.parameters(), None)
        if parameter is not None:
            self.head.to(device=parameter.device, dtype=parameter.dtype)
        self._layer = layer
        self.eval()

    def forward(self, x: Tensor) -> Tensor:
        """Return the defended logits [B, C] of images [B, channels, H, W] in [0, 1]."""
        if isinstance(self._layer, str):
            found = find_layer(self.model, self._layer, x[:1].detach())
            _require_width(self.head, found)
            self._layer = found
        with recorded(self.model, self._layer) as activations:
            self.model(x)
        return self.head(activations[0])  # type: ignore[no-any-return]


def sine_dynamics(z: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """Return f(z) = sin(−(W z + b)), [..., D]: the authors' one layer, which does not depend on time.

    >>> sine_dynamics(torch.tensor([0.5, -0.5]), torch.eye(2), torch.zeros(2))
    tensor([-0.4794,  0.4794])
    """
    return torch.sin(-functional.linear(z, weight, bias))


def integrate(dynamics: Dynamics, z: Tensor, *, time: float, steps: int) -> Tensor:
    """Return z(T), [B, D], of dz/dt = f(z) from z(0) = `z`, by `steps` equal Runge–Kutta steps.

    The solution of dz/dt = −z is z(0)·exp(−T), here exp(−1) = 0.3679:

    >>> integrate(torch.neg, torch.ones(1, 1), time=1.0, steps=10)
    tensor([[0.3679]])
    """
    # Imported here, as it waits for all of SciPy.
    from torchdiffeq import odeint

    times = torch.linspace(0, time, steps + 1, dtype=z.dtype, device=z.device)
    solution: Tensor = odeint(
        lambda _time, state: dynamics(state),
        z,
        times[[0, -1]],
        method="rk4",
        options={"grid_constructor": lambda _dynamics, _start, _times: times},
    )
    return solution[-1]


def _require_width(head: SodefHead, layer: Layer) -> None:
    if layer.width != head.width:
        raise InputError(f"SODEF was trained on {head.width} features, layer {layer.name!r} has {layer.width}")


@register
class SodefKind(DefenseKind):
    """`sodef`."""

    name = "sodef"
    arguments = SodefTraining
    is_trained = True

    def settle(self, arguments: Arguments, run: Run) -> Arguments:
        """Return the id of the training with these settings, which stands for them."""
        return {"training": run.train_sodef(SodefTraining(**as_settings(arguments)))}

    def layer(self, run: Run) -> Layer | None:
        """Return the penultimate layer, behind which the classifier is replaced."""
        return run.layer(PENULTIMATE)

    def build(self, spec: DefenseSpec, parts: Parts) -> SodefDefense:
        """Return the model with the trained head."""
        assert spec.layer is not None
        assert parts.trained is not None
        return SodefDefense(parts.model, SodefHead(parts.trained), layer=spec.layer)
