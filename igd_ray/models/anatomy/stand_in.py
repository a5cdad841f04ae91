"""The gradient of a base model in place of that of a module around it: BPDA with the identity in the backward pass."""

import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate

from igd_ray.errors import InputError


def stand_in_logits(module: nn.Module, model: nn.Module, x: Tensor) -> Tensor:
    """Return the logits of `module`, [B, C], at images `x` [B, channels, H, W], with a stand-in's gradient.

    What `module` does to an image before it gives it to `model` counts as the identity in the backward pass, and as a
    change of size where it changes that; the gradient is that of `model` at what it was given last. A module that has
    `backward_surrogate` gives logits of its own for the backward pass.

    Source: Athalye, Carlini & Wagner, "Obfuscated gradients give a false sense of security", ICML 2018, sec. 4.1.

    Args:
        module: around `model`.
        model: [0, 1] images to logits.
        x: the images.

    Raises:
        InputError: if `module` never calls `model` with the images of `x`, and has no `backward_surrogate`.
    """
    given: list[Tensor] = []
    handle = model.register_forward_pre_hook(lambda _model, inputs: given.append(inputs[0].detach()))
    try:
        with torch.no_grad():
            logits: Tensor = module(x)
    finally:
        handle.remove()
    own = getattr(module, "backward_surrogate", None)
    stand_in: Tensor = _of_model(model, given, x) if own is None else own(x)
    # x − x is 0, and carries the gradient.
    return logits + (stand_in - stand_in.detach())


def _of_model(model: nn.Module, given: list[Tensor], x: Tensor) -> Tensor:
    last = given[-1] if given and len(given[-1]) >= len(x) else torch.cat(given) if given else x[:0]
    if len(last) == 0 or len(last) % len(x):
        raise InputError(
            "it does not give the base model its images, so that nothing stands in for its gradient; define "
            "backward_surrogate(self, x), which returns logits that have one"
        )
    images = x if last.shape[2:] == x.shape[2:] else interpolate(x, last.shape[2:], mode="bilinear")
    # Several draws of a batch follow each other.
    draws = len(last) // len(x)
    images = images.repeat(draws, 1, 1, 1)
    logits: Tensor = model(last + (images - images.detach()))
    return logits.view(draws, len(x), -1).mean(dim=0)
