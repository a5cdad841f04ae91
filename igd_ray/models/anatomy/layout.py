"""Which axis of an activation counts the neurons, told by the modules that make and read it, or by its shape."""

from collections.abc import Sequence
from typing import Any, NamedTuple

from torch import Tensor, nn
from torch.nn.modules import batchnorm, conv, pooling

# Axis of the neurons, by the number of axes of an activation: [B, N], tokens [B, T, N], channels [B, N, H, W].
# Only the last may be otherwise, channels last: [B, H, W, N].
NEURON_AXIS = {2: 1, 3: 2, 4: 1}

CHANNELS_FIRST, CHANNELS_LAST = 1, 3

_SPATIAL = (
    conv._ConvNd,
    batchnorm._NormBase,
    nn.GroupNorm,
    pooling._AvgPoolNd,
    pooling._MaxPoolNd,
    pooling._AdaptiveAvgPoolNd,
    pooling._AdaptiveMaxPoolNd,
)


class Call(NamedTuple):
    """One call of a module: the tensors it was given, by position or keyword, and what it returned."""

    module: nn.Module
    inputs: tuple[Tensor, ...]
    output: Any


def neuron_axis(activation: Tensor, calls: Sequence[Call]) -> int:
    """Return the axis of the neurons of `activation`, the batch axis being 0.

    With four axes it is decided by the modules that return or read this very tensor: convolutions, batch norms and
    pooling see channels first; Linear and LayerNorm see channels last. A module such as a residual block, which
    returns as many values as it gets, keeps its input's layout. Failing that, two equal axes are the image's, and
    failing that, channels come first.

    Args:
        activation: two to four axes.
        calls: all calls of one forward pass, in the order in which they ended.
    """
    if activation.ndim != 4:
        return NEURON_AXIS[activation.ndim]
    return _axis_by_modules(activation, calls) or _axis_by_shape(activation)


def _axis_by_modules(activation: Tensor, calls: Sequence[Call]) -> int | None:
    makers = [call for call in calls if call.output is activation]
    readers = [call for call in calls if any(given is activation for given in call.inputs)]
    for call in (*makers, *readers):
        axis = _axis_of_module(call.module)
        if axis is not None:
            return axis
    for call in makers:
        # Of modules without children, only PyTorch's own are known not to permute the axes.
        known = type(call.module).__module__.startswith("torch.nn.") or any(call.module.children())
        given = call.inputs[0] if call.inputs else activation
        if known and given is not activation and given.shape == activation.shape:
            axis = _axis_by_modules(given, calls)
            if axis is not None:
                return axis
    return None


def _axis_of_module(module: nn.Module) -> int | None:
    if isinstance(module, _SPATIAL):
        return CHANNELS_FIRST
    if isinstance(module, nn.Linear):
        return CHANNELS_LAST
    # Subclasses that normalise the channels of [B, N, H, W] permute in their own forward.
    if type(module).forward is nn.LayerNorm.forward and len(getattr(module, "normalized_shape", ())) == 1:
        return CHANNELS_LAST
    return None


def _axis_by_shape(activation: Tensor) -> int:
    _, first, second, third = activation.shape
    return CHANNELS_LAST if first == second != third else CHANNELS_FIRST
